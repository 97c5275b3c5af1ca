"""Which locked packages have no wheel for a version of Python on Linux, so that a build compiles them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from buildkit.source.dependencies import normalize

if TYPE_CHECKING:
    from collections.abc import Iterator

# https://packaging.python.org/en/latest/specifications/binary-distribution-format/#file-name-convention
_SUFFIX = ".whl"
_BEFORE_A_NAME = re.compile(r"""["'/\s]""")
_LONGEST_NAME = 300
_PARTS = (5, 6)  # with a build number
_CPYTHON = re.compile(r"cp3(\d{1,2})")
_ANY = frozenset(range(100))


def list_wheels(lock: str) -> dict[str, frozenset[int]]:
    """Return the minor versions of Python 3 that a lock file has wheels for on Linux, by normalized name of a package.

    Packages with wheels for other systems only have none; those without any wheel are not in the result.
    """
    found: dict[tuple[str, str], set[int]] = {}
    for before in lock.split(_SUFFIX)[:-1]:
        parts = _BEFORE_A_NAME.split(before[-_LONGEST_NAME:])[-1].split("-")
        if len(parts) not in _PARTS:
            continue
        name, version, *_, python, abi, platform = parts
        minors = found.setdefault((normalize(name), version), set())
        if "linux" in platform or platform == "any":
            minors.update(_list_minors(python, abi))
    merged: dict[str, frozenset[int]] = {}
    for (name, _), minors in found.items():  # of several locked versions, one is enough
        merged[name] = merged.get(name, frozenset()) | minors
    return merged


def _list_minors(python: str, abi: str) -> Iterator[int]:
    """Yield the minor versions that a wheel's tags stand for."""
    if "py3" in python.split("."):
        yield from _ANY
    for match in _CPYTHON.finditer(python):
        lowest = int(match[1])
        yield from range(lowest, len(_ANY)) if "abi3" in abi else (lowest,)
