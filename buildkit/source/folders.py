"""Files of a tree, reached by way of their folders' descriptors: no link along a path is ever followed."""

from __future__ import annotations

import os
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple, Self

from buildkit.files import FOLDER_FLAGS, open_regular

if TYPE_CHECKING:
    from pathlib import Path

_MAX_OPEN = 100  # of the folders that lead to the current one; processes may have few descriptors


class FolderNames(NamedTuple):
    """The names in a folder, each in one of the lists; links are in `links` and in `files`."""

    files: list[str]
    folders: list[str]
    specials: list[str]
    links: list[str]


class SourceFolders:
    """The folders below a root, each opened from the one above it. A context manager, which closes them.

    Neighbours share most of their folders, so those on the way to the last one stay open.
    """

    def __init__(self, root: Path | str) -> None:
        self._names: list[str] = []
        self._open = [os.open(root, FOLDER_FLAGS & ~os.O_NOFOLLOW)]
        self._folder = ""
        self._current = self._open[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for descriptor in {*self._open, self._current}:
            os.close(descriptor)

    def stat(self, path: str) -> os.stat_result:
        """Return what the file system says about a file, folder or link.

        Raises:
            OSError: As in `enter`, or there is no such file.
        """
        folder, _, name = path.rpartition("/")
        return os.stat(name, dir_fd=self.enter(folder), follow_symlinks=False)

    def open(self, path: str) -> int:
        """Return a descriptor for reading a regular file; the caller closes it.

        Raises:
            OSError: As in `enter`, or there is no such regular file.
        """
        folder, _, name = path.rpartition("/")
        return open_regular(name, folder=self.enter(folder))

    def list_names(self, folder: str) -> FolderNames:
        """Return the names in a folder.

        Raises:
            OSError: As in `enter`.
        """
        files, below, specials, links = found = FolderNames([], [], [], [])
        with os.scandir(self.enter(folder)) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    files.append(entry.name)
                elif entry.is_symlink():
                    files.append(entry.name)
                    links.append(entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    below.append(entry.name)
                else:
                    specials.append(entry.name)
        return found

    def enter(self, folder: str) -> int:
        """Return the descriptor of a folder, which stays open until another one is entered.

        Raises:
            OSError: There is no such folder; NotADirectoryError if a part of the path is a link or a file.
        """
        if folder == self._folder:
            return self._current
        names = folder.split("/") if folder else []
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(names, self._names, strict=False)))
        if shared < len(self._names):
            self._leave(shared)
        for name in names[shared:]:
            self._descend(name)
        self._folder = folder
        return self._current

    def _leave(self, depth: int) -> None:
        """Go back up, at most to the `depth`-th folder of the current path, or as near to it as one is still open."""
        kept = min(depth, len(self._open) - 1)
        if self._current not in self._open:
            os.close(self._current)
        for descriptor in self._open[kept + 1 :]:
            os.close(descriptor)
        del self._open[kept + 1 :]
        below = self._names[kept:depth]
        del self._names[kept:]
        self._current = self._open[-1]
        self._folder = "/".join(self._names)
        for name in below:
            self._descend(name)

    def _descend(self, name: str) -> None:
        below = os.open(name, FOLDER_FLAGS, dir_fd=self._current)
        if self._current not in self._open:
            os.close(self._current)
        if len(self._open) <= _MAX_OPEN:
            self._open.append(below)
        self._current = below
        self._names.append(name)
        self._folder = f"{self._folder}/{name}" if self._folder else name
