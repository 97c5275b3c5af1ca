"""What the packages of an image are installed from: a lock file, a requirements file, or the project itself."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


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
        return self in _LOCKED


_LOCKED = frozenset(
    {DependencyKind.UV_LOCK, DependencyKind.PYLOCK, DependencyKind.POETRY_LOCK, DependencyKind.PDM_LOCK}
)


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
