"""BuildKit's progress: JSON as the lines that `--progress=plain` would give, and what the end of these lines says."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from buildkit.display import escape_controls, strip_sequences
from buildkit.engines.process import format_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LONGEST_RECORD = 16 << 20
_LONGEST_TITLE = 16_384
_SHOWN_LINES = 5
# BuildKit repeats whole RUN instructions; what failed is at the end of the line.
_LINE_BEGINNING, _LINE_END = 60, 140
_FAILED_STEP = re.compile(r"(#\d+ )ERROR: ")
_DIGEST_LINE = re.compile(r"#\d+ sha256:\w+")
# What BuildKit's clients say last when they cannot connect, or lose the connection in the middle of a build; steps say
# nothing after it. A step that takes too long is not among them: its error begins with `failed to solve`.
_CONNECTION_LOST = re.compile(
    r"(?:ERROR|error): (?:[\w ]+: )*(?:rpc error: code = )?Unavailable\b.*|error during connect: .*"
    r"|ERROR: (?:failed to build: )?context deadline exceeded"
)


@dataclass
class _Vertex:
    """A step as far as it has been reported; `rest` is output that no newline has ended yet."""

    number: int
    started: datetime | None = None
    completed: str | None = None
    rest: bytes = b""

    def format(self, text: str) -> str:
        return f"#{self.number} {text}"

    def format_output(self, line: bytes, at: str) -> Iterator[str]:
        seconds = _subtract(at, self.started)
        for text in format_line(line):
            yield self.format(f"{seconds:.3f} {text}")


class JsonProgress:
    """A translation for one build; a line that is not JSON, such as the client's own error, stays as it is.

    With `--progress=rawjson`, the client writes one SolveStatus of BuildKit after another, each on one line or
    indented over several lines (https://github.com/moby/buildkit/blob/master/client/graph.go).
    """

    def __init__(self) -> None:
        self._vertices: dict[str, _Vertex] = {}
        self._begun = bytearray()

    def __call__(self, line: bytes) -> Iterator[str]:
        """Yield the lines for a line of output."""
        is_more = line.startswith((b" ", b"}")) and len(self._begun) <= _LONGEST_RECORD
        if self._begun and not is_more:  # the client was cut off in the middle of a record
            yield from self._translate(self._take_record())
        if not self._begun and not line.startswith(b"{"):
            yield from format_line(line)
            return
        self._begun += line
        if line.endswith(b"}") and not line.startswith(b" "):
            yield from self._translate(self._take_record())

    def _take_record(self) -> bytes:
        record = bytes(self._begun)
        self._begun.clear()
        return record

    def _translate(self, record: bytes) -> Iterator[str]:
        try:
            status = json.loads(record)
        except ValueError:
            yield from format_line(record)
            return
        for entry in status.get("vertexes") or ():
            yield from self._begin(entry)
        for kind, translate in (
            ("statuses", _translate_status),
            ("logs", _translate_log),
            ("warnings", _translate_warning),
            ("vertexes", _end),
        ):
            for entry in status.get(kind) or ():
                if vertex := self._vertices.get(entry.get("vertex") or entry.get("digest")):
                    yield from translate(vertex, entry)

    def _begin(self, entry: dict[str, Any]) -> Iterator[str]:
        if not entry.get("started"):
            return
        vertex = self._vertices.get(entry["digest"])
        if vertex is None:
            vertex = self._vertices[entry["digest"]] = _Vertex(len(self._vertices) + 1)
            yield vertex.format(_flatten(entry["name"]))
        vertex.started = vertex.started or _parse_time(entry["started"])


def _translate_status(vertex: _Vertex, entry: dict[str, Any]) -> Iterator[str]:
    if entry.get("completed"):
        for text in format_line(entry["id"].encode()):
            yield vertex.format(f"{text} done")


def _translate_log(vertex: _Vertex, entry: dict[str, Any]) -> Iterator[str]:
    *lines, vertex.rest = (vertex.rest + base64.b64decode(entry["data"])).split(b"\n")
    for line in lines:
        yield from vertex.format_output(line, entry["timestamp"])


def _translate_warning(vertex: _Vertex, entry: dict[str, Any]) -> Iterator[str]:
    for text in format_line(base64.b64decode(entry.get("short") or "")):
        yield vertex.format(f"WARNING: {text}")


def _end(vertex: _Vertex, entry: dict[str, Any]) -> Iterator[str]:
    completed = entry.get("completed")
    if not completed or completed == vertex.completed:
        return
    vertex.completed = completed
    if vertex.rest:
        yield from vertex.format_output(vertex.rest, completed)
        vertex.rest = b""
    if entry.get("error"):
        is_cancelled = entry["error"].endswith("context canceled")
        yield vertex.format("CANCELED" if is_cancelled else f"ERROR: {_flatten(entry['error'])}")
    elif entry.get("cached"):
        yield vertex.format("CACHED")
    else:
        yield vertex.format(f"DONE {_subtract(completed, vertex.started):.1f}s")


def _flatten(text: str) -> str:
    return escape_controls(strip_sequences(" ".join(text.split())[:_LONGEST_TITLE]))


def _parse_time(text: str) -> datetime:
    """Return a time such as `2025-11-02T12:04:29.123456789Z`; nanoseconds are more than a datetime holds."""
    seconds, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{seconds}.{fraction[:6]:0<6}+00:00")


def _subtract(text: str, started: datetime | None) -> float:
    return max(0.0, (_parse_time(text) - started).total_seconds()) if started else 0.0


def shorten_log(last_lines: Sequence[str]) -> str:
    """Return the last output of the failing step; after it, BuildKit only repeats the step and its exit code."""
    lines = [line for line in map(strip_sequences, last_lines) if line.strip() and not _DIGEST_LINE.fullmatch(line)]
    failed = next((match for line in lines if (match := _FAILED_STEP.match(line))), None)
    if failed:
        step = [line for line in lines if line.startswith(failed[1])]
        lines = step[: step.index(failed.string) + 1]
    return " | ".join(map(_shorten_line, lines[-_SHOWN_LINES:]))


def _shorten_line(line: str) -> str:
    if len(line) <= _LINE_BEGINNING + _LINE_END:
        return line
    return f"{line[:_LINE_BEGINNING]} … {line[-_LINE_END:]}"


def find_lost_connection(last_lines: Sequence[str]) -> str | None:
    """Return the line with which a client says that it has lost its engine, or None."""
    return last_lines[-1] if last_lines and _CONNECTION_LOST.fullmatch(last_lines[-1]) else None
