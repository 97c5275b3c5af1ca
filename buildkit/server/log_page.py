"""What pages show of a log: parts of it, read in constant memory, and its lines as HTML.

Colours become classes through an allowlist, and everything else is escaped or left out.
"""

from __future__ import annotations

from collections import deque
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from buildkit.display import SEQUENCE, escape_controls, strip_sequences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.server.logs import Logs

PAGE_LINES = 1000
MAX_MATCHES = 500
_CHUNK_BYTES = 256 * 1024
_MAX_LINE_BYTES = 64 * 1024
MAX_LINE = 4000
_STYLES = {1: "bold", 2: "dim", 3: "italic", 4: "underline"}
_STYLE_ENDS = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",)}
_COLOURS = {
    **{30 + number: f"fg-{number}" for number in range(8)},
    **{90 + number: f"fg-{number + 8}" for number in range(8)},
    **{40 + number: f"bg-{number}" for number in range(8)},
    **{100 + number: f"bg-{number + 8}" for number in range(8)},
}
_COLOUR_ENDS = {39: "fg-", 49: "bg-"}
# `38;5;N` and `38;2;R;G;B`: how many codes follow the second one.
_EXTENDED, _EXTENDED_LENGTHS = {38, 48, 58}, {5: 1, 2: 3}


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


def render_line(line: str) -> str:
    r"""Return a line of a log as HTML without live markup.

    >>> render_line("\x1b[31m<b>\x1b[0m")
    '<span class="ansi-fg-1">&lt;b&gt;</span>'
    """
    line = line.rstrip("\r\n")
    if len(line) > MAX_LINE:
        line = f"{line[:MAX_LINE]} … (the raw log has {len(line) - MAX_LINE} more characters)"
    parts: list[str] = []
    active: list[str] = []
    start = 0
    for match in SEQUENCE.finditer(line):
        parts.append(_render_text(line[start : match.start()], active))
        if match["codes"] is not None:
            active = _apply(match["codes"], active)
        start = match.end()
    parts.append(_render_text(line[start:], active))
    return "".join(parts)


def strip_ansi(line: str) -> str:
    """Return a line without its colours and with its control characters escaped, for searching and for summaries."""
    return escape_controls(strip_sequences(line.rstrip("\r\n")), keep="\t")


def _render_text(text: str, active: list[str]) -> str:
    safe = escape(escape_controls(text, keep="\t"))
    if not safe or not active:
        return safe
    return f'<span class="{" ".join(f"ansi-{name}" for name in active)}">{safe}</span>'


def _apply(codes: str, active: list[str]) -> list[str]:
    """Return which classes hold after a sequence; codes that are not known change nothing."""
    numbers = [int(code[:4] or 0) for code in codes.split(";")]
    while numbers:
        number = numbers.pop(0)
        if number == 0:
            active = []
        elif number in _EXTENDED:
            length = _EXTENDED_LENGTHS.get(numbers[0], 0) if numbers else 0
            del numbers[: 1 + length]
        elif number in _STYLES:
            active = [name for name in active if name != _STYLES[number]] + [_STYLES[number]]
        elif number in _COLOURS:
            name = _COLOURS[number]
            active = [other for other in active if other[:3] != name[:3]] + [name]
        elif number in _STYLE_ENDS:
            active = [name for name in active if name not in _STYLE_ENDS[number]]
        elif number in _COLOUR_ENDS:
            active = [name for name in active if not name.startswith(_COLOUR_ENDS[number])]
    return active
