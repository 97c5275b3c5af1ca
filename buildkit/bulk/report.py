"""What is left of a run: `images.json` for programs, and a table in Markdown for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from buildkit.bulk.board import format_duration
from buildkit.bulk.plan import State
from buildkit.display import escape_controls, format_size
from buildkit.workspace import RESULTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit.bulk.plan import Image

# What fits into GitHub's summary of a step: 1 MiB.
_MAX_SUMMARY_BYTES = 900_000
_MAX_REASON = 300
_ORDER = (State.FAILED, State.WAITING, State.BUILD, State.BUILT, State.PRESENT)


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
