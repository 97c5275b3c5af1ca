"""A source tree: what its project file says, which commit it is at, and which of its files are packed."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

from buildkit.source.dependencies import INSTALLABLE, REQUIREMENTS
from buildkit.source.metadata import read_package
from buildkit.source.project import find_spec, read_project

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from buildkit.errors import LocalError
    from buildkit.models import Problem, Project
    from buildkit.settings import CiEnvironment, Settings
    from buildkit.source.checkout import Commit
    from buildkit.source.dependencies import GitDescription
    from buildkit.source.metadata import Package
    from buildkit.source.rules import Verdict
    from buildkit.source.selection import FileSelection, SelectedFiles

_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


class SourceTree:
    """A source tree. What only some tasks need is imported by the methods that need it: git above all.

    Args:
        path: Absolute.
        ours: POSIX paths below `path` that are our own output: the output directory, that of `serve`, and their locks.
    """

    def __init__(self, path: Path, settings: Settings, ci: CiEnvironment, *, ours: Sequence[str] = ()) -> None:
        self.path = path
        self._settings = settings
        self._ci = ci
        self._ours = ours
        self._checked: SelectedFiles | None = None
        self._losses: tuple[SelectedFiles, list[Problem]] | None = None

    @cached_property
    def package(self) -> Package:
        """What the project file of the root says.

        Raises:
            LocalError: It is invalid.
        """
        return read_package(self.path)

    @cached_property
    def project(self) -> Project:
        """What the project files say.

        Raises:
            LocalError: One is invalid, or a file that the build needs is missing.
        """
        project = read_project(self.path, self._settings.requirements, is_built=self._settings.dockerfile is None)
        if project.is_package and project.dependencies.kind == REQUIREMENTS and not self._packs_project_file(project):
            return project._replace(is_package=False, scripts={}, required=project.dependencies.files)
        return project

    def _packs_project_file(self, project: Project) -> bool:
        """Return whether the package can be installed; an application with requirements also runs as it is."""
        from buildkit.source.rules import PackingRules

        rules = PackingRules(self.path, project, self._settings, self._ours)
        return any((self.path / name).is_file() and rules.packs(name) for name in INSTALLABLE)

    def find_spec(self, named: str | None) -> str | None:
        """Return the path of the PyInstaller spec, or None if there is none, or several and none is named.

        Raises:
            LocalError: The named one is missing.
        """
        return find_spec(self.path, self.project.roots, named)

    def identify(self, warn: Callable[[str], None]) -> Commit | None:
        """Return the commit that the archive is named after: GIT_SHA, or git's, or GITHUB_SHA, or None.

        Raises:
            LocalError: git is missing in a checkout, or refuses it.
        """
        from buildkit.source import checkout

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

    def describe(self) -> GitDescription:
        """Return where the commit is in the history: what packages with a version from git are built with.

        Raises:
            LocalError: git is missing in a checkout, or refuses it.
        """
        from buildkit.source import checkout

        return checkout.describe(self.path) if self._in_git else checkout.NO_DESCRIPTION

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
        selected = self._selection.select()
        if missing := self._selection.find_missing(selected.files):
            raise missing
        return selected

    def try_select(self) -> tuple[SelectedFiles, LocalError | None]:
        """Return what is packed, and an error if the build cannot do with it; `find_changes` then starts from that.

        Raises:
            LocalError, SettingError: Nothing can be selected, as in `select`.
        """
        self._checked = self._selection.select()
        return self._checked, self._selection.find_missing(self._checked.files)

    def find_losses(self, selected: SelectedFiles) -> list[Problem]:
        """Return what a selection lacks although the tree seems to have it.

        Raises:
            LocalError: A project file cannot be read.
        """
        from buildkit.source.losses import Losses

        if self._losses is None or not selected.is_like(self._losses[0]):
            losses = Losses(self.path, self.project, selected, self.explain, self._selection.suggest)
            self._losses = (selected, losses.find())
        return self._losses[1]

    def explain(self, path: str) -> Verdict:
        """Return whether `path` is packed and by which rule.

        Raises:
            LocalError: There is no such file.
        """
        return self._selection.explain(path)

    def find_changes(self, recall: Callable[[SelectedFiles], dict[str, str] | None] = lambda _: None) -> dict[str, str]:
        """Return the paths, packed or deleted, that differ from the commit, each with the reason if it is not an edit.

        Args:
            recall: Returns what differs from `committed` if that is known; otherwise the files are read.

        Raises:
            LocalError: As in `select`, or a file cannot be read.
        """
        from buildkit.source.reader import Sink, TreeReader

        selected, self._checked = self._checked or self.select(), None
        different = recall(selected) if selected.committed else {}
        if different is None:
            reader = TreeReader(self.path, Sink(), selected.committed)
            reader.read([path for path in selected.files if path in selected.committed])
            different = reader.different
        return self.explain_changes(selected, different)

    def explain_changes(self, selected: SelectedFiles, different: Mapping[str, str]) -> dict[str, str]:
        """Return what `find_changes` does, from what was noticed while the selected files were read."""
        from buildkit.source.changes import explain_changes
        from buildkit.source.folders import SourceFolders

        edited: dict[str, str] = {}
        if different:
            with SourceFolders(self.path) as folders:
                edited = explain_changes(self.path, folders, different, selected.committed)
        return dict(sorted({**dict.fromkeys(selected.changed, ""), **edited}.items()))

    @cached_property
    def _selection(self) -> FileSelection:
        from buildkit.source.selection import FileSelection

        return FileSelection(self.path, self.project, self._settings, in_git=self._in_git, ours=self._ours)

    @cached_property
    def _in_git(self) -> bool:
        from buildkit.source.checkout import is_checkout

        return is_checkout(self.path)
