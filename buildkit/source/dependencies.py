"""What the packages of an image are installed from: a lock file, a requirements file, or the project itself."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from buildkit.errors import LocalError
from buildkit.files import read_bounded
from buildkit.source.tables import inside, read_text, resolve, strings, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_LOCKED_NAME = re.compile(r'\[\[packages?\]\]\s*\nname = "([^"\n]+)"')
_LOCKED_PYTHON = re.compile(r'^requires-python = "([^"\n]+)"$', re.MULTILINE)
_REQUIREMENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?=\s*(?:[\[<>=!~;@#,\\]|$))")
_INCLUDED = re.compile(r"(?:-r|-c|--requirement|--constraint)(?:\s+|\s*=\s*)(\S+)|(?:-r|-c)(\S+)")
_VERSION = re.compile(r"[<>=~!]=|[<>@]")
_HEAD_BYTES = 1000
_MAX_INCLUDED = 100


class DependencyKind(StrEnum):
    """The formats that dependencies are read from; the first one that a tree has is used."""

    UV_LOCK = "uv.lock"
    PYLOCK = "pylock.toml"
    POETRY_LOCK = "poetry.lock"
    PDM_LOCK = "pdm.lock"
    REQUIREMENTS = "requirements"
    PROJECT = "project"
    SETUP = "setup.py"
    NONE = "none"

    @property
    def is_locked(self) -> bool:
        """Whether every version is decided, also of what the dependencies need."""
        return self in LOCKS


LOCKS = (DependencyKind.UV_LOCK, DependencyKind.PYLOCK, DependencyKind.POETRY_LOCK, DependencyKind.PDM_LOCK)
REQUIREMENTS = DependencyKind.REQUIREMENTS
INSTALLABLE = ("pyproject.toml", "setup.py")
PROJECT_FILES = ("pyproject.toml", "setup.cfg", "setup.py")
_REQUIREMENTS_FILE = "requirements.txt"


class Dependencies(NamedTuple):
    """Where the dependencies of a source tree are listed.

    Attributes:
        path: The file, POSIX and relative to the source directory; empty for `NONE`.
        files: Every file that installing the third-party packages reads, sorted: `path`, what it includes with `-r`
            and `-c`, and the project file. Nothing else needs to be in that layer.
    """

    kind: DependencyKind
    path: str = ""
    files: tuple[str, ...] = ()


class VersionTool(StrEnum):
    """Build plugins that take a package's version from git."""

    SETUPTOOLS_SCM = "setuptools-scm"
    HATCH_VCS = "hatch-vcs"
    UV_DYNAMIC = "uv-dynamic-versioning"
    POETRY_DYNAMIC = "poetry-dynamic-versioning"
    PDM = "pdm"


class GitDescription(NamedTuple):
    """Where a commit is in the history of a tree.

    Attributes:
        text: What `git describe --tags --long --always` prints: `v1.2.3-4-g0506352`, or `0506352` without a tag.
        version: The same as a version (PEP 440): `1.2.4.dev4+g0506352`, or `1.2.3` at the tag itself.
    """

    text: str
    version: str


def find_dependencies(source: Path, settings: Mapping[str, Any], requirements: str | None = None) -> Dependencies:
    """Return where the dependencies of the project at the root of `source` are listed.

    Args:
        settings: The project file.
        requirements: The file that REQUIREMENTS names; it is used whatever else there is.

    Raises:
        LocalError: That file is missing, or one cannot be read.
    """
    project_files = tuple(name for name in PROJECT_FILES if (source / name).is_file())
    if requirements is not None:
        path = inside(requirements, "REQUIREMENTS")
        if not (source / path).is_file():
            raise LocalError(f"REQUIREMENTS names {path!r}, which is missing", "set REQUIREMENTS to a file")
        return _read_requirements(source, path)
    for kind in LOCKS:
        if (source / kind).is_file():
            # Whoever wrote the others reads the project file along with them.
            uses_project = kind is not DependencyKind.PYLOCK or "pyproject.toml" in project_files
            files = (str(kind), "pyproject.toml") if uses_project else (str(kind),)
            return Dependencies(kind, str(kind), tuple(sorted(files)))
    if (source / _REQUIREMENTS_FILE).is_file():
        found = _read_requirements(source, _REQUIREMENTS_FILE)
        if not project_files or any(_find_required(source, path) for path in found.files):
            return found
    if table(dict(settings), "project") or table(dict(settings), "tool", "poetry"):
        return Dependencies(DependencyKind.PROJECT, "pyproject.toml", project_files)
    setup = next((name for name in ("setup.py", "setup.cfg") if name in project_files), None)
    return Dependencies(DependencyKind.SETUP, setup, project_files) if setup else Dependencies(DependencyKind.NONE)


def list_named(source: Path, dependencies: Dependencies, declared: Mapping[str, Any]) -> frozenset[str]:
    """Return the normalized names of the distributions that a file locks or lists; the project's own may be among them.

    Args:
        declared: The project's table, for those that are listed there.
    """
    if dependencies.kind.is_locked:
        names = _LOCKED_NAME.findall(read_text(source, dependencies.path).replace("\r\n", "\n"))
    elif dependencies.kind is DependencyKind.REQUIREMENTS:
        names = [name for path in dependencies.files for name in _find_required(source, path)]
    else:
        names = list_declared(declared)
    return frozenset(normalize(name) for name in names)


def list_declared(project: Mapping[str, Any]) -> list[str]:
    """Return the names of the distributions that a project's table lists."""
    listed = project.get("dependencies", [])
    if isinstance(listed, dict):  # Poetry's
        return [name for name in listed if name.lower() != "python"]
    found = (_REQUIREMENT.match(line.strip()) for line in strings({"": listed}, ""))
    return [match[0] for match in found if match]


def names_versions(source: Path, dependencies: Dependencies) -> bool:
    """Return whether a line of a requirements file, or of one that it includes, says which versions it allows."""
    lines = (line.strip() for path in dependencies.files for line in read_text(source, path).splitlines())
    return any(_REQUIREMENT.match(line) and _VERSION.search(re.split("[;#]", line)[0]) for line in lines)


def normalize(name: str) -> str:
    """Return the name of a distribution as PEP 503 normalizes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_locked_python(source: Path) -> str | None:
    """Return the specifier of the Python versions that `uv.lock` is for: those that every member of it accepts."""
    try:
        head = read_bounded(source / DependencyKind.UV_LOCK, _HEAD_BYTES, follow=True).decode("utf-8", "replace")
    except OSError:
        return None
    found = _LOCKED_PYTHON.search(head)
    return found[1] if found else None


def _read_requirements(source: Path, path: str) -> Dependencies:
    """Return a requirements file with all that it includes."""
    found = [path]
    for file in found:
        folder = PurePosixPath(file).parent
        for included in _list_included(read_text(source, file)):
            place = resolve(str(folder / included))
            if place and place not in found and (source / place).is_file() and len(found) < _MAX_INCLUDED:
                found.append(place)
    return Dependencies(DependencyKind.REQUIREMENTS, path, tuple(sorted(found)))


def _list_included(content: str) -> Iterator[str]:
    for line in content.splitlines():
        if (match := _INCLUDED.match(line.strip())) and "://" not in line:
            yield match[1] or match[2]


def _find_required(source: Path, path: str) -> list[str]:
    """Return the names of the distributions that a requirements file lists, without those that it includes."""
    found = (_REQUIREMENT.match(line.strip()) for line in read_text(source, path).splitlines())
    return [match[0] for match in found if match]
