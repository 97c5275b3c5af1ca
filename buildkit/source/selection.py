"""Which files of a source tree are packed, and by which rule."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError
from buildkit.source import checkout
from buildkit.source.candidates import Candidates
from buildkit.source.listing import Status
from buildkit.source.rules import VENV_MARK, PackingRules, Verdict
from buildkit.source.survey import has_any, survey_names
from buildkit.source.walk import walk_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from buildkit.models import Project
    from buildkit.settings import Settings
    from buildkit.source.listing import ListedFile

EXCLUDE = "EXCLUDE"
_MAX_NAMED = 10
_WILDCARD = re.compile(r"([\\*?\[])")


class SelectedFiles(NamedTuple):
    """The files that are packed.

    Attributes:
        files: Sorted POSIX paths of regular files and symbolic links.
        changed: Paths, packed or deleted, that differ from the commit whatever they contain; empty outside git.
        warnings: What was skipped, and names that cause trouble elsewhere; a sentence each.
        committed: Mode and ID of the other files in the commit, by path; whether they differ is known once they are
            read.
        submodules: Folders of submodules that are not checked out, so that nothing of them is packed.
        links: Those of the files that are symbolic links.
        modules: Python files that are not packed although others in their folder are, and folders of which nothing is.
    """

    files: list[str]
    changed: list[str]
    warnings: list[str]
    committed: dict[str, str] = {}  # noqa: RUF012 - nothing is added to it
    submodules: Sequence[str] = ()
    links: Sequence[str] = ()
    modules: Sequence[str] = ()

    def is_like(self, other: SelectedFiles) -> bool:
        """Return whether the same is packed and left out, whatever the files contain."""
        return (self.files, self.submodules, self.links, self.modules) == (
            other.files,
            other.submodules,
            other.links,
            other.modules,
        )


class _Sifted(NamedTuple):
    """The listed files that are packed, by name; some may be missing."""

    files: list[str]
    changed: set[str]
    committed: dict[str, str]
    submodules: list[str]


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
        self._candidates = Candidates(path, project, lambda: self._rules, in_git=in_git)

    def select(self) -> SelectedFiles:
        """Return what is packed, whether or not the build can do with it.

        Raises:
            LocalError: A folder cannot be read, or a name has control characters.
            SettingError: A pattern, or a line of `.dockerignore`, is not valid.
        """
        with self._candidates.stream() as listed:
            found = self._sift(listed, self._rules)  # git lists while the rules are read
        survey = survey_names(self._path, found.files, self._rules.packs)
        files, changed = found.files, found.changed
        if survey.missing:
            gone = frozenset(survey.missing)
            files = [path for path in files if path not in gone]
            changed |= gone if self._in_git else frozenset()
        warnings = [*survey.warnings, *self._candidates.describe_untracked()]
        return SelectedFiles(
            files, sorted(changed), warnings, found.committed, found.submodules, survey.links, survey.modules
        )

    def find_missing(self, files: Sequence[str]) -> LocalError | None:
        """Return an error if the build cannot do with `files`: what it needs is named at once, each with its rule."""
        packed = set(self._project.required).intersection(files)
        left_out = {path: self.explain(path) for path in self._project.required if path not in packed}
        lost = [path for path in self._project.packages if not has_any(files, path)]
        if self._project.packages and len(lost) == len(self._project.packages):
            examples = (self._find_in_package(path) for path in lost)
            left_out |= {path: self.explain(path) for path in examples if path}
        if left_out:
            reasons = [
                f"{path} is needed by the build, but left out: {rule.describe()}" for path, rule in left_out.items()
            ]
            return LocalError("; ".join(reasons), self.suggest(left_out))
        if not files:
            return LocalError(f"nothing in {self._path} would be packed", "set SOURCE_DIR to the checkout to pack")
        return None

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
        if self._candidates.is_untracked(path):
            return Verdict(packed=False, reason="git does not track it; `git add` or INCLUDE adds it")
        return self._rules.explain_default(path)

    def suggest(self, left_out: Mapping[str, Verdict]) -> str:
        """Return what to type so that paths are packed, each given with the rule that leaves it out now."""
        exclude, include = self._settings.exclude, [*self._settings.include, *map(make_pattern, left_out)]
        patterns = {exclude[rule.line - 1] for rule in left_out.values() if rule.source == EXCLUDE and rule.line}
        if patterns:
            return f"remove {' and '.join(map(repr, sorted(patterns)))} from EXCLUDE"
        rules = PackingRules(self._path, self._project, replace(self._settings, include=tuple(include)), self._ours)
        stuck = [path for path in left_out if not ((verdict := rules.explain(path)) and verdict.packed)]
        return f"rename or move {', '.join(stuck[:_MAX_NAMED])}" if stuck else f"set INCLUDE={','.join(include)}"

    @cached_property
    def _rules(self) -> PackingRules:
        return PackingRules(self._path, self._project, self._settings, self._ours)

    def _sift(self, listed: Iterable[ListedFile], rules: PackingRules) -> _Sifted:
        """Return the listed files that are packed, and which of them differ from the commit."""
        files: list[str] = []
        committed: dict[str, str] = {}
        changed: set[str] = set()
        submodules: set[str] = set()
        for path, status, entry in listed:
            if status is Status.SUBMODULE:
                submodules.add(path)
                continue
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
        return _Sifted(list(kept), changed, committed, sorted(submodules))

    def _find_in_package(self, package: str) -> str | None:
        """Return a file of a package of which nothing is packed."""
        if package.endswith(".py"):
            return package if os.path.lexists(self._path / package) else None
        files = sorted(path for path in walk_files(self._path, [package], lambda _: False))
        return next((path for path in files if path.endswith(".py")), None)


def make_pattern(path: str) -> str:
    r"""Return the gitignore pattern that matches one path: `docs/[a].md` gives `/docs/\[a].md`."""
    return "/" + _WILDCARD.sub(r"\\\1", path)
