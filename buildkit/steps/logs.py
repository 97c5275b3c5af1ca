"""The step that reads a build's log and makes it safe for a terminal."""

from __future__ import annotations

import json
import re
from collections import deque
from typing import TYPE_CHECKING

from buildkit.display import escape_controls
from buildkit.errors import RuntimeBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from buildkit.runtime_api.client import RuntimeApi

TAIL_LINES = 40

# Colours, cursor movements and window titles (ECMA-48): a log is full of them, and escaped they would hide the words.
_TERMINAL_SEQUENCE = re.compile(
    r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]|\x1b\][^\x07\x1b\n]{0,2048}(?:\x07|\x1b\\)|\x1b[@-Z\\^_]"
)
_TEXT_KEYS = ("message", "msg", "log", "text", "line", "content")
_LIST_KEYS = ("logs", "lines", "entries")


def read_logs(api: RuntimeApi, build_id: str) -> Iterator[str] | None:
    """Return the lines of a build's log, safe to show; None where the server has no log.

    Raises:
        RequestFailed: The server does not give it.
    """
    lines = api.build_logs(build_id)
    return None if lines is None else (part for line in lines for part in format_line(line))


def read_tail(
    api: RuntimeApi, build_id: str, *, warn: Callable[[str], None], line_limit: int = TAIL_LINES
) -> list[str]:
    """Return the last lines of a build's log; none where it cannot be read, which says nothing about the build."""
    try:
        return list(deque(read_logs(api, build_id) or (), maxlen=line_limit))
    except RuntimeBuildError as error:
        warn(f"the log cannot be read: {error.message}")
        return []


def format_line(line: str) -> Iterator[str]:
    """Return the lines that one line of an answer stands for: itself, or what a JSON value holds."""
    for text in _unwrap(line.rstrip("\r")):
        for part in text.split("\n"):
            # A progress bar overwrites its line; the last state is what a terminal would show.
            shown = _TERMINAL_SEQUENCE.sub("", part.rstrip("\r")).rpartition("\r")[2]
            yield escape_controls(shown, keep="\t")


def _unwrap(line: str) -> list[str]:
    if not line.lstrip().startswith(("{", "[", '"')):
        return [line]
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return [line]
    if isinstance(value, dict):
        value = next((value[key] for key in _LIST_KEYS if isinstance(value.get(key), list | str)), [value])
    entries = value if isinstance(value, list) else [value]
    return [_say(entry) for entry in entries]


def _say(entry: object) -> str:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict):
        text = next((text for key in _TEXT_KEYS if isinstance(text := entry.get(key), str)), None)
        if text is not None:
            return text.rstrip("\n")
    return json.dumps(entry)
