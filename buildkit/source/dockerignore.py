"""Docker's ignore patterns as regular expressions.

The rules are those of Go's `path.Clean` and the grammar of its `path.Match` (https://pkg.go.dev/path), and docker's own
translation (https://github.com/moby/patternmatcher), whose expressions are the same here, in Python's dialect.
"""

from __future__ import annotations

import posixpath
import re

from buildkit.source.globs import ANYTHING, FOLDERS, NAME_PART, join_parts

_WILDCARDS = {
    "*": NAME_PART,
    "?": "[^/]",
    "^": "^",  # docker passes it to its regular expression, where it is an anchor
}
_REGEX_ESCAPES = frozenset("ABDSWabdfnrstvw")  # after a backslash, docker passes them to its regular expression


def clean_pattern(pattern: str) -> str:
    """Return `pattern` as Go's `path.Clean` does, without the slash that anchors it; an empty pattern stays empty."""
    cleaned = posixpath.normpath(re.sub("^/+", "/", pattern)) if pattern else ""
    return cleaned if cleaned == "/" else cleaned.removeprefix("/")


def translate_pattern(pattern: str) -> str:
    """Return the regular expression that matches what a cleaned pattern matches, without anchors.

    Raises:
        ValueError: Docker refuses the pattern, or matches something else than it says.
    """
    parts: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if pattern.startswith("*", position) and char == "*":
            position += 2 if pattern.startswith("/", position + 1) else 1
            parts.append(FOLDERS if position < len(pattern) else ANYTHING)
        elif char == "[":
            text, position = _translate_class(pattern, position)
            parts.append(text)
        elif char == "\\":
            parts.append(_translate_escape(pattern[position : position + 1]))
            position += 1
        else:
            parts.append(_WILDCARDS.get(char) or re.escape(char))
    return join_parts(parts)


def _translate_escape(char: str) -> str:
    if not char:
        raise ValueError("it ends with a backslash")
    if char in _REGEX_ESCAPES:
        return f"(?a:\\{char})"
    if char == "z":
        return r"\Z"
    if char.isalnum() or not char.isascii():
        raise ValueError(f"`\\{char}` is not an escape; folders are separated by `/`")
    return re.escape(char)


def _translate_class(pattern: str, position: int) -> tuple[str, int]:
    """Return the character class whose `[` is before `position`, and where it ends."""
    negated = pattern.startswith("^", position)
    position += negated
    ranges: list[str] = []
    while not (ranges and pattern.startswith("]", position)):
        low, position = _read_class_char(pattern, position)
        high = low
        if pattern.startswith("-", position):
            high, position = _read_class_char(pattern, position + 1)
        if high < low:
            raise ValueError(f"the range `{low}-{high}` runs backwards")
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    return f"[{'^' if negated else ''}{''.join(ranges)}]", position + 1


def _read_class_char(pattern: str, position: int) -> tuple[str, int]:
    """Return the character at `position`, and the position after it.

    Raises:
        ValueError: Also if docker would read it as part of a regular expression and match something else.
    """
    escaped = pattern.startswith("\\", position)
    position += escaped
    if position + 1 >= len(pattern):
        raise ValueError("a `[` is never closed")
    char = pattern[position]
    if char.isalnum() if escaped else char in "-]*?":
        raise ValueError(f"`{char}` is not allowed there between `[` and `]`")
    return char, position + 1
