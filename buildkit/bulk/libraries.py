"""Which base image the server is built on, so that it runs on all: the one with the oldest C library of its kind."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from buildkit.display import name_first
from buildkit.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from buildkit.bulk.entries import ImageEntry
    from buildkit.reference import Reference

# Run in a base image by its own shell.
PROBE = (
    'echo "libc: $(ldd --version 2>&1 | head -n 2 | tr "\\n" " ")"; '
    'for python in python3 $(ls /usr/local/bin /usr/bin | grep -x "python3[.][0-9]*"); do '
    'echo "python: $($python --version 2>&1)"; done'
)
_GLIBC = re.compile(r"libc: .*\b(?:GLIBC|GNU libc)\b.* (\d+)\.(\d+)")
_MUSL = re.compile(r"libc: .*\bmusl\b.*Version (\d+)\.(\d+)")
_PYTHON = re.compile(r"python: Python (\d+)\.(\d+)")
_SHOWN = 3


class Libraries(NamedTuple):
    """The C library of an image, and its newest Python, which is (0, 0) if it has none."""

    kind: str
    version: tuple[int, int]
    python: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        return f"{self.kind} {self.version[0]}.{self.version[1]}"


def parse_probe(output: str) -> Libraries | None:
    """Return what the output of `PROBE` says, or None if it names no C library."""
    pythons = [(int(major), int(minor)) for major, minor in _PYTHON.findall(output)]
    for kind, pattern in (("glibc", _GLIBC), ("musl", _MUSL)):
        if match := pattern.search(output):
            return Libraries(kind, (int(match[1]), int(match[2])), max(pythons, default=(0, 0)))
    return None


def parse_libraries(fields: object) -> Libraries | None:
    """Return what a JSON list of the three fields says, or None if it is not one."""
    match fields:
        case [str(kind), [int(major), int(minor)], [int(python_major), int(python_minor)]]:
            return Libraries(kind, (major, minor), (python_major, python_minor))
    return None


def choose_builder_images(
    found: Mapping[Reference, Libraries | None], requires_python: str | None = None
) -> dict[str, Reference]:
    """Return the image to build on for each kind of C library: the oldest library, then the newest Python.

    Args:
        requires_python: What the source says of the Python that it needs.

    Raises:
        SettingError: The library of an image is not known, or the Python of one that would be chosen is not accepted.
    """
    unknown = [str(base) for base, libraries in found.items() if libraries is None]
    if unknown:
        raise SettingError(
            f"the C library of {name_first(unknown, _SHOWN)} cannot be determined",
            "set BUILDER_IMAGE to the base image with the oldest C library",
        )
    known = [(libraries, base) for base, libraries in found.items() if libraries]
    chosen: dict[str, tuple[Libraries, Reference]] = {}
    for libraries, base in sorted(known, key=_rank):
        chosen.setdefault(libraries.kind, (libraries, base))
    for libraries, base in chosen.values():
        if not _accepts(requires_python, libraries.python):
            raise SettingError(
                f"the source needs Python {requires_python}, and {base}, which has the oldest C library ({libraries}),"
                f" has {'.'.join(map(str, libraries.python))}",
                f"set BUILDER_IMAGE to an image with such a Python and {libraries} or older",
            )
    return {kind: base for kind, (_, base) in chosen.items()}


def _accepts(requires_python: str | None, python: tuple[int, int]) -> bool:
    """Return whether a Python may do; one that is missing is installed, and nothing is known of it yet."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    with suppress(InvalidSpecifier):
        # Of a minor version, the newest patch counts.
        return python == (0, 0) or SpecifierSet(requires_python or "").contains(f"{python[0]}.{python[1]}.99")
    return True


def _rank(item: tuple[Libraries, Reference]) -> tuple[object, ...]:
    """Return what images are sorted by; the name comes last, so that the order of the list does not matter."""
    libraries, base = item
    major, minor = libraries.python
    return libraries.version, -major, -minor, str(base)


def need_builder_image(entries: Sequence[ImageEntry]) -> list[Reference]:
    """Return the base images for which a builder image is wanted and nobody has set one; none if there is only one.

    A Dockerfile of the source's own says by itself what it builds on.
    """
    wanted = [entry for entry in entries if entry.settings.builder_image is None and entry.settings.dockerfile is None]
    bases = list(dict.fromkeys(entry.base for entry in wanted))
    return bases if len(bases) > 1 else []
