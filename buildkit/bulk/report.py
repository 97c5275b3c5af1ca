"""What people and programs see: a live table on a terminal, lines in a log, and what is left of a run."""

from __future__ import annotations

import json
import re
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from buildkit.bulk.plan import State
from buildkit.display import escape_controls, format_duration, format_size
from buildkit.workspace import RESULTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from buildkit.bulk.board import Running, Snapshot
    from buildkit.bulk.plan import Image

# What fits into GitHub's summary of a step: 1 MiB.
_MAX_SUMMARY_BYTES = 900_000
_MAX_REASON = 300
_ORDER = (State.FAILED, State.WAITING, State.BUILD, State.BUILT, State.PRESENT)
_MIN_ROWS, _MAX_ROWS = 3, 20
# Lines of the table that are neither rows nor failures: its head, how many are left out, the totals on two lines.
_OTHER_LINES = 4
_TIME_COLUMNS = len("59 min 59 s") + 2
# What stands before the end of a failed build's log; there is no room for it.
_LOG_END = "its log ends: "
_NAMED = 4
_SLOW_S = 60.0
# What stands between the word RUN and the command in most of our instructions.
_RUN_OPTIONS = re.compile(r"(?<=\bRUN )(?:--\S+ +|set -eu; *\\? *)+")


class LiveTable(NamedTuple):
    """What is running, what has failed and when all of it will be done, as a table that fits the terminal.

    Attributes:
        pause_s: Seconds for which nothing new is begun.
    """

    snapshot: Snapshot
    pause_s: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, failures and totals below it."""
        from rich.table import Table
        from rich.text import Text

        running, failures, width = self.snapshot.running, self.snapshot.failures, options.max_width
        # The names of a set begin alike, so it is their ends that tell them apart.
        names = max(width // 3, min((width - _TIME_COLUMNS) * 2 // 3, 60))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_header=bool(running), expand=True)
        table.add_column("image", no_wrap=True)
        table.add_column("time", no_wrap=True)
        table.add_column("step", ratio=1, no_wrap=True, overflow="ellipsis")
        count = max(_MIN_ROWS, min(_MAX_ROWS, console.height - len(failures) - _OTHER_LINES))
        for row in running[:count]:
            step = escape_controls(_describe_step(row))
            table.add_row(Text(_keep_end(row.name, names)), Text(format_duration(int(row.seconds))), Text(step))
        if len(running) > count:
            table.add_row(Text(f"and {len(running) - count} more", style="dim"))
        yield table
        for name, reason in failures:
            said = reason.partition(_LOG_END)[2] or reason
            text = f"failed: {_keep_end(name, width // 3)}: {escape_controls(said)}"
            yield Text(text, style="red", no_wrap=True, overflow="ellipsis")
        yield Text(format_totals(self.snapshot, self.pause_s), style="bold")


def format_totals(snapshot: Snapshot, pause_s: float = 0.0) -> str:
    """Return one line with the counts, the rate and the time left."""
    left = snapshot.total - snapshot.done - snapshot.failed - len(snapshot.running)
    parts = [
        f"{snapshot.done} of {snapshot.total} done",
        f"{snapshot.failed} failed",
        f"{len(snapshot.running)} running",
        f"{left} to go",
    ]
    if snapshot.per_hour is not None:
        parts.append(f"{snapshot.per_hour:.0f} per hour")
    if snapshot.left_s is not None and left + len(snapshot.running):
        parts.append(f"{format_duration(round(snapshot.left_s))} left")
    if pause_s >= 1:
        parts.append(f"pausing for {format_duration(round(pause_s))}")
    return ", ".join(parts)


def format_running(snapshot: Snapshot) -> str:
    """Return one line that names what is running, the longest first."""
    shown = snapshot.running[:_NAMED]
    rows = [f"{row.name} ({format_duration(int(row.seconds))}, {_describe_step(row)})" for row in shown]
    more = len(snapshot.running) - len(rows)
    return "running: " + ", ".join([*rows, *([f"{more} more"] if more > 0 else [])])


def describe(image: Image) -> dict[str, Any]:
    """Return an image as `images.json` has it."""
    return {
        "name": image.name,
        "base": str(image.entry.base),
        "base_digest": image.base_digest,
        "reference": str(image.reference),
        "tags": list(image.tags),
        "digest": image.digest,
        "status": str(image.state),
        "seconds": image.seconds,
        "bytes_pushed": image.pushed_bytes,
        "error": image.error or None,
    }


def format_results(images: Sequence[Image]) -> str:
    """Return the text of `images.json`."""
    return json.dumps({"schema": 1, "images": [describe(image) for image in images]}, indent=2) + "\n"


def format_summary(images: Sequence[Image]) -> str:
    """Return a table in Markdown: failures first, then what is not done, then the rest."""
    counts = {state: sum(image.state is state for image in images) for state in _ORDER}
    there = sum(image.is_there for image in images)
    parts = [f"{count} {state}" for state, count in counts.items() if count]
    lines = [f"### {there} of {len(images)} images", "", f"{', '.join(parts) or 'nothing to do'}.", ""]
    lines += ["| image | base | status | time | pushed |", "|---|---|---|---:|---:|"]
    size = sum(map(len, lines))
    for number, image in enumerate(sorted(images, key=lambda image: _ORDER.index(image.state))):
        line = _format_row(image)
        size += len(line.encode())
        if size > _MAX_SUMMARY_BYTES:
            lines += ["", f"{len(images) - number} more are in `{RESULTS}`."]
            break
        lines.append(line)
    return "\n".join(lines) + "\n"


def _format_row(image: Image) -> str:
    status = str(image.state)
    if image.error:
        reason = image.error if len(image.error) <= _MAX_REASON else f"{image.error[:_MAX_REASON]}…"
        status = f"**{status}**: {reason}"
    seconds = "" if image.seconds is None else format_duration(image.seconds)
    pushed = "" if image.pushed_bytes is None else format_size(image.pushed_bytes)
    cells = [f"`{image.reference}`" if image.is_there else image.name, str(image.entry.base), status, seconds, pushed]
    return f"| {' | '.join(map(_escape, cells))} |"


def _escape(text: str) -> str:
    """Return text that is one cell of a table, whatever is in it."""
    return escape_controls(text).replace("|", "\\|").replace("<", "&lt;")


def _describe_step(row: Running) -> str:
    silent_s = monotonic() - row.heard
    silence = f" (silent for {format_duration(round(silent_s))})" if silent_s >= _SLOW_S else ""
    return f"{_RUN_OPTIONS.sub('', row.step)}{silence}"


def _keep_end(text: str, width: int) -> str:
    return text if len(text) <= width else f"…{text[1 - width :]}"
