"""The rules by which a path of a source tree is packed or left out, in their order, and which of them decided."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError, SettingError
from buildkit.regular import read_regular

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from buildkit.models import Project
    from buildkit.source.ignore import IgnoreRules

DOCKERIGNORE = ".dockerignore"
VENV_MARK = "pyvenv.cfg"

# Never packed, tracked or not: version control, caches, secrets. Templates of a `.env` are no secrets.
_FOLDERS = (
    r"\.git|\.hg|\.svn|\.bzr|\.jj|__pycache__|\.mypy_cache|\.pytest_cache|\.ruff_cache|\.tox|\.nox|\.hypothesis"
    r"|\.ipynb_checkpoints|\.venv|\.uv-cache|\.aws|\.ssh|\.gnupg"
)
_FILES = (
    r"\.env(?:\.(?!(?:example|sample|template|dist)$).*)?|\.envrc|\.netrc|\.pypirc|\.git-credentials|\.dockercfg"
    r"|id_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?|.*\.(?:p12|pfx|ppk|pyc|pyo)"
)
_NEVER_FOLDER = re.compile(_FOLDERS, re.IGNORECASE)
_NEVER_NAME = re.compile(f"{_FOLDERS}|{_FILES}", re.IGNORECASE | re.DOTALL)
_MAYBE_PRIVATE_KEY = (".pem", ".key")
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEY_HEAD_BYTES = 1 << 16


class Verdict(NamedTuple):
    """Whether a path is packed, the reason, and the file (or setting) and line that say so, where there is one."""

    packed: bool
    reason: str
    source: str | None = None
    line: int | None = None


class PackingRules:
    """The rules for one source tree. The first that speaks decides.

    Never packed: version control, caches, secrets, our own output. Then EXCLUDE, INCLUDE, what lies outside the
    project's roots, `.dockerignore`. What git ignores is not asked for here: git does not list it.
    """

    def __init__(
        self,
        source: Path,
        project: Project,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        ours: Sequence[str] = (),
    ) -> None:
        """Read the rules.

        Args:
            include: gitignore patterns of what is packed besides, whatever `.dockerignore` and git say.
            exclude: gitignore patterns of what is left out.
            ours: Paths of our own output.

        Raises:
            SettingError: A pattern, or a line of `.dockerignore`, is not one.
        """
        self._source = source
        self._roots = frozenset(project.roots)
        self._ours = frozenset(ours)
        self._include = _parse_setting(include, "INCLUDE")
        self._exclude = _parse_setting(exclude, "EXCLUDE")
        self._dockerignore = _read_dockerignore(source)
        self._folder = ""  # neighbours lie in one folder, so what holds for all of it is asked once
        self._folder_closed = self._folder_inside = False

    def packs(self, path: str) -> bool:
        """Return whether the file at `path` is packed, for a path that git does not ignore."""
        folder, _, name = path.rpartition("/")
        if folder != self._folder:
            self._folder = folder
            self._folder_closed = self.closes(folder)
            self._folder_inside = self._is_inside(folder)
        if self._folder_closed or path in self._ours or self._is_never(path, name):
            return False
        if self._exclude and self._exclude.excludes(path):
            return False
        if self._include and self._include.excludes(path):
            return True
        if not (self._folder_inside or path in self._roots) or path == DOCKERIGNORE:
            return False
        return not (self._dockerignore and self._dockerignore.excludes(path))

    def includes(self, path: str) -> bool:
        """Return whether INCLUDE brings `path` back."""
        return bool(self._include and self._include.excludes(path))

    def prunes(self, folder: str) -> bool:
        """Return whether nothing below `folder` is packed unless INCLUDE brings it back."""
        return self.closes(folder) or bool(self._dockerignore and self._dockerignore.prunes(folder))

    def closes(self, folder: str) -> bool:
        """Return whether nothing below `folder` is ever packed, whatever INCLUDE says."""
        if any(folder == ours or folder.startswith(f"{ours}/") for ours in self._ours):
            return True
        return any(_NEVER_FOLDER.fullmatch(part) for part in folder.split("/"))

    def explain(self, path: str) -> Verdict | None:
        """Return the rule that decides over `path`; None where none does, so that git's own rules decide.

        Raises:
            LocalError: There is no such file.
        """
        return self._explain_kind(path) or self._explain_never(path) or self._explain_patterns(path)

    def explain_default(self, path: str) -> Verdict:
        """Return why `path` is packed where neither a rule nor git leaves it out."""
        rule = self._dockerignore.explain(path) if self._dockerignore else None
        if rule:
            return Verdict(packed=True, reason=f"pattern {rule.pattern!r}", source=DOCKERIGNORE, line=rule.line)
        return Verdict(packed=True, reason="no rule leaves it out")

    def _explain_kind(self, path: str) -> Verdict | None:
        try:
            mode = os.lstat(self._source / path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise LocalError(f"no such file in the source directory: {path}", "give a path below SOURCE_DIR") from None
        if stat.S_ISDIR(mode):
            raise LocalError(f"{path} is a folder", "give the path of a file in it")
        if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            return None
        return Verdict(packed=False, reason="it is not a file, folder or link")

    def _explain_never(self, path: str) -> Verdict | None:
        folder, _, name = path.rpartition("/")
        if path in self._ours or any(path.startswith(f"{ours}/") for ours in self._ours):
            return Verdict(packed=False, reason="it is our own output")
        if self.closes(folder) or self._is_never(path, name):
            return Verdict(packed=False, reason="version control, caches and secrets are never packed")
        folders = path.split("/")[:-1]
        above = (self._source.joinpath(*folders[:depth]) for depth in range(1, len(folders) + 1))
        if any((place / VENV_MARK).is_file() for place in above):
            return Verdict(packed=False, reason="it lies in a virtual environment")
        return None

    def _explain_patterns(self, path: str) -> Verdict | None:
        for rules, packed in ((self._exclude, False), (self._include, True)):
            if rules and (rule := rules.explain(path)) and not rule.include:
                return Verdict(packed, f"pattern {rule.pattern!r}", rule.source, rule.line)
        if not (self._is_inside(path.rpartition("/")[0]) or path in self._roots):
            return Verdict(packed=False, reason="it is outside what is packed by default; INCLUDE adds it")
        if self._dockerignore and (rule := self._dockerignore.explain(path)) and not rule.include:
            return Verdict(packed=False, reason=f"pattern {rule.pattern!r}", source=DOCKERIGNORE, line=rule.line)
        if path == DOCKERIGNORE:
            return Verdict(packed=False, reason="its rules are applied here, so that the builder does not apply them")
        return None

    def _is_inside(self, folder: str) -> bool:
        """Return whether `folder` is a root of the project or lies in one."""
        return any(folder == root or folder.startswith(f"{root}/") for root in self._roots)

    def _is_never(self, path: str, name: str) -> bool:
        if _NEVER_NAME.fullmatch(name):
            return True
        return name.endswith(_MAYBE_PRIVATE_KEY) and _holds_private_key(f"{self._source}/{path}")


def _holds_private_key(path: str) -> bool:
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False  # a link is packed as a link; anything else is never opened
        return _PRIVATE_KEY.search(read_regular(path, _KEY_HEAD_BYTES)) is not None
    except OSError:
        return False  # the packer says what cannot be read


def _parse_setting(patterns: Sequence[str], name: str) -> IgnoreRules | None:
    if not patterns:
        return None
    from buildkit.source.patterns import parse_gitignore

    return parse_gitignore(patterns, name)


def _read_dockerignore(source: Path) -> IgnoreRules | None:
    try:
        text = read_regular(source / DOCKERIGNORE).decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{DOCKERIGNORE} cannot be read: {error}", f"save {DOCKERIGNORE} as UTF-8 text") from error
    from buildkit.source.ignore import parse_dockerignore

    return parse_dockerignore(text, DOCKERIGNORE)
