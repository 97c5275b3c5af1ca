"""Parts of a build's log by line number, read in constant memory."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from buildkit.server.ansi import strip_ansi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.server.logs import Logs

PAGE_LINES = 1000
MAX_MATCHES = 500
_CHUNK_BYTES = 256 * 1024
_MAX_LINE_BYTES = 64 * 1024


class Line(NamedTuple):
    """A line of a log and its number, from 1."""

    number: int
    text: str


class LogPart(NamedTuple):
    """Consecutive lines of a log, or those that match a search; `total` counts all its whole lines."""

    lines: list[Line]
    total: int

    @property
    def earlier(self) -> int | None:
        """The first line of the part before this one, or None if this is the first."""
        first = self.lines[0].number if self.lines else 1
        return max(1, first - PAGE_LINES) if first > 1 else None

    @property
    def later(self) -> int | None:
        """The first line of the part after this one, or None if this is the last."""
        last = self.lines[-1].number if self.lines else self.total
        return last + 1 if last < self.total else None


def read_part(logs: Logs, build_id: str, first: int | None, end: int) -> LogPart:
    """Return the part of a log that starts at line `first`, or its last part if that is None.

    Args:
        end: How many bytes of the log are read.
    """
    number, lines = 0, deque[Line](maxlen=PAGE_LINES)
    for number, text in enumerate(iter_lines(logs, build_id, end), 1):
        if first is None or first <= number < first + PAGE_LINES:
            lines.append(Line(number, text))
    return LogPart(list(lines), number)


def search_log(logs: Logs, build_id: str, text: str) -> LogPart:
    """Return the first lines that contain a text, in any case."""
    wanted, number = text.casefold(), 0
    lines: list[Line] = []
    for number, line in enumerate(iter_lines(logs, build_id), 1):
        if len(lines) < MAX_MATCHES and wanted in strip_ansi(line).casefold():
            lines.append(Line(number, line))
    return LogPart(lines, number)


class LogPosition(NamedTuple):
    """A place in a log, at the beginning of a line: the bytes and the lines before it."""

    offset: int
    line: int


class NewLines(NamedTuple):
    """What a log has gained; `is_last` is whether nothing more will come."""

    lines: list[Line]
    offset: int
    is_last: bool


def read_new(logs: Logs, build_id: str, after: LogPosition, *, is_ended: bool) -> NewLines:
    """Return the whole lines after a position, up to 256 KiB of them.

    Args:
        is_ended: Whether the build had ended before this was called, so that a last line without an end counts.
    """
    chunk = logs.read(build_id, after.offset, _CHUNK_BYTES)
    is_rest = len(chunk) < _CHUNK_BYTES
    size = chunk.rfind(b"\n") + 1
    if (is_ended and is_rest) or (not size and not is_rest):
        size = len(chunk)
    texts = chunk[:size].decode("utf-8", "replace").removesuffix("\n").split("\n") if size else []
    lines = [Line(number, text) for number, text in enumerate(texts, after.line + 1)]
    return NewLines(lines, after.offset + size, is_last=is_ended and is_rest)


def read_raw(logs: Logs, build_id: str, end: int | None = None) -> Iterator[bytes]:
    """Yield a log as it is, up to byte `end`."""
    offset = 0
    while chunk := logs.read(build_id, offset, _CHUNK_BYTES if end is None else min(_CHUNK_BYTES, end - offset)):
        offset += len(chunk)
        yield chunk


def iter_lines(logs: Logs, build_id: str, end: int | None = None) -> Iterator[str]:
    """Yield the lines of a log up to byte `end`; one that is longer than 64 KiB is cut off."""
    rest = b""
    for chunk in read_raw(logs, build_id, end):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line[:_MAX_LINE_BYTES].decode("utf-8", "replace")
        rest = rest[:_MAX_LINE_BYTES]
    if rest:
        yield rest.decode("utf-8", "replace")
