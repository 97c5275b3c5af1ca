"""Whether the Python of an image, as far as its name tells, suits a source tree and its locked packages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from buildkit.display import name_first
from buildkit.models import Problem
from buildkit.native import list_libraries, suggest
from buildkit.source.dependencies import list_named
from buildkit.source.tables import read_text
from buildkit.source.wheels import list_wheels

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from buildkit.settings import Settings
    from buildkit.source.tree import SourceTree

_PYTHON = re.compile(r"(?<![a-z0-9])(?P<word>python|py)(?P<mark>[-:_]?)3\.(?P<minor>\d{1,2})")
_MINORS = range(8, 20)
_PATCHES = range(30)
_MAX_NAMED = 5


class StatedPython(NamedTuple):
    """The version of Python in the name of an image, and the setting that has the name."""

    setting: str
    image: str
    minor: int

    @classmethod
    def find(cls, settings: Settings) -> StatedPython | None:
        """Return what the name of the image that Python comes from says, or None if it says nothing."""
        setting = "BUILDER_IMAGE" if settings.builder_image else "BASE_IMAGE"
        image = str(settings.builder_image or settings.base_image)
        stated = _PYTHON.search(image)
        return cls(setting, image, int(stated["minor"])) if stated else None

    def suggest(self, minors: Collection[int]) -> str:
        """Return the setting with the nearest of these versions, newer ones first."""
        nearest = min(minors, key=lambda other: (other < self.minor, abs(other - self.minor)))
        image = _PYTHON.sub(rf"\g<word>\g<mark>3.{nearest}", self.image, count=1).partition("@")[0]
        return f"set {self.setting}={image}"


def check_python(tree: SourceTree, settings: Settings) -> Iterator[Problem]:
    """Yield an error if the project does not accept the Python, and a warning if it leads to much being compiled."""
    python, required = StatedPython.find(settings), tree.project.requires_python
    if python is None:
        return
    accepted = _list_accepted(required) if required else list(_MINORS)
    if accepted and python.minor not in accepted:
        message = f"{python.setting} {python.image} has Python 3.{python.minor}, but {required} is required"
        yield Problem("Python", message, python.suggest(accepted))
    elif tree.project.dependencies.kind.is_locked:
        yield from _check_wheels(tree, python, accepted)


def check_libraries(tree: SourceTree, settings: Settings) -> Iterator[Problem]:
    """Yield a warning for each package that is always compiled with a library whose package no setting adds."""
    dependencies = tree.project.dependencies
    added = {*settings.build_packages, *settings.extra_packages}
    named = sorted(list_named(tree.path, dependencies, tree.package.project))
    needed = [(name, library) for name in named for library in list_libraries(name)]
    needed = [(name, library) for name, library in needed if not added.intersection(library.build.split())]
    if not needed:
        return
    wheels = list_wheels(read_text(tree.path, dependencies.path)) if dependencies.kind.is_locked else {}
    for name, library in needed:
        if not wheels.get(name):
            message = f"{name} is compiled in the build, which needs {library.build.replace(' ', ' and ')}"
            yield Problem("packages", message, f"if the base image lacks that, {suggest(library)}", is_error=False)


def _check_wheels(tree: SourceTree, python: StatedPython, accepted: Collection[int]) -> Iterator[Problem]:
    wheels = list_wheels(read_text(tree.path, tree.project.dependencies.path))
    compiled = {name: minors for name, minors in wheels.items() if minors and python.minor not in minors}
    if not compiled:
        return
    named = name_first(sorted(compiled), _MAX_NAMED)
    suited = set(accepted).intersection(*compiled.values())
    fix = python.suggest(suited) if suited else "lock newer versions of them"
    message = f"locked without a wheel for Python 3.{python.minor}, so the build compiles them: {named}"
    yield Problem("Python", message, fix, is_error=False)


def _list_accepted(required: str) -> list[int]:
    """Return the minor versions that a specifier accepts; none if it is not valid, which the build reports."""
    from packaging.specifiers import SpecifierSet

    try:
        specifier = SpecifierSet(required)
        return [minor for minor in _MINORS if any(specifier.contains(f"3.{minor}.{patch}") for patch in _PATCHES)]
    except ValueError:
        return []
