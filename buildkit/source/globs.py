"""Wildcards as regular expressions that end in time, whatever the pattern and the path.

A pattern comes with the source tree, which may be hostile: written down plainly, `*a*a*a*a*b` takes years on `aaa…`.
Two facts keep a glob cheap. Where a `*` has matched up to the text behind it, a later match of that text can reach
nothing more when another `*` follows; and where `**/` follows, the first way to get to that folder is the best one. So
neither is ever tried again, which an atomic group says to Python's `re`.
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
_FEW = 2  # So many wildcards can be tried in all ways.
_MOST_READINGS = 64


def join_parts(parts: Sequence[str]) -> str:
    """Return one expression from the expressions of wildcards and of single characters.

    Raises:
        ValueError: It could not be decided in time.
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
    """Yield the parts without a `**/` that the part behind it makes superfluous."""
    for part, following in pairwise([*parts, ""]):
        if part != FOLDERS or following not in (FOLDERS, ANYTHING):
            yield part


def _list_readings(part: str, before: str) -> list[list[str]]:
    """Return what a part can stand for, so that each reading matches a slash only where it says so."""
    if part == FOLDERS:
        return [[part]] if before == "/" else [[], [ANYTHING, "/"]]
    if part in (NAME_PART, ANYTHING, "/") or not re.fullmatch(part, "/"):
        return [[part]]
    return [[f"(?!/){part}"], ["/"]]


def _join_tidy(parts: Sequence[str]) -> str:
    """Return the expression of parts none of which is tried again once the next folder is reached."""
    starts = [0, *(number for number in range(1, len(parts)) if parts[number] in (FOLDERS, ANYTHING)), len(parts)]
    groups = [parts[start:end] for start, end in pairwise(starts)]
    return "".join(f"(?>{_join_stars(group, _LAZY)})" for group in groups[:-1]) + _join_stars(groups[-1], {})


def _join_stars(parts: Sequence[str], wildcards: dict[str, str]) -> str:
    """Return the expression of parts in which every `*` but the last one matches as little as it can, once."""
    stars = [number for number, part in enumerate(parts) if part == NAME_PART]
    joined = []
    for number, part in enumerate(parts):
        once = part == NAME_PART and number != stars[-1]
        opening = "(?>" if once else ""
        closing = ")" if number + 1 in stars[1:] and number not in stars else ""
        joined.append(opening + (_LAZY[part] if once else wildcards.get(part, part)) + closing)
    return "".join(joined)
