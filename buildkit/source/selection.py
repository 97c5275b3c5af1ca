"""Which files of a source tree are packed, and by which rule."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, groupby
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError
from buildkit.source import checkout
from buildkit.source.listing import ListedFile, Status, list_files
from buildkit.source.rules import VENV_MARK, PackingRules, Verdict
from buildkit.source.survey import survey_names
from buildkit.source.walk import walk_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from buildkit.models import Project
    from buildkit.settings import Settings


class SelectedFiles(NamedTuple):
    """The files that are packed.

    Attributes:
        files: Sorted POSIX paths of regular files and symbolic links.
        changed: Paths, packed or deleted, that differ from the commit whatever they contain; empty outside git.
        warnings: What was skipped, and names that cause trouble elsewhere; a sentence each.
        committed: Mode and ID of the other files in the commit, by path; whether they differ is known once they are
            read.
    """

    files: list[str]
    changed: list[str]
    warnings: list[str]
    committed: dict[str, str] = {}  # noqa: RUF012 - nothing is added to it


class _Sifted(NamedTuple):
    """The listed files that are packed, by name; some may be missing."""

    files: list[str]
    changed: set[str]
    committed: dict[str, str]


class FileSelection:
    """The files of a source tree that are packed. The rules are read once, the files at each call.

    Args:
        in_git: git lists the files; otherwise they are walked.
        ours: POSIX paths below `path` that are our own output.
    """

    def __init__(self, path: Path, project: Project, settings: Settings, *, in_git: bool, ours: Sequence[str]) -> None:
        self._path = path
        self._project = project
        self._settings = settings
        self._in_git = in_git
        self._ours = ours

    def select(self) -> SelectedFiles:
        """Return what is packed.

        Raises:
            LocalError: A required file is missing, a folder cannot be read, or a name has control characters.
            SettingError: A pattern, or a line of `.dockerignore`, is not valid.
        """
        with self._list() as listed:
            found = self._sift(listed, self._rules)  # git lists while the rules are read
        missing, warnings = survey_names(self._path, found.files, self._rules.packs)
        files, changed = found.files, found.changed
        if missing:
            gone = frozenset(missing)
            files = [path for path in files if path not in gone]
            changed |= gone if self._in_git else frozenset()
        self._check_required(files)
        return SelectedFiles(files, sorted(changed), warnings, found.committed)

    def explain(self, path: str) -> Verdict:
        """Return whether `path` is packed and by which rule.

        Raises:
            LocalError: There is no such file.
        """
        if verdict := self._rules.explain(path):
            return verdict
        if self._in_git and (rule := checkout.explain_ignored(self._path, path)):
            reason = f"pattern {rule.pattern!r}, and git does not track it"
            return Verdict(packed=False, reason=reason, source=rule.file, line=rule.line)
        return self._rules.explain_default(path)

    @cached_property
    def _rules(self) -> PackingRules:
        return PackingRules(self._path, self._project, self._settings, self._ours)

    def _sift(self, listed: Iterable[ListedFile], rules: PackingRules) -> _Sifted:
        """Return the listed files that are packed, and which of them differ from the commit."""
        files: list[str] = []
        committed: dict[str, str] = {}
        changed: set[str] = set()
        for path, status, entry in listed:
            if not rules.packs(path):
                continue
            if status is Status.ABSENT:
                raise LocalError(f"{path} is left out by the sparse checkout", "run `git sparse-checkout disable`")
            if status is not Status.STAGED:
                files.append(path)
            if entry:
                committed[path] = entry
            elif self._in_git:
                changed.add(path)
        files.sort()  # nearly sorted already; a file in conflict, or that INCLUDE adds, is listed more than once
        environments = tuple(path.removesuffix(VENV_MARK) for path in files if path.endswith(f"/{VENV_MARK}"))
        kept = (path for path, _ in groupby(files))
        if environments:
            kept = (path for path in kept if not path.startswith(environments))
            changed = {path for path in changed if not path.startswith(environments)}
        for path in changed:
            committed.pop(path, None)
        return _Sifted(list(kept), changed, committed)

    def _prunes(self, folder: str) -> bool:
        return self._rules.prunes(folder)  # which are not read yet when git starts

    @contextmanager
    def _list(self) -> Iterator[Iterator[ListedFile]]:
        if not self._in_git:
            walked = walk_files(self._path, self._project.roots, self._rules.prunes)
            yield chain((ListedFile(path, Status.CHANGED) for path in walked), self._list_included())
            return
        with list_files(self._path, self._project.roots, self._prunes) as listed:
            yield chain(listed, self._list_included())

    def _list_included(self) -> Iterator[ListedFile]:
        """Yield what INCLUDE adds, from anywhere below the source, even if git ignores it."""
        if not self._settings.include:
            return
        known: dict[str, list[ListedFile]] = {}
        if self._in_git:
            with list_files(self._path, (), self._rules.closes) as listed:
                for file in listed:
                    if self._rules.includes(file.path):
                        known.setdefault(file.path, []).append(file)
        yield from chain.from_iterable(known.values())
        for path in walk_files(self._path, os.listdir(self._path), self._rules.closes):
            if path not in known and self._rules.includes(path):
                yield ListedFile(path, Status.CHANGED)

    def _check_required(self, files: Sequence[str]) -> None:
        packed = set(self._project.required).intersection(files)
        for path in self._project.required:
            if path not in packed:
                verdict = self.explain(path)
                where = f" ({verdict.source}, line {verdict.line})" if verdict.source else ""
                raise LocalError(
                    f"{path} is needed by the build, but left out: {verdict.reason}{where}", f"set INCLUDE={path}"
                )
