"""The rules by which a path of a source tree is packed or left out, in order, and which of them decided."""

from __future__ import annotations

import os
import re
import stat
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError
from buildkit.files import read_bounded
from buildkit.generated import GENERATED_FOLDER
from buildkit.source.dockerignore import DOCKERIGNORE, read_dockerignore
from buildkit.source.never import find_never_file, find_never_folder, may_be_private_key
from buildkit.workspace import DOCKERFILE, INSTRUCTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from buildkit.models import Project
    from buildkit.settings import Settings
    from buildkit.source.gitignore import GitignoreRules
    from buildkit.source.never import NeverPacked

VENV_MARK = "pyvenv.cfg"
# With either, the builder would filter the packed files again, and the generated ones too.
_DOCKERIGNORES = frozenset({DOCKERIGNORE, f"{DOCKERFILE}{DOCKERIGNORE}"})
# Files of ours that are packed under these names; the tree's own never are.
_GENERATED_FILES = frozenset({DOCKERFILE, INSTRUCTIONS})

_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEY_HEAD_BYTES = 1 << 16


class Verdict(NamedTuple):
    """Whether a path is packed, the reason, and the file (or setting) and line of the rule, if it is one that has."""

    packed: bool
    reason: str
    source: str | None = None
    line: int | None = None

    def describe(self) -> str:
        """Return the reason with the place of the rule."""
        return f"{self.reason} ({self.source}, line {self.line})" if self.source else self.reason


class PackingRules:
    """The rules for one source tree. The first one that applies decides.

    Never packed: version control, caches, secrets, our own output, files that a generated one replaces. Then EXCLUDE,
    INCLUDE, what is outside the project's roots, `.dockerignore`. Git's own rules are not here: git does not list what
    it ignores.

    Args:
        ours: Paths of our own output.

    Raises:
        SettingError: A pattern, or a line of `.dockerignore`, is not valid.
    """

    def __init__(self, source: Path, project: Project, settings: Settings, ours: Sequence[str]) -> None:
        self._source = source
        self._roots = frozenset(project.roots)
        self._ours = frozenset(ours)
        self._replaced = self._ours | _GENERATED_FILES
        self._include = _parse_setting(settings.include, "INCLUDE")
        self._exclude = _parse_setting(settings.exclude, "EXCLUDE")
        self._dockerignore = read_dockerignore(source, settings.dockerfile)
        self._folder = ""  # neighbours share a folder, so what applies to all of it is determined once
        self._folder_closed, self._folder_inside = False, not self._roots

    def packs(self, path: str) -> bool:
        """Return whether the file at `path` is packed, for a path that git does not ignore."""
        folder = path[: max(path.rfind("/"), 0)]
        if folder != self._folder:
            self._folder = folder
            self._folder_closed = self.closes(folder)
            self._folder_inside = self._is_inside(folder)
        if self._folder_closed or path in self._replaced or self._is_never(path):
            return False
        if self._exclude and self._exclude.excludes(path):
            return False
        if self._include and self._include.excludes(path):
            return True
        if not (self._folder_inside or path in self._roots) or path in _DOCKERIGNORES:
            return False
        return not (self._dockerignore and self._dockerignore.excludes(path))

    @property
    def has_includes(self) -> bool:
        """Whether INCLUDE says anything."""
        return self._include is not None

    def includes(self, path: str) -> bool:
        """Return whether INCLUDE adds `path`."""
        return bool(self._include and self._include.excludes(path))

    def prunes(self, folder: str) -> bool:
        """Return whether nothing below `folder` is packed unless INCLUDE adds it."""
        return self.closes(folder) or bool(self._dockerignore and self._dockerignore.prunes(folder))

    def closes(self, folder: str) -> bool:
        """Return whether nothing below `folder` is ever packed, whatever INCLUDE says."""
        return (
            self._is_ours(folder)
            or _is_generated(folder)
            or bool(self._exclude and self._exclude.prunes(folder))
            or _find_never_above(folder) is not None
        )

    def explain(self, path: str) -> Verdict | None:
        """Return the rule that decides about `path`, or None if git's own rules decide.

        Raises:
            LocalError: There is no such file.
        """
        return self._explain_kind(path) or self._explain_never(path) or self._explain_patterns(path)

    def explain_default(self, path: str) -> Verdict:
        """Return why `path` is packed if neither a rule nor git leaves it out."""
        rule = self._dockerignore.explain(path) if self._dockerignore else None
        if rule:
            return Verdict(packed=True, reason=f"pattern {rule.pattern!r}", source=rule.source, line=rule.line)
        return Verdict(packed=True, reason="no rule leaves it out")

    def _explain_kind(self, path: str) -> Verdict | None:
        try:
            mode = 0
            for place in accumulate(path.split("/"), "{}/{}".format):
                if stat.S_ISLNK(mode):
                    return Verdict(packed=False, reason="it is behind a symbolic link, which is packed as a link")
                mode = os.lstat(self._source / place).st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise LocalError(f"no such file in the source directory: {path}", "give a path below SOURCE_DIR") from None
        except OSError as error:
            raise LocalError(f"{path} cannot be looked up: {error.strerror}", "give a path below SOURCE_DIR") from error
        if stat.S_ISDIR(mode):
            raise LocalError(f"{path} is a folder", "give the path of a file in it")
        if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            return None
        return Verdict(packed=False, reason="it is not a file, folder or link")

    def _explain_never(self, path: str) -> Verdict | None:
        folder = path.rpartition("/")[0]
        if self._is_ours(path):
            return Verdict(packed=False, reason="it is our own output")
        if path in _GENERATED_FILES or _is_generated(folder):
            return Verdict(packed=False, reason="a generated file of that name is packed instead")
        if rule := _find_never_above(folder) or find_never_file(path):
            return Verdict(packed=False, reason=f"never packed: {rule.reason}")
        if self._is_never(path):
            return Verdict(packed=False, reason="never packed: a private key")
        above = accumulate(folder.split("/"), "{}/{}".format) if folder else ()
        if any((self._source / place / VENV_MARK).is_file() for place in above):
            return Verdict(packed=False, reason="it is in a virtual environment")
        return None

    def _explain_patterns(self, path: str) -> Verdict | None:
        for rules, packed in ((self._exclude, False), (self._include, True)):
            if rules and (rule := rules.explain(path)) and not rule.include:
                return Verdict(packed, f"pattern {rule.pattern!r}", rule.source, rule.line)
        if not (self._is_inside(path.rpartition("/")[0]) or path in self._roots):
            return Verdict(packed=False, reason="it is outside what is packed by default; INCLUDE adds it")
        if self._dockerignore and (rule := self._dockerignore.explain(path)) and not rule.include:
            return Verdict(packed=False, reason=f"pattern {rule.pattern!r}", source=rule.source, line=rule.line)
        if path in _DOCKERIGNORES:
            return Verdict(packed=False, reason="the builder would apply its rules to what is packed")
        return None

    def _is_ours(self, path: str) -> bool:
        return any(path == ours or path.startswith(f"{ours}/") for ours in self._ours)

    def _is_inside(self, folder: str) -> bool:
        """Return whether `folder` is a root of the project or inside one; without any, the whole tree is."""
        return not self._roots or any(folder == root or folder.startswith(f"{root}/") for root in self._roots)

    def _is_never(self, path: str) -> bool:
        if find_never_file(path):
            return True
        return may_be_private_key(path) and _has_private_key(f"{self._source}/{path}")


def _find_never_above(folder: str) -> NeverPacked | None:
    """Return the rule by which nothing in `folder` is packed, because of its name or of one above it."""
    above = accumulate(folder.split("/"), "{}/{}".format)
    return next((rule for place in above if (rule := find_never_folder(place))), None)


def _is_generated(folder: str) -> bool:
    return folder == GENERATED_FOLDER or folder.startswith(f"{GENERATED_FOLDER}/")


def _has_private_key(path: str) -> bool:
    try:
        return _PRIVATE_KEY.search(read_bounded(path, _KEY_HEAD_BYTES)) is not None
    except OSError:
        return False  # a link is packed as a link; the packer reports what cannot be read


def _parse_setting(patterns: Sequence[str], name: str) -> GitignoreRules | None:
    if not patterns:
        return None
    from buildkit.source.gitignore import parse_gitignore

    return parse_gitignore(patterns, name)
