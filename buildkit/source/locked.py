"""The third-party packages that a lock file or a pinned requirements file decides on, with their files' digests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from buildkit.display import name_first
from buildkit.errors import LocalError
from buildkit.source.dependencies import DependencyKind, list_declared, normalize
from buildkit.source.tables import load_toml, read_text, table, tables, text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from buildkit.source.dependencies import Dependencies

# Where a package is that belongs to the tree: in `source` of uv and Poetry, in the package itself of the others.
_OWN = {"editable", "virtual", "directory", "path"}
_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*===?\s*([^\s;,*]+)\s*(?:;.*)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HASH = re.compile(r"--hash=(\w+):([0-9a-f]+)")
_MAX_NAMED = 5


class LockedFile(NamedTuple):
    """A file that a package may be installed from; the name is empty if it is not locked."""

    name: str
    algorithm: str
    digest: str


class LockedPackage(NamedTuple):
    """A package from elsewhere.

    Attributes:
        name: Normalized.
        needs: Names of the packages that it depends on.
    """

    name: str
    version: str | None
    files: tuple[LockedFile, ...] = ()
    needs: tuple[str, ...] = ()


class Locked(NamedTuple):
    """What is locked: sorted packages, and the names of those that the tree itself depends on."""

    packages: tuple[LockedPackage, ...]
    direct: frozenset[str]


def read_locked(source: Path, dependencies: Dependencies) -> Locked:
    """Return the packages that the lock file or the requirements file of a tree decides on.

    Everything in a lock file counts, also what only some platforms or groups need.

    Raises:
        LocalError: The file leaves versions to the build, or is invalid.
    """
    if dependencies.kind is DependencyKind.REQUIREMENTS:
        found, own = _read_requirements(source, dependencies), set[str]()
    elif dependencies.kind.is_locked:
        lock = load_toml(source, dependencies.path)
        entries = [*tables(lock, "package"), *tables(lock, "packages")]
        own = {name for entry in entries if _is_own(entry) for name in _list_needs(entry)}
        found = [_read_package(entry) for entry in entries if not _is_own(entry)]
    else:
        raise LocalError(
            f"{dependencies.path or 'the source'} locks no versions, so what will be installed is not known",
            "lock the dependencies, for example with `uv lock`",
        )
    packages = {(package.name, package.version or ""): package for package in found}
    needed = {name for package in found for name in package.needs}
    direct = own or {package.name for package in found} - needed
    return Locked(tuple(packages[key] for key in sorted(packages)), frozenset(direct))


def _is_own(entry: dict[str, Any]) -> bool:
    place = table(entry, "source")
    return bool(_OWN & (place.keys() | entry.keys())) or place.get("type") == "directory"


def _read_package(entry: dict[str, Any]) -> LockedPackage:
    needs = tuple(sorted(set(_list_needs(entry))))
    files = tuple(sorted(set(_list_files(entry))))
    return LockedPackage(normalize(text(entry, "name") or ""), text(entry, "version"), files, needs)


def _list_needs(entry: dict[str, Any]) -> list[str]:
    """Return the names of a package's dependencies, which are tables, requirements, or the keys of a table."""
    listed = entry.get("dependencies", [])
    named = [need.get("name", "") for need in listed if isinstance(need, dict)] if isinstance(listed, list) else []
    return [normalize(str(name)) for name in (*named, *list_declared(entry))]


def _list_files(entry: dict[str, Any]) -> Iterator[LockedFile]:
    for file in (*tables(entry, "files"), *tables(entry, "wheels"), table(entry, "sdist"), table(entry, "archive")):
        place = next((found for key in ("name", "file", "url", "path") if (found := text(file, key))), "")
        name = unquote(urlsplit(place).path).rpartition("/")[2]
        hashes = [text(file, "hash") or "", *(f"{kind}:{digest}" for kind, digest in table(file, "hashes").items())]
        for kind, colon, digest in (written.partition(":") for written in hashes):
            if colon:
                yield LockedFile(name, kind, digest)


def _read_requirements(source: Path, dependencies: Dependencies) -> list[LockedPackage]:
    """Return the pinned packages of a requirements file and of what it includes.

    Raises:
        LocalError: Some are not pinned; they are named.
    """
    found: dict[str, LockedPackage] = {}
    loose: list[str] = []
    for path in dependencies.files:
        for line in _list_requirements(read_text(source, path)):
            if match := _PINNED.fullmatch(line.partition(" --")[0].strip()):
                files = tuple(LockedFile("", kind, digest) for kind, digest in sorted(_HASH.findall(line)))
                found[normalize(match[1])] = LockedPackage(normalize(match[1]), match[2], files)
            elif name := _NAME.match(line):
                loose.append(normalize(name[0]))
    if unpinned := sorted(set(loose) - found.keys()):
        raise LocalError(
            f"{dependencies.path} does not pin {name_first(unpinned, _MAX_NAMED)}",
            "pin each version (name==1.2.3), for example with `uv pip compile`",
        )
    return list(found.values())


def _list_requirements(content: str) -> Iterator[str]:
    """Yield the lines that are about a package, with continued lines joined and comments removed."""
    for line in re.sub(r"\\\r?\n", " ", content).splitlines():
        requirement = re.sub(r"(?:^|\s)#.*", "", line).strip()
        if requirement and not requirement.startswith("-"):
            yield requirement
