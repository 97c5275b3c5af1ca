"""Docker's globs as regular expressions that match in bounded time, whatever the pattern and the path.

The grammar is that of Go's `path.Match` (https://pkg.go.dev/path#Match) and of docker's own translation
(https://github.com/moby/patternmatcher), whose expressions are the same here, in Python's dialect.

A pattern comes with the source tree, which may be hostile: translated naively, `*a*a*a*a*b` takes years on `aaa…`.
Two facts keep a glob cheap. Once a `*` has matched up to the text after it, a later match of that text cannot reach
anything more if another `*` follows; and if `**/` follows, the first way to reach that folder is the best one. So
neither is ever tried again; an atomic group tells Python's `re` so.
"""

from __future__ import annotations

import re
from itertools import chain, pairwise, product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NAME_PART, _FOLDERS, _ANYTHING = "[^/]*", "(?:.*/)?", ".*"
_ALL_FOLDERS = "(?:.*/)?+"  # where the rest of a pattern matches no slash
_LAZY = {_FOLDERS: "(?:.*?/)??", _ANYTHING: ".*?"}
_FEW = 2  # so few wildcards can be tried in all ways
_MOST_READINGS = 64

_TEXT = r"[^*?\[\]\\]*"
_COMPARED = re.compile(rf"(\*\*/|\*\*|)({_TEXT})|({_TEXT})\*\*")
_STARS = {"**/": [_FOLDERS], "**": [_ANYTHING], "": []}
_WILDCARDS = {
    "*": _NAME_PART,
    "?": "[^/]",
    "^": "^",  # docker passes it to its regular expression, where it is an anchor
}
_REGEX_ESCAPES = frozenset("ABDSWabdfnrstvw")  # after a backslash, docker passes them to its regular expression


def translate_glob(pattern: str) -> str:
    """Return the regular expression that matches what a cleaned pattern matches, without anchors.

    Raises:
        ValueError: Docker refuses the pattern, or matches something else than it says, or not in bounded time.
    """
    compared = _COMPARED.fullmatch(pattern)
    if not compared:
        return _join_parts([*_translate_parts(pattern)])
    # docker compares the text with the beginning or ending of a path: `**.md` is any path that ends with `.md`.
    stars, ending, beginning = compared.groups()
    if beginning is not None:
        return re.escape(beginning) + _ANYTHING
    return _join_parts([*_STARS[stars], *map(re.escape, ending)])


def _translate_parts(pattern: str) -> Iterator[str]:
    """Yield the expression of each wildcard, class or single character."""
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if pattern.startswith("*", position) and char == "*":
            position += 2 if pattern.startswith("/", position + 1) else 1
            yield _FOLDERS if position < len(pattern) else _ANYTHING
        elif char == "[":
            text, position = _translate_class(pattern, position)
            yield text
        elif char == "\\":
            yield _translate_escape(pattern[position : position + 1])
            position += 1
        else:
            yield _WILDCARDS.get(char) or re.escape(char)


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


def _join_parts(parts: Sequence[str]) -> str:
    """Return one expression from those of wildcards and of single characters.

    Raises:
        ValueError: It could not be matched in bounded time.
    """
    # A `**/` is superfluous before another, or before `**`.
    parts = [part for part, after in pairwise([*parts, ""]) if part != _FOLDERS or after not in _LAZY]
    if parts[:1] == [_FOLDERS] and not any(re.fullmatch(part, "/") for part in parts[1:]):
        parts[0] = _ALL_FOLDERS
    if sum(part == _NAME_PART or part in _LAZY for part in parts) <= _FEW:
        return "".join(parts)
    choices = [_list_readings(part, before) for before, part in pairwise(["/", *parts])]
    if 2 ** sum(len(readings) - 1 for readings in choices) > _MOST_READINGS:
        raise ValueError("it has too many wildcards beside classes or a `**` within a name")
    joined = "|".join(_join_reading([*chain(*readings)]) for readings in product(*choices))
    return f"(?:{joined})"


def _list_readings(part: str, before: str) -> list[list[str]]:
    """Return the readings of a part, each of which matches a slash only where it has one."""
    if part == _FOLDERS:
        return [[part]] if before == "/" else [[], [_ANYTHING, "/"]]
    if part in (_NAME_PART, _ALL_FOLDERS, _ANYTHING, "/") or not re.fullmatch(part, "/"):
        return [[part]]
    return [[f"(?!/){part}"], ["/"]]


def _join_reading(parts: Sequence[str]) -> str:
    """Return an expression in which no part is tried again once the next folder is reached."""
    starts = [0, *(number for number in range(1, len(parts)) if parts[number] in _LAZY), len(parts)]
    *groups, last = (parts[start:end] for start, end in pairwise(starts))
    found_once = "".join(f"(?>{_find_once([_LAZY.get(part, part) for part in group])})" for group in groups)
    if _NAME_PART not in last:
        return found_once + "".join(last)
    last_star = len(last) - 1 - last[::-1].index(_NAME_PART)
    return found_once + _find_once(last[:last_star]) + "".join(last[last_star:])


def _find_once(parts: Sequence[str]) -> str:
    """Return an expression in which each `*` ends where the text after it is first found."""
    first, *rest = "".join(parts).split(_NAME_PART)
    return first + "".join(f"(?>[^/]*?{text})" for text in rest)
