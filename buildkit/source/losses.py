"""What the build context lacks although the tree seems to have it: submodules, large files, ends of links, modules."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from buildkit.errors import LocalError
from buildkit.models import Problem
from buildkit.source.dependencies import list_named, normalize
from buildkit.source.fingerprint import refuse_escape
from buildkit.source.folders import SourceFolders
from buildkit.source.metadata import read_package
from buildkit.source.selection import EXCLUDE, has_any, make_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from buildkit.models import Project
    from buildkit.source.rules import Verdict
    from buildkit.source.selection import SelectedFiles

_LFS_HEAD = b"version https://git-lfs.github.com/spec/"
_LFS_BYTES = range(100, 1024)
_ATTRIBUTES = ".gitattributes"
_MAX_ATTRIBUTES_BYTES = 1_000_000
_MAX_MODULE_BYTES = 4_000_000
_MAX_NAMED = 10
_TEST = re.compile(r"(?:^|/)(?:tests?/|test_[^/]*$|conftest\.py$|[^/]*_test\.py$)")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


class Losses:
    """Finds what is lost from a tree.

    Args:
        explain: Which rule packs or leaves out a path.
        suggest: What to type so that paths are packed, given with the rules that leave them out.
    """

    def __init__(
        self,
        source: Path,
        project: Project,
        selected: SelectedFiles,
        explain: Callable[[str], Verdict],
        suggest: Callable[[dict[str, Verdict]], str],
    ) -> None:
        self._source = source
        self._project = project
        self._selected = selected
        self._explain = explain
        self._suggest = suggest

    def find(self) -> list[Problem]:
        """Return everything that is lost; an error if the project's own packages need it."""
        return [*self._find_submodules(), *self._find_pointers(), *self._find_links(), *self._find_modules()]

    def _find_submodules(self) -> Iterator[Problem]:
        folders = self._selected.submodules
        if folders:
            named = ", ".join(folders)
            patterns = ",".join(f"{make_pattern(folder)}/" for folder in folders)
            yield Problem(
                "submodules",
                f"not checked out, so nothing of it is packed: {named}",
                f"run `git submodule update --init --recursive`, or add {patterns} to EXCLUDE",
                is_error=any(map(self._is_needed, folders)),
                is_in_context=True,
            )

    def _find_pointers(self) -> Iterator[Problem]:
        found = list(self._list_pointers())
        if found:
            named = ", ".join(found[:_MAX_NAMED]) + (f" and {len(found) - _MAX_NAMED} more" * (len(found) > _MAX_NAMED))
            patterns = ",".join(map(make_pattern, found))
            yield Problem(
                "Git LFS",
                f"a pointer is packed instead of the file: {named}",
                f"run `git lfs pull`, or add {patterns} to EXCLUDE"
                if len(found) <= _MAX_NAMED
                else "run `git lfs pull`",
                is_error=any(map(self._is_needed, found)),
                is_in_context=True,
            )

    def _list_pointers(self) -> Iterator[str]:
        """Yield the pointers among the packed files, if any attributes say that there may be some."""
        places = {_ATTRIBUTES, *(path for path in self._selected.files if path.endswith(f"/{_ATTRIBUTES}"))}
        with SourceFolders(self._source) as folders:
            if not any(b"filter=lfs" in _read(folders, place, _MAX_ATTRIBUTES_BYTES) for place in places):
                return
            for path in self._selected.files:
                try:
                    is_small = folders.stat(path).st_size in _LFS_BYTES
                except OSError:
                    continue  # the packer reports what is gone
                if is_small and _read(folders, path, len(_LFS_HEAD)) == _LFS_HEAD:
                    yield path

    def _find_links(self) -> Iterator[Problem]:
        for link in self._selected.links:
            path, root = self._source / link, os.path.realpath(self._source)
            try:
                target = os.readlink(path)
                refuse_escape(root, link, target)
            except LocalError as error:
                fix = f"make it relative and inside the tree, or add {make_pattern(link)} to EXCLUDE"
                yield Problem("links", error.message, fix, is_in_context=True)
                continue
            except OSError:
                continue  # the packer reports what is gone
            end = os.path.relpath(os.path.realpath(path), root)
            if not os.path.exists(path):
                fix = f"remove it, or add {make_pattern(link)} to EXCLUDE"
                yield Problem(
                    "links", f"{link} leads to {target}, which does not exist", fix, is_error=False, is_in_context=True
                )
            elif end != "." and not has_any(self._selected.files, end):
                message = f"{link} leads to {end}, which is not packed"
                yield Problem("links", message, self._suggest_packing(end), is_error=False, is_in_context=True)

    def _find_modules(self) -> Iterator[Problem]:
        """Yield what packed code imports and is not packed, with the first file that imports it."""
        absent = dict(self._list_absent_modules())
        if not absent:
            return
        declared = read_package(self._source).project
        installed = list_named(self._source, self._project.dependencies, declared)
        absent = {name: path for name, path in absent.items() if normalize(name) not in installed}
        words = sorted({name.rpartition(".")[2].encode() for name in absent})
        importers: dict[str, str] = {}
        with SourceFolders(self._source) as folders:
            for path in self._selected.files:
                if path.endswith(".py") and not _TEST.search(path):
                    text = _read(folders, path, _MAX_MODULE_BYTES)
                    if any(_may_import(text, word) for word in words):
                        for name in absent.keys() & _list_imported(text, self._name_package(path)):
                            importers.setdefault(name, path)
        for name, path in sorted(importers.items())[:_MAX_NAMED]:
            place = absent[name]
            message = f"{path} imports {name}, but {place} is not packed"
            yield Problem("imports", message, self._suggest_packing(place), is_error=False, is_in_context=True)

    def _list_absent_modules(self) -> Iterator[tuple[str, str]]:
        """Yield the dotted names of modules that are in the tree but not packed, with their paths."""
        roots = sorted(self._project.import_roots, key=len, reverse=True)
        for path in self._selected.modules:
            name = path.rpartition("/")[2].removesuffix(".py")
            if not _IDENTIFIER.fullmatch(name) or name.startswith("__"):
                continue
            if not path.endswith(".py") and not _has_modules(self._source / path):
                continue
            for root in roots:
                if path.startswith(root):
                    yield path.removeprefix(root).removesuffix(".py").replace("/", "."), path

    def _name_package(self, path: str) -> str:
        """Return the dotted name of the package that a file is in, with the most specific root."""
        root = max((root for root in self._project.import_roots if path.startswith(root)), key=len, default="")
        return path.removeprefix(root).rpartition("/")[0].replace("/", ".")

    def _suggest_packing(self, path: str) -> str:
        """Return what to type so that a file, or all of a folder, is packed."""
        if os.path.isfile(self._source / path):
            return self._suggest({path: self._explain(path)})
        below = (f"{folder}/{name}" for folder, _, names in os.walk(self._source / path) for name in sorted(names))
        example = os.path.relpath(next(below, self._source / path), self._source)
        rule = self._explain(example) if example != path else None
        if rule and rule.source == EXCLUDE:
            return self._suggest({example: rule})
        return f"add {make_pattern(path)}/ to INCLUDE"

    def _is_needed(self, path: str) -> bool:
        places = [*self._project.packages, *self._project.members]
        return any(f"{path}/".startswith(f"{place}/") or place.startswith(f"{path}/") for place in places)


def refuse_losses(problems: Iterable[Problem]) -> None:
    """Refuse to go on with errors among the problems: all of them at once.

    Raises:
        LocalError: There are some.
    """
    errors = [problem for problem in problems if problem.is_error]
    if errors:
        fixes = dict.fromkeys(problem.fix for problem in errors)
        raise LocalError("; ".join(problem.message for problem in errors), "; ".join(fixes))


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


def _has_modules(folder: Path) -> bool:
    try:
        return any(name.endswith(".py") for name in os.listdir(folder))
    except OSError:
        return False


def _read(folders: SourceFolders, path: str, limit_bytes: int) -> bytes:
    """Return the beginning of a regular file; nothing if it cannot be read."""
    try:
        descriptor = folders.open(path)
        try:
            return os.read(descriptor, min(os.fstat(descriptor).st_size, limit_bytes))
        finally:
            os.close(descriptor)
    except OSError:
        return b""
