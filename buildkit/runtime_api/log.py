"""The log of a build: its lines in constant memory, safe for a terminal."""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING

from buildkit.display import escape_controls, strip_sequences
from buildkit.runtime_api.exchange import ExchangeFailed
from buildkit.runtime_api.response import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_LOG_BYTES = 64 * 1024 * 1024
TOO_LONG = "(the log is longer than 64 MiB; the rest is left out)"
MAX_LINE_CHARS = 1_000_000
_TEXT_KEYS = ("message", "msg", "log", "text", "line", "content")
_LIST_KEYS = ("logs", "lines", "entries")


def split_lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of a text that arrives in pieces; both a line and the whole text have a limit."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest, size = "", 0
    try:
        for piece in pieces:
            size += len(piece)
            *lines, rest = (rest + decoder.decode(piece)).split("\n")
            yield from lines
            if len(rest) > MAX_LINE_CHARS:
                yield rest
                rest = ""
            if size > MAX_LOG_BYTES:
                yield TOO_LONG
                return
    except ExchangeFailed:
        yield from filter(None, [rest])
        yield "(the log breaks off here)"
        return
    if rest:
        yield rest


def format_line(line: str, limit: int | None = None) -> Iterator[str]:
    """Yield the lines that one line of a response stands for: itself, or those in a JSON value.

    Args:
        limit: Characters of each line to look at.
    """
    for text in _unwrap(line.rstrip("\r")):
        for part in text.split("\n"):
            # A progress bar overwrites its line; the last state is what a terminal would show.
            shown = strip_sequences(part.rstrip("\r")).rpartition("\r")[2]
            yield escape_controls(shown[:limit], keep="\t")


def _unwrap(line: str) -> list[str]:
    if not line.lstrip().startswith(("{", "[", '"')):
        return [line]
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return [line]
    if isinstance(value, dict):
        value = next((value[key] for key in _LIST_KEYS if isinstance(value.get(key), list | str)), [value])
    return [_describe(entry) for entry in (value if isinstance(value, list) else [value])]


def _describe(entry: object) -> str:
    if isinstance(entry, dict):
        entry = next((text for key in _TEXT_KEYS if isinstance(text := entry.get(key), str)), entry)
    return describe(entry).rstrip("\n")
