"""Which files of a source tree are packed: what git lists, or a walk finds, and the rules leave in."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, groupby
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError
from buildkit.source import git
from buildkit.source.listing import Status, list_files
from buildkit.source.rules import VENV_MARK, PackingRules, Verdict
from buildkit.source.survey import survey_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from buildkit.models import Project

_MAX_NAMED = 10


class SelectedFiles(NamedTuple):
    """What is packed.

    Attributes:
        files: Sorted POSIX paths of regular files and symbolic links.
        changed: Those among them, or missing from them, that differ from the commit; none outside git.
        warnings: What was passed over and what may trouble others, a sentence each.
    """

    files: list[str]
    changed: list[str]
    warnings: list[str]


class Selection:
    """What is packed of one source tree; asked as often as it changes."""

    def __init__(
        self,
        source: Path,
        project: Project,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        ours: Sequence[str] = (),
    ) -> None:
        """Keep the settings; nothing is read yet.

        Args:
            include: gitignore patterns of what is packed besides, whatever `.dockerignore` and git say.
            exclude: gitignore patterns of what is left out.
            ours: Paths below the source that are ours: the output directory and its lock.
        """
        self.source = source
        self.project = project
        self._include = tuple(include)
        self._exclude = tuple(exclude)
        self._ours = tuple(ours)

    def select(self) -> SelectedFiles:
        """Return what is packed.

        Raises:
            LocalError: A required file is missing, a directory cannot be read, or a name has control characters.
            SettingError: A pattern, or a line of `.dockerignore`, is not one.
        """
        with self._list() as listed:
            files, changed = self._sift(listed, self._rules)  # git lists while the rules are read
        self._require(files)
        return SelectedFiles(files, sorted(changed), survey_names(self.source, files, self._rules.packs))

    def find_changed(self) -> list[str]:
        """Return the `changed` of `select`; where git finds nothing and no setting says more, no rule is needed.

        Raises:
            LocalError: As `select`.
        """
        if self._in_git and not (self._include or self._exclude):
            with list_files(self.source, self.project.roots, only_changes=True) as listed:
                if next(listed, None) is None:
                    return []
        return self.select().changed if self._in_git else []

    def explain(self, path: str) -> Verdict:
        """Return whether `path` is packed and by which rule.

        Raises:
            LocalError: There is no such file.
        """
        if verdict := self._rules.explain(path):
            return verdict
        if self._in_git and (ignored := git.explain_ignored(self.source, path)):
            file, line, pattern = ignored
            return Verdict(
                packed=False, reason=f"pattern {pattern!r}, and git does not track it", source=file, line=line
            )
        return self._rules.explain_default(path)

    @cached_property
    def _in_git(self) -> bool:
        return git.is_checkout(self.source)

    @cached_property
    def _rules(self) -> PackingRules:
        return PackingRules(self.source, self.project, include=self._include, exclude=self._exclude, ours=self._ours)

    def _sift(self, listed: Iterable[tuple[str, Status]], rules: PackingRules) -> tuple[list[str], set[str]]:
        """Return what of the listing is packed, sorted, and what of it differs from the commit."""
        files: list[str] = []
        changed: set[str] = set()
        gone: set[str] = set()
        for path, status in listed:
            if not rules.packs(path):
                continue
            if status is Status.ABSENT:
                raise LocalError(f"{path} is left out by the sparse checkout", "run `git sparse-checkout disable`")
            if status is not Status.UNCHANGED:
                changed.add(path)
            if status is Status.DELETED:
                gone.add(path)
            elif status is not Status.STAGED:
                files.append(path)
        files.sort()  # nearly sorted as they come; a file that differs from the commit has come more than once
        marks = tuple(path.removesuffix(VENV_MARK) for path in files if path.endswith(f"/{VENV_MARK}"))
        kept = (path for path, _ in groupby(files))
        if gone or marks:
            kept = (path for path in kept if path not in gone and not path.startswith(marks))
        return list(kept), {path for path in changed if not path.startswith(marks)}

    @contextmanager
    def _list(self) -> Iterator[Iterator[tuple[str, Status]]]:
        if not self._in_git:
            walked = self._walk(self.project.roots, self._rules.prunes)
            yield chain(((path, Status.UNCHANGED) for path in walked), self._list_included())
            return
        with list_files(self.source, self.project.roots) as listed:
            yield chain(listed, self._list_included())

    def _list_included(self) -> Iterator[tuple[str, Status]]:
        """Yield what INCLUDE brings back, from everywhere below the source, even where git ignores it."""
        if not self._include:
            return
        statuses: dict[str, Status] = {}
        if self._in_git:
            with list_files(self.source) as listed:
                statuses = {path: status for path, status in listed if self._rules.includes(path)}
        untracked = Status.CHANGED if self._in_git else Status.UNCHANGED
        for path in self._walk(os.listdir(self.source), self._rules.closes):
            if self._rules.includes(path):
                yield path, statuses.get(path, untracked)

    def _walk(self, roots: Iterable[str], prunes: Callable[[str], bool]) -> Iterator[str]:
        """Yield files and links below `roots`, entering no folder that is pruned or a link."""
        unreadable: list[str] = []
        waiting = list(roots)
        while waiting:
            path = waiting.pop()
            try:
                mode = os.lstat(self.source / path).st_mode
                if stat.S_ISDIR(mode) and not prunes(path):
                    waiting.extend(f"{path}/{name}" for name in os.listdir(self.source / path))
                elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
                    yield path
            except FileNotFoundError:
                continue
            except PermissionError:
                unreadable.append(path)
        if unreadable:
            named = ", ".join(sorted(unreadable)[:_MAX_NAMED])
            raise LocalError(
                f"{len(unreadable)} directories cannot be read: {named}", "make them readable, or EXCLUDE them"
            )

    def _require(self, files: Sequence[str]) -> None:
        packed = set(self.project.required).intersection(files)
        for path in self.project.required:
            if path not in packed:
                verdict = self.explain(path)
                where = f" ({verdict.source}, line {verdict.line})" if verdict.source else ""
                raise LocalError(
                    f"{path} is needed by the build, but left out: {verdict.reason}{where}", f"set INCLUDE={path}"
                )
