"""Files and links below some folders, found without git."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from buildkit.errors import LocalError
from buildkit.source.folders import SourceFolders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_MAX_NAMED = 10


def walk_files(source: Path, roots: Iterable[str], prunes: Callable[[str], bool]) -> Iterator[str]:
    """Yield the paths of files and links below `roots`, unordered; a folder that is pruned or a link is not entered.

    Raises:
        LocalError: A folder cannot be read.
    """
    unreadable: list[str] = []
    with SourceFolders(source) as folders:
        waiting = list(roots)
        while waiting:
            path = waiting.pop()
            try:
                mode = folders.stat(path).st_mode
                if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
                    yield path
                elif stat.S_ISDIR(mode) and not prunes(path):
                    files, below = _list_folder(folders, path)
                    waiting += below
                    yield from files
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError:
                unreadable.append(path)
    if unreadable:
        raise describe_unreadable(sorted(unreadable))


def _list_folder(folders: SourceFolders, folder: str) -> tuple[list[str], list[str]]:
    """Return the files and links in a folder, and the folders in it."""
    files, below = [], []
    with os.scandir(folders.enter(folder)) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below.append(f"{folder}/{entry.name}")
            elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
                files.append(f"{folder}/{entry.name}")
    return files, below


def describe_unreadable(folders: list[str]) -> LocalError:
    """Return the error for folders that cannot be read."""
    named = ", ".join(folders[:_MAX_NAMED])
    patterns = ",".join(f"/{folder}/" for folder in folders[:_MAX_NAMED])
    return LocalError(
        f"{len(folders)} directories cannot be read: {named}", f"make them readable, or set EXCLUDE={patterns}"
    )
