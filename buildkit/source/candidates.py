"""The files of a source tree that may be packed: those that git lists or the tree contains, and what INCLUDE adds."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

from buildkit.display import name_first
from buildkit.source.listing import ListedFile, Status, list_files, stream_untracked
from buildkit.source.walk import walk_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from buildkit.models import Project
    from buildkit.source.rules import PackingRules


class Candidates:
    """Lists the files of one source tree.

    Args:
        read_rules: Returns the rules; called only once git is at work.
        in_git: git lists the files; otherwise they are walked.
    """

    def __init__(self, path: Path, project: Project, read_rules: Callable[[], PackingRules], *, in_git: bool) -> None:
        self._path = path
        self._roots = project.roots
        self._required = frozenset(project.required)
        self._read_rules = read_rules
        self._in_git = in_git

    @contextmanager
    def stream(self) -> Iterator[Iterator[ListedFile]]:
        """Give an iterator over the files, some of them more than once."""
        if not self._in_git:
            walked = walk_files(self._path, self._roots or os.listdir(self._path), self._read_rules().prunes)
            yield chain((ListedFile(path, Status.CHANGED) for path in walked), self._list_included())
            return
        if self._roots:
            with list_files(self._path, self._roots, self._prunes) as listed:
                yield chain(listed, self._list_included())
            return
        # Git starts to look for the untracked files before it lists the tracked ones, which takes less time.
        with (
            stream_untracked(self._path, self._prunes) as untracked,
            list_files(self._path, (), self._prunes, untracked=False) as listed,
        ):
            yield chain(listed, self._list_needed(untracked), self._list_included())

    def is_untracked(self, path: str) -> bool:
        """Return whether a file is left out because git does not track it."""
        if path in self._required:
            return False
        return path in self._untracked or any(path.startswith(name) for name in self._untracked if name[-1] == "/")

    def describe_untracked(self) -> list[str]:
        """Return a warning if files are left out because git does not track them."""
        rules = self._read_rules()
        candidates = (path for path in self._untracked if rules.packs(path) and not rules.includes(path))
        left_out = sorted(path for path in candidates if path not in self._required)
        if not left_out:
            return []
        named = name_first(left_out)
        return [f"not packed, because git does not track them: {named}; `git add` them, or name them in INCLUDE"]

    @cached_property
    def _untracked(self) -> frozenset[str]:
        """Files that git neither tracks nor ignores; none in a workspace, where they are packed."""
        if not self._in_git or self._roots:
            return frozenset()
        with stream_untracked(self._path, self._prunes) as paths:
            return frozenset(paths)

    def _prunes(self, folder: str) -> bool:
        return self._read_rules().prunes(folder)  # which are not read yet when git starts

    def _list_needed(self, untracked: Iterable[str]) -> Iterator[ListedFile]:
        """Yield what the build needs of the files that git does not track, such as a new lock file."""
        self._untracked = frozenset(untracked)
        yield from (ListedFile(path, Status.CHANGED) for path in self._required.intersection(self._untracked))

    def _list_included(self) -> Iterator[ListedFile]:
        """Yield what INCLUDE adds, from anywhere below the source, even if git ignores it."""
        rules = self._read_rules()
        if not rules.has_includes:
            return
        known: dict[str, list[ListedFile]] = {}
        if self._in_git:
            with list_files(self._path, (), rules.closes) as listed:
                for file in listed:
                    if rules.includes(file.path):
                        known.setdefault(file.path, []).append(file)
        yield from chain.from_iterable(known.values())
        for path in walk_files(self._path, os.listdir(self._path), rules.closes):
            if path not in known and rules.includes(path):
                yield ListedFile(path, Status.CHANGED)
