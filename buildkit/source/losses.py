"""What the build context lacks although the tree seems to have it: submodules, large files, ends of links, modules."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from buildkit.display import name_first
from buildkit.errors import LocalError
from buildkit.models import Problem
from buildkit.source.fingerprint import refuse_escape
from buildkit.source.folders import SourceFolders
from buildkit.source.imports import find_absent_imports, read_start
from buildkit.source.selection import EXCLUDE, make_pattern
from buildkit.source.survey import has_any

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
_MAX_NAMED = 10


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
        links = list(self._find_links())
        if len(links) > _MAX_NAMED:
            more = f"and {len(links) - _MAX_NAMED} more links like these"
            links[_MAX_NAMED:] = [links[-1]._replace(message=more, fix="add them to EXCLUDE")]
        return [*self._find_submodules(), *self._find_pointers(), *links, *self._find_modules()]

    def _find_submodules(self) -> Iterator[Problem]:
        folders = self._selected.submodules
        if folders:
            named = ", ".join(folders)
            patterns = ",".join(f"{make_pattern(folder)}/" for folder in folders)
            yield _describe(
                "submodules",
                f"not checked out, so nothing of it is packed: {named}",
                f"run `git submodule update --init --recursive`, or add {patterns} to EXCLUDE",
                is_error=any(map(self._is_needed, folders)),
            )

    def _find_pointers(self) -> Iterator[Problem]:
        found = list(self._list_pointers())
        if found:
            named = name_first(found, _MAX_NAMED)
            patterns = ",".join(map(make_pattern, found))
            yield _describe(
                "Git LFS",
                f"a pointer is packed instead of the file: {named}",
                "run `git lfs pull`" + (f", or add {patterns} to EXCLUDE" if len(found) <= _MAX_NAMED else ""),
                is_error=any(map(self._is_needed, found)),
            )

    def _list_pointers(self) -> Iterator[str]:
        """Yield the pointers among the packed files, if any attributes say that there may be some."""
        places = {_ATTRIBUTES, *(path for path in self._selected.files if path.endswith(f"/{_ATTRIBUTES}"))}
        with SourceFolders(self._source) as folders:
            if not any(b"filter=lfs" in read_start(folders, place, _MAX_ATTRIBUTES_BYTES) for place in places):
                return
            for path in self._selected.files:
                try:
                    is_small = folders.stat(path).st_size in _LFS_BYTES
                except OSError:
                    continue  # the packer reports what is gone
                if is_small and read_start(folders, path, len(_LFS_HEAD)) == _LFS_HEAD:
                    yield path

    def _find_links(self) -> Iterator[Problem]:
        for link in self._selected.links:
            path, root = self._source / link, os.path.realpath(self._source)
            try:
                target = os.readlink(path)
                refuse_escape(root, link, target)
            except LocalError as error:
                fix = f"make it relative and inside the tree, or add {make_pattern(link)} to EXCLUDE"
                yield _describe("links", error.message, fix, is_error=True)
                continue
            except OSError:
                continue  # the packer reports what is gone
            end = os.path.relpath(os.path.realpath(path), root)
            if not os.path.exists(path):
                fix = f"remove it, or add {make_pattern(link)} to EXCLUDE"
                yield _describe("links", f"{link} leads to {target}, which does not exist", fix)
            elif end != "." and not has_any(self._selected.files, end):
                message = f"{link} leads to {end}, which is not packed"
                yield _describe("links", message, self._suggest_packing(end))

    def _find_modules(self) -> Iterator[Problem]:
        for found in find_absent_imports(self._source, self._project, self._selected)[:_MAX_NAMED]:
            message = f"{found.importer} imports {found.name}, but {found.path} is not packed"
            yield _describe("imports", message, self._suggest_packing(found.path))

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


def _describe(subject: str, message: str, fix: str, *, is_error: bool = False) -> Problem:
    return Problem(subject, message, fix, is_error, is_in_context=True)
