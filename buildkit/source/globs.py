"""Wildcards as regular expressions that match in bounded time, whatever the pattern and the path.

A pattern comes with the source tree, which may be hostile: translated naively, `*a*a*a*a*b` takes years on `aaa…`.
Two facts keep a glob cheap. Once a `*` has matched up to the text after it, a later match of that text cannot reach
anything more if another `*` follows; and if `**/` follows, the first way to reach that folder is the best one. So
neither is ever tried again; an atomic group tells Python's `re` so.
"""

from __future__ import annotations

import re
from itertools import pairwise, product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NAME_PART, FOLDERS, ANYTHING = "[^/]*", "(?:.*/)?", ".*"
_WILD = frozenset({NAME_PART, FOLDERS, ANYTHING})
_LAZY = {NAME_PART: "[^/]*?", FOLDERS: "(?:.*?/)??", ANYTHING: ".*?"}
_FEW = 2  # so few wildcards can be tried in all ways
_MOST_READINGS = 64


def join_parts(parts: Sequence[str]) -> str:
    """Return one expression from the expressions of wildcards and of single characters.

    Raises:
        ValueError: It could not be matched in bounded time.
    """
    merged = list(_merge(parts))
    if sum(part in _WILD for part in merged) <= _FEW:
        return "".join(merged)
    choices = [_list_readings(part, merged[number - 1] if number else "/") for number, part in enumerate(merged)]
    if 2 ** sum(len(readings) - 1 for readings in choices) > _MOST_READINGS:
        raise ValueError("it has too many wildcards beside classes or a `**` within a name")
    joined = [_join_tidy([part for reading in readings for part in reading]) for readings in product(*choices)]
    return joined[0] if len(joined) == 1 else f"(?:{'|'.join(joined)})"


def _merge(parts: Sequence[str]) -> Iterator[str]:
    """Yield the parts without a `**/` that the part after it makes superfluous."""
    for part, following in pairwise([*parts, ""]):
        if part != FOLDERS or following not in (FOLDERS, ANYTHING):
            yield part


def _list_readings(part: str, before: str) -> list[list[str]]:
    """Return the readings of a part, each of which matches a slash only where it has one."""
    if part == FOLDERS:
        return [[part]] if before == "/" else [[], [ANYTHING, "/"]]
    if part in (NAME_PART, ANYTHING, "/") or not re.fullmatch(part, "/"):
        return [[part]]
    return [[f"(?!/){part}"], ["/"]]


def _join_tidy(parts: Sequence[str]) -> str:
    """Return an expression in which no part is tried again once the next folder is reached."""
    starts = [0, *(number for number in range(1, len(parts)) if parts[number] in (FOLDERS, ANYTHING)), len(parts)]
    groups = [parts[start:end] for start, end in pairwise(starts)]
    return "".join(f"(?>{_join_stars(group, _LAZY)})" for group in groups[:-1]) + _join_stars(groups[-1], {})


def _join_stars(parts: Sequence[str], wildcards: dict[str, str]) -> str:
    """Return an expression in which every `*` except the last matches as little as possible, once."""
    stars = [number for number, part in enumerate(parts) if part == NAME_PART]
    joined = []
    for number, part in enumerate(parts):
        once = part == NAME_PART and number != stars[-1]
        opening = "(?>" if once else ""
        closing = ")" if number + 1 in stars[1:] and number not in stars else ""
        joined.append(opening + (_LAZY[part] if once else wildcards.get(part, part)) + closing)
    return "".join(joined)
