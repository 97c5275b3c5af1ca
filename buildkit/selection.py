"""Which files of a source tree are packed, and why: the rules in their order, and the listing they are applied to."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit import git
from buildkit.errors import LocalError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from buildkit.ignore import IgnoreRules
    from buildkit.models import Project

DOCKERIGNORE = ".dockerignore"
_MAX_NAMED = 10

# Never packed, tracked or not: version control, caches, secrets. Templates of a `.env` are no secrets.
_NEVER_FOLDERS = (
    r"\.git|\.hg|\.svn|\.bzr|\.jj|__pycache__|\.mypy_cache|\.pytest_cache|\.ruff_cache|\.tox|\.nox|\.hypothesis"
    r"|\.ipynb_checkpoints|\.venv|\.uv-cache|\.aws|\.ssh|\.gnupg"
)
_NEVER_FILES = (
    r"\.env(?:\.(?!example$|sample$|template$|dist$)[^/]*)?|\.envrc|\.netrc|\.pypirc|\.git-credentials|\.dockercfg"
    r"|id_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?|[^/]*\.(?:p12|pfx|ppk|pyc|pyo)"
)
_NEVER = re.compile(rf"(?:^|/)(?:(?:{_NEVER_FOLDERS})(?:/|$)|(?:{_NEVER_FILES})$)", re.IGNORECASE)
_MAYBE_PRIVATE_KEY = (".pem", ".key")
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_VENV_MARK = "pyvenv.cfg"

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_WINDOWS_TROUBLE = re.compile(
    r"[\\:*?\"<>|]|(?:^|/)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.[^/]*)?(?:/|$)|[. ](?:/|$)", re.IGNORECASE
)


@dataclass(frozen=True)
class SelectedFiles:
    """What is packed.

    Attributes:
        files: Sorted POSIX paths of regular files and symbolic links.
        changed: Those among them, or missing from them, that differ from the commit; none outside git.
        warnings: What was passed over and what may trouble others, a sentence each.
    """

    files: list[str]
    changed: list[str]
    warnings: list[str]


@dataclass(frozen=True)
class Verdict:
    """Whether a path is packed, the reason, and the file (or setting) and line that say so, where there is one."""

    packed: bool
    reason: str
    source: str | None = None
    line: int | None = None


class Selection:
    """The rules for one source tree. The first that speaks decides.

    Never packed: version control, caches, secrets, our own output. Then EXCLUDE, INCLUDE, what lies outside the
    project's roots, `.dockerignore`, what git ignores.
    """

    def __init__(
        self,
        source: Path,
        project: Project,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        never: Sequence[str] = (),
    ) -> None:
        """Read the rules.

        Args:
            include: gitignore patterns of what is packed besides, whatever `.dockerignore` and git say.
            exclude: gitignore patterns of what is left out.
            never: Paths below the source that are ours: the output directory and its lock.

        Raises:
            SettingError: A pattern, or a line of `.dockerignore`, is not one.
        """
        self.source = source
        self.project = project
        self._in_git = git.is_checkout(source)
        self._never = tuple(never)
        self._include = _parse_setting(include, "INCLUDE")
        self._exclude = _parse_setting(exclude, "EXCLUDE")
        self._dockerignore = _read_dockerignore(source)
        self._tops = frozenset(project.roots)

    def select(self) -> SelectedFiles:
        """Return what is packed.

        Raises:
            LocalError: A required file is missing, a directory cannot be read, or a name has control characters.
        """
        files: set[str] = set()
        changed: set[str] = set()
        for path, status in self._list():
            if not self._packs(path):
                continue
            if status is git.Status.ABSENT:
                raise LocalError(f"{path} is left out by the sparse checkout", "run `git sparse-checkout disable`")
            if status is not git.Status.UNCHANGED:
                changed.add(path)
            if status is git.Status.DELETED:
                files.discard(path)
            else:
                files.add(path)
        files -= self._find_venv_files(files)
        self._require(files)
        specials = [path for path in self._find_specials(files) if not _NEVER.search(path)]
        ordered = sorted(files)
        _refuse_controls(ordered)
        warnings = [f"skipped {path}: not a file, folder or link" for path in specials] + _describe_odd_names(ordered)
        return SelectedFiles(ordered, sorted(changed), warnings)

    def explain(self, path: str) -> Verdict:
        """Return whether `path` is packed and by which rule.

        Raises:
            LocalError: There is no such file.
        """
        try:
            found = os.lstat(self.source / path)
        except (FileNotFoundError, NotADirectoryError):
            raise LocalError(f"no such file in the source directory: {path}", "give a path below SOURCE_DIR") from None
        if stat.S_ISDIR(found.st_mode):
            raise LocalError(f"{path} is a folder", "give the path of a file in it")
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            return Verdict(packed=False, reason="it is not a file, folder or link")
        return self._explain_never(path) or self._explain_rules(path)

    def _explain_never(self, path: str) -> Verdict | None:
        if self._is_ours(path):
            return Verdict(packed=False, reason="it is our own output")
        if self._is_never(path):
            return Verdict(packed=False, reason="version control, caches and secrets are never packed")
        folders = path.split("/")[:-1]
        if any((self.source.joinpath(*folders[:depth]) / _VENV_MARK).is_file() for depth in range(1, len(folders) + 1)):
            return Verdict(packed=False, reason="it lies in a virtual environment")
        return None

    def _explain_rules(self, path: str) -> Verdict:
        if self._exclude and (rule := self._exclude.explain(path)) and not rule.include:
            return Verdict(packed=False, reason=f"pattern {rule.pattern!r}", source="EXCLUDE", line=rule.line)
        if self._include and (rule := self._include.explain(path)) and not rule.include:
            return Verdict(packed=True, reason=f"pattern {rule.pattern!r}", source="INCLUDE", line=rule.line)
        if not self._is_below_root(path):
            return Verdict(packed=False, reason="it is outside what is packed by default; INCLUDE adds it")
        rule = self._dockerignore.explain(path) if self._dockerignore else None
        if rule and not rule.include:
            return Verdict(packed=False, reason=f"pattern {rule.pattern!r}", source=DOCKERIGNORE, line=rule.line)
        if path == DOCKERIGNORE:
            return Verdict(packed=False, reason="its rules are applied here, so that the builder does not apply them")
        if self._in_git and (ignored := git.explain_ignored(self.source, path)):
            file, line, pattern = ignored
            return Verdict(packed=False, reason=f"pattern {pattern!r}, and git does not track it", source=file, line=line)
        if rule:
            return Verdict(packed=True, reason=f"pattern {rule.pattern!r}", source=DOCKERIGNORE, line=rule.line)
        return Verdict(packed=True, reason="no rule leaves it out")

    def _packs(self, path: str) -> bool:
        if self._is_never(path) or (self._exclude and self._exclude.excludes(path)) or self._is_ours(path):
            return False
        if self._include and self._include.excludes(path):
            return True
        if path == DOCKERIGNORE or not self._is_below_root(path):
            return False
        return not (self._dockerignore and self._dockerignore.excludes(path))

    def _is_never(self, path: str) -> bool:
        if _NEVER.search(path):
            return True
        if not path.endswith(_MAYBE_PRIVATE_KEY):
            return False
        try:
            with (self.source / path).open("rb") as file:
                return _PRIVATE_KEY.search(file.read(1 << 16)) is not None
        except OSError:
            return False  # the packer says what cannot be read

    def _is_ours(self, path: str) -> bool:
        return any(path == ours or path.startswith(f"{ours}/") for ours in self._never)

    def _is_below_root(self, path: str) -> bool:
        if path in self._tops or path.partition("/")[0] in self._tops:
            return True
        return any(path.startswith(f"{root}/") for root in self._tops if "/" in root)

    def _list(self) -> Iterator[tuple[str, git.Status]]:
        if not self._in_git:
            yield from ((path, git.Status.UNCHANGED) for path in self._walk(self.project.roots, self._prunes))
        else:
            yield from git.list_files(self.source, self.project.roots)
        if self._include:
            yield from self._list_included()

    def _list_included(self) -> Iterator[tuple[str, git.Status]]:
        """Yield what INCLUDE brings back, from everywhere below the source, even where git ignores it."""
        tracked = dict(git.list_files(self.source)) if self._in_git else {}
        include = self._include
        for path in self._walk(os.listdir(self.source), lambda folder: _NEVER.search(folder) is not None):
            if include and include.excludes(path):
                yield path, tracked.get(path, git.Status.CHANGED if self._in_git else git.Status.UNCHANGED)

    def _prunes(self, folder: str) -> bool:
        if _NEVER.search(folder) or self._is_ours(folder):
            return True
        return bool(self._dockerignore and self._dockerignore.prunes(folder))

    def _walk(self, roots: Sequence[str], prunes: Callable[[str], bool]) -> Iterator[str]:
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
            raise LocalError(f"{len(unreadable)} directories cannot be read: {named}", "make them readable, or EXCLUDE them")

    def _find_specials(self, files: set[str]) -> Iterator[str]:
        """Yield sockets, FIFOs and devices beside the selected files. git does not list them at all."""
        for folder in sorted({path.rpartition("/")[0] for path in files}):
            with os.scandir(self.source / folder) as entries:
                for entry in entries:
                    if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)) and not (
                        entry.is_symlink()
                    ):
                        path = f"{folder}/{entry.name}" if folder else entry.name
                        if folder or entry.name in self._tops:
                            yield path

    @staticmethod
    def _find_venv_files(files: set[str]) -> set[str]:
        marks = [path.removesuffix(_VENV_MARK) for path in files if path.endswith(f"/{_VENV_MARK}")]
        return {path for path in files if path.startswith(tuple(marks))} if marks else set()

    def _require(self, files: set[str]) -> None:
        for path in self.project.required:
            if path not in files:
                verdict = self.explain(path)
                where = f" ({verdict.source}, line {verdict.line})" if verdict.source else ""
                raise LocalError(
                    f"{path} is needed by the build, but left out: {verdict.reason}{where}", f"set INCLUDE={path}"
                )


def _parse_setting(patterns: Sequence[str], name: str) -> IgnoreRules | None:
    if not patterns:
        return None
    from buildkit.ignore import parse_gitignore  # noqa: PLC0415 - most trees need no pathspec

    return parse_gitignore(patterns, name)


def _read_dockerignore(source: Path) -> IgnoreRules | None:
    try:
        text = (source / DOCKERIGNORE).read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{DOCKERIGNORE} cannot be read: {error}", f"save {DOCKERIGNORE} as UTF-8 text") from error
    from buildkit.ignore import parse_dockerignore  # noqa: PLC0415 - most steps need no pathspec

    return parse_dockerignore(text, DOCKERIGNORE)


def _refuse_controls(files: Sequence[str]) -> None:
    named = [path for path in files if _CONTROLS.search(path)]
    if named:
        raise LocalError(
            f"control characters in the name of {', '.join(repr(path) for path in named[:_MAX_NAMED])}",
            "rename it, or leave it out with EXCLUDE",
        )


def _describe_odd_names(files: Sequence[str]) -> list[str]:
    warnings = []
    odd = [path for path in files if _WINDOWS_TROUBLE.search(path)]
    if odd:
        warnings.append(f"names that not every system can hold: {', '.join(odd[:_MAX_NAMED])}")
    folded: dict[str, str] = {}
    for path in files:
        twin = folded.setdefault(path.casefold(), path)
        if twin != path:
            warnings.append(f"{twin} and {path} differ in case only")
    return warnings
