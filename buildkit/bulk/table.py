"""The board as people see it: a live table on a terminal, and lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit.bulk.board import format_duration
from buildkit.display import escape_controls

if TYPE_CHECKING:
    from rich.console import RenderableType

    from buildkit.bulk.board import Running, Snapshot

_MAX_ROWS = 20
_NAMED = 4
_SLOW_S = 60.0


def draw(snapshot: Snapshot, pause_s: float) -> RenderableType:
    """Return the table for a terminal.

    Args:
        pause_s: Seconds for which nothing new is begun.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(snapshot.running), header_style="dim")
    for title, ratio in (("image", 3), ("time", None), ("step", 6)):
        table.add_column(title, ratio=ratio, no_wrap=True, overflow="ellipsis")
    for row in snapshot.running[:_MAX_ROWS]:
        table.add_row(Text(row.name), Text(format_duration(row.seconds)), Text(escape_controls(_describe(row))))
    table.expand = True
    if len(snapshot.running) > _MAX_ROWS:
        table.add_row(Text(f"and {len(snapshot.running) - _MAX_ROWS} more", style="dim"))
    failures = [
        Text(f"failed: {name}: {escape_controls(reason)}", style="red", no_wrap=True, overflow="ellipsis")
        for name, reason in snapshot.failures
    ]
    return Group(table, *failures, Text(format_totals(snapshot, pause_s), style="bold"))


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
        parts.append(f"{format_duration(snapshot.left_s)} left")
    if pause_s >= 1:
        parts.append(f"pausing for {format_duration(pause_s)}")
    return ", ".join(parts)


def format_running(snapshot: Snapshot) -> str:
    """Return one line that names what is running, the longest first."""
    rows = [f"{row.name} ({format_duration(row.seconds)}, {_describe(row)})" for row in snapshot.running[:_NAMED]]
    more = len(snapshot.running) - len(rows)
    return "running: " + ", ".join([*rows, *([f"{more} more"] if more > 0 else [])])


def _describe(row: Running) -> str:
    from time import monotonic

    silent_s = monotonic() - row.heard
    silence = f" (silent for {format_duration(silent_s)})" if silent_s >= _SLOW_S else ""
    return f"{row.step}{silence}"
