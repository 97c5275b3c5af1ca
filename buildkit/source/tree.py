"""A source tree: which commit it is at, which of its files are packed, and which rule decides about each of them."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, groupby
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError
from buildkit.source import git
from buildkit.source.listing import Status, list_files
from buildkit.source.project import find_spec, read_project
from buildkit.source.rules import VENV_MARK, PackingRules, Verdict
from buildkit.source.survey import survey_names
from buildkit.source.walk import walk_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from buildkit.models import Project
    from buildkit.settings import CiEnvironment, Settings

_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


class SelectedFiles(NamedTuple):
    """The files that are packed.

    Attributes:
        files: Sorted POSIX paths of regular files and symbolic links.
        changed: Paths, packed or deleted, that differ from the commit; empty outside git.
        warnings: What was skipped, and names that cause trouble elsewhere; a sentence each.
    """

    files: list[str]
    changed: list[str]
    warnings: list[str]


class SourceTree:
    """A source tree and the rules by which its files are packed. The rules are read once, the files at each call.

    Args:
        path: Absolute.
        ours: POSIX paths below `path` that are our own output: the output directory and its lock.
    """

    def __init__(self, path: Path, settings: Settings, ci: CiEnvironment, *, ours: Sequence[str] = ()) -> None:
        self.path = path
        self._settings = settings
        self._ci = ci
        self._ours = ours

    @cached_property
    def project(self) -> Project:
        """What the project file says.

        Raises:
            LocalError: It is missing or invalid, or a file that it names is missing.
        """
        return read_project(self.path)

    def find_spec(self, named: str | None) -> str | None:
        """Return the path of the PyInstaller spec, or None if there is none, or several and none is named.

        Raises:
            LocalError: The named one is missing.
        """
        return find_spec(self.path, self.project.roots, named)

    def identify(self, warn: Callable[[str], None]) -> git.Commit | None:
        """Return the commit that the archive is named after: GIT_SHA, or git's, or GITHUB_SHA, or None.

        Raises:
            LocalError: git is missing in a checkout, or refuses it.
        """
        head = git.read_commit(self.path) if self._in_git else None
        given = self._settings.git_sha
        github = self._ci.sha if _SHA.fullmatch(self._ci.sha) else None
        if head and github and github != head.sha and given is None:
            warn(
                f"GITHUB_SHA is {github}, but the checkout is at {head.sha}, which is used; set GIT_SHA to override it"
            )
        sha = given or (head.sha if head else github)
        if sha is None:
            ignored = "" if self._in_git else "; no .gitignore applies"
            warn(f"{self.path.name} has no commit: the archive is called `unknown`{ignored}")
            return None
        if head and head.sha == sha:
            return head
        return (git.read_commit(self.path, sha) if self._in_git else None) or git.Commit(sha, None)

    def ref(self, sha: str | None) -> str:
        """Return the branch or tag that a GitHub job builds, if the job is about commit `sha`; otherwise the commit."""
        if sha and self._ci.sha == sha and self._ci.ref and self._ci.ref.isprintable():
            return self._ci.ref
        return sha or "unknown"

    def select(self) -> SelectedFiles:
        """Return what is packed.

        Raises:
            LocalError: A required file is missing, a folder cannot be read, or a name has control characters.
            SettingError: A pattern, or a line of `.dockerignore`, is not valid.
        """
        with self._list() as listed:
            files, changed = self._sift(listed, self._rules)  # git lists while the rules are read
        self._check_required(files)
        return SelectedFiles(files, sorted(changed), survey_names(self.path, files, self._rules.packs))

    def find_changed(self) -> list[str]:
        """Return the `changed` of `select`; if git reports none and no setting adds files, the rules are not needed.

        Raises:
            LocalError: As in `select`.
        """
        roots = self.project.roots
        if self._in_git and not (self._settings.include or self._settings.exclude):
            with list_files(self.path, roots, only_changes=True) as listed:
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
        if self._in_git and (rule := git.explain_ignored(self.path, path)):
            reason = f"pattern {rule.pattern!r}, and git does not track it"
            return Verdict(packed=False, reason=reason, source=rule.file, line=rule.line)
        return self._rules.explain_default(path)

    @cached_property
    def _in_git(self) -> bool:
        return git.is_checkout(self.path)

    @cached_property
    def _rules(self) -> PackingRules:
        return PackingRules(self.path, self.project, self._settings, self._ours)

    def _sift(self, listed: Iterable[tuple[str, Status]], rules: PackingRules) -> tuple[list[str], set[str]]:
        """Return the listed paths that are packed, sorted, and those that differ from the commit."""
        files: list[str] = []
        changed: set[str] = set()
        deleted: set[str] = set()
        for path, status in listed:
            if not rules.packs(path):
                continue
            if status is Status.ABSENT:
                raise LocalError(f"{path} is left out by the sparse checkout", "run `git sparse-checkout disable`")
            if status is not Status.UNCHANGED:
                changed.add(path)
            if status is Status.DELETED:
                deleted.add(path)
            elif status is not Status.STAGED:
                files.append(path)
        files.sort()  # nearly sorted already; a file that differs from the commit is listed more than once
        environments = tuple(path.removesuffix(VENV_MARK) for path in files if path.endswith(f"/{VENV_MARK}"))
        kept = (path for path, _ in groupby(files))
        if deleted or environments:
            kept = (path for path in kept if path not in deleted and not path.startswith(environments))
        return list(kept), {path for path in changed if not path.startswith(environments)}

    @contextmanager
    def _list(self) -> Iterator[Iterator[tuple[str, Status]]]:
        if not self._in_git:
            walked = walk_files(self.path, self.project.roots, self._rules.prunes)
            yield chain(((path, Status.UNCHANGED) for path in walked), self._list_included())
            return
        with list_files(self.path, self.project.roots) as listed:
            yield chain(listed, self._list_included())

    def _list_included(self) -> Iterator[tuple[str, Status]]:
        """Yield what INCLUDE adds, from anywhere below the source, even if git ignores it."""
        if not self._settings.include:
            return
        statuses: dict[str, Status] = {}
        if self._in_git:
            with list_files(self.path) as listed:
                statuses = {path: status for path, status in listed if self._rules.includes(path)}
        untracked = Status.CHANGED if self._in_git else Status.UNCHANGED
        for path in walk_files(self.path, os.listdir(self.path), self._rules.closes):
            if self._rules.includes(path):
                yield path, statuses.get(path, untracked)

    def _check_required(self, files: Sequence[str]) -> None:
        packed = set(self.project.required).intersection(files)
        for path in self.project.required:
            if path not in packed:
                verdict = self.explain(path)
                where = f" ({verdict.source}, line {verdict.line})" if verdict.source else ""
                raise LocalError(
                    f"{path} is needed by the build, but left out: {verdict.reason}{where}", f"set INCLUDE={path}"
                )
