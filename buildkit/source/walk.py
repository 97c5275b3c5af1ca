"""Files and links below some folders, found without git."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from buildkit.display import name_first
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
                    names = folders.list_names(path)
                    waiting += [f"{path}/{name}" for name in names.folders]
                    yield from [f"{path}/{name}" for name in names.files]
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError:
                unreadable.append(path)
    if unreadable:
        raise describe_unreadable(sorted(unreadable))


def describe_unreadable(folders: list[str]) -> LocalError:
    """Return the error for folders that cannot be read."""
    patterns = ",".join(f"/{folder}/" for folder in folders[:_MAX_NAMED])
    return LocalError(
        f"{len(folders)} directories cannot be read: {name_first(folders, _MAX_NAMED)}",
        f"make them readable, or set EXCLUDE={patterns}",
    )
