"""A source tree: which commit it is at, which of its files are packed, and which rule decides about each of them."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, groupby
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError
from buildkit.source import checkout
from buildkit.source.changes import explain_changes
from buildkit.source.folders import SourceFolders
from buildkit.source.listing import ListedFile, Status, list_files
from buildkit.source.project import find_spec, read_project
from buildkit.source.reader import Discard, TreeReader
from buildkit.source.rules import VENV_MARK, PackingRules, Verdict
from buildkit.source.survey import survey_names
from buildkit.source.walk import walk_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from buildkit.models import Project
    from buildkit.settings import CiEnvironment, Settings

_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


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

    def identify(self, warn: Callable[[str], None]) -> checkout.Commit | None:
        """Return the commit that the archive is named after: GIT_SHA, or git's, or GITHUB_SHA, or None.

        Raises:
            LocalError: git is missing in a checkout, or refuses it.
        """
        head = checkout.read_head(self.path) if self._in_git else None
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
        return (checkout.find_commit(self.path, sha) if self._in_git else None) or checkout.Commit(sha, None)

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
            found = self._sift(listed, self._rules)  # git lists while the rules are read
        missing, warnings = survey_names(self.path, found.files, self._rules.packs)
        files, changed = found.files, found.changed
        if missing:
            gone = frozenset(missing)
            files = [path for path in files if path not in gone]
            changed |= gone if self._in_git else frozenset()
        self._check_required(files)
        return SelectedFiles(files, sorted(changed), warnings, found.committed)

    def find_changes(self, recall: Callable[[SelectedFiles], dict[str, str] | None] = lambda _: None) -> dict[str, str]:
        """Return the paths, packed or deleted, that differ from the commit, each with the reason if it is not an edit.

        Args:
            recall: Returns what differs from `committed` if that is known; otherwise the files are read.

        Raises:
            LocalError: As in `select`, or a file cannot be read.
        """
        selected = self.select()
        different = recall(selected) if selected.committed else {}
        if different is None:
            reader = TreeReader(self.path, Discard(), selected.committed)
            reader.read(selected.files)
            different = reader.different
        return self.explain_changes(selected, different)

    def explain_changes(self, selected: SelectedFiles, different: Mapping[str, str]) -> dict[str, str]:
        """Return what `find_changes` does, from what was noticed while the selected files were read."""
        edited: dict[str, str] = {}
        if different:
            with SourceFolders(self.path) as folders:
                edited = explain_changes(self.path, folders, different, selected.committed)
        return dict(sorted({**dict.fromkeys(selected.changed, ""), **edited}.items()))

    def explain(self, path: str) -> Verdict:
        """Return whether `path` is packed and by which rule.

        Raises:
            LocalError: There is no such file.
        """
        if verdict := self._rules.explain(path):
            return verdict
        if self._in_git and (rule := checkout.explain_ignored(self.path, path)):
            reason = f"pattern {rule.pattern!r}, and git does not track it"
            return Verdict(packed=False, reason=reason, source=rule.file, line=rule.line)
        return self._rules.explain_default(path)

    @cached_property
    def _in_git(self) -> bool:
        return checkout.is_checkout(self.path)

    @cached_property
    def _rules(self) -> PackingRules:
        return PackingRules(self.path, self.project, self._settings, self._ours)

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
            walked = walk_files(self.path, self.project.roots, self._rules.prunes)
            yield chain((ListedFile(path, Status.CHANGED) for path in walked), self._list_included())
            return
        with list_files(self.path, self.project.roots, self._prunes) as listed:
            yield chain(listed, self._list_included())

    def _list_included(self) -> Iterator[ListedFile]:
        """Yield what INCLUDE adds, from anywhere below the source, even if git ignores it."""
        if not self._settings.include:
            return
        known: dict[str, list[ListedFile]] = {}
        if self._in_git:
            with list_files(self.path, (), self._rules.closes) as listed:
                for file in listed:
                    if self._rules.includes(file.path):
                        known.setdefault(file.path, []).append(file)
        yield from chain.from_iterable(known.values())
        for path in walk_files(self.path, os.listdir(self.path), self._rules.closes):
            if path not in known and self._rules.includes(path):
                yield ListedFile(path, Status.CHANGED)

    def _check_required(self, files: Sequence[str]) -> None:
        packed = set(self.project.required).intersection(files)
        for path in self.project.required:
            if path not in packed:
                verdict = self.explain(path)
                where = f" ({verdict.source}, line {verdict.line})" if verdict.source else ""
                raise LocalError(
                    f"{path} is needed by the build, but left out: {verdict.reason}{where}", f"set INCLUDE={path}"
                )
