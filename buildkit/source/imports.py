"""What packed code imports although it is not packed: modules that are in the tree, but left out."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from buildkit.source.dependencies import list_named, normalize
from buildkit.source.folders import SourceFolders
from buildkit.source.metadata import read_package

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from buildkit.models import Project
    from buildkit.source.selection import SelectedFiles

_MAX_BYTES = 1_000_000
_TEST = re.compile(r"(?:^|/)(?:tests?/|test_[^/]*$|conftest\.py$|[^/]*_test\.py$)")
_NAME = re.compile(r"[A-Za-z_]\w*")


class AbsentImport(NamedTuple):
    """A file that imports a module, by its dotted name, that is at a path of the tree but not packed."""

    importer: str
    name: str
    path: str


def find_absent_imports(source: Path, project: Project, selected: SelectedFiles) -> list[AbsentImport]:
    """Return the modules that are missing, each with the first file that imports it; tests do not count."""
    absent = dict(_list_absent(source, project.import_roots, selected.modules))
    importers = _find_importers(source, project, selected, absent) if absent else {}
    if importers:
        installed = list_named(source, project.dependencies, read_package(source).project)
        importers = {name: path for name, path in importers.items() if normalize(name) not in installed}
    return [AbsentImport(path, name, absent[name]) for name, path in sorted(importers.items())]


def _find_importers(source: Path, project: Project, selected: SelectedFiles, absent: Collection[str]) -> dict[str, str]:
    """Return the first file that imports each module, by the module's name."""
    words = sorted({name.rpartition(".")[2].encode() for name in absent})
    importers: dict[str, str] = {}
    with SourceFolders(source) as folders:
        for path in selected.files:
            if path.endswith(".py") and not _TEST.search(path):
                text = read_start(folders, path, _MAX_BYTES)
                if any(_may_import(text, word) for word in words):
                    package = _name_package(project.import_roots, path)
                    for name in _list_imported(text, package).intersection(absent):
                        importers.setdefault(name, path)
    return importers


def read_start(folders: SourceFolders, path: str, limit_bytes: int) -> bytes:
    """Return the beginning of a regular file; nothing if it cannot be read."""
    try:
        descriptor = folders.open(path)
        try:
            return os.read(descriptor, min(os.fstat(descriptor).st_size, limit_bytes))
        finally:
            os.close(descriptor)
    except OSError:
        return b""


def _list_absent(source: Path, roots: Sequence[str], paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the dotted names, one for each folder that it may be imported from, and paths of what is not packed."""
    for path in paths:
        name = path.rpartition("/")[2].removesuffix(".py")
        if (
            _NAME.fullmatch(name)
            and not name.startswith("__")
            and (path.endswith(".py") or _has_modules(source / path))
        ):
            below = (path.removeprefix(root) for root in roots if path.startswith(root))
            yield from ((place.removesuffix(".py").replace("/", "."), path) for place in below)


def _has_modules(folder: Path) -> bool:
    try:
        return any(name.endswith(".py") for name in os.listdir(folder))
    except OSError:
        return False


def _name_package(roots: Sequence[str], path: str) -> str:
    """Return the dotted name of the package that a file is in."""
    root = max((root for root in roots if path.startswith(root)), key=len, default="")
    return path.removeprefix(root).rpartition("/")[0].replace("/", ".")


def _may_import(text: bytes, word: bytes) -> bool:
    """Return whether a word is in a line that imports something: a search for it is much faster than for such lines."""
    at = text.find(word)
    while at >= 0:
        line = text[text.rfind(b"\n", 0, at) + 1 : text.find(b"\n", at)].strip()
        if line.startswith((b"from ", b"import ")) or line.rstrip(b",") == word:
            return True
        at = text.find(word, at + len(word))
    return False


def _list_imported(text: bytes, package: str) -> set[str]:
    """Return the dotted names of what a module imports, with the packages above each."""
    import ast
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return {name[: match.start()] for name in names for match in re.finditer(r"\.|$", name)}
