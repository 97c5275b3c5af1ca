"""Files and links below some folders, found without git."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from buildkit.errors import LocalError

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
    waiting = list(roots)
    while waiting:
        path = waiting.pop()
        try:
            mode = os.lstat(source / path).st_mode
            if stat.S_ISDIR(mode) and not prunes(path):
                waiting.extend(f"{path}/{name}" for name in os.listdir(source / path))
            elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
                yield path
        except FileNotFoundError:
            continue
        except PermissionError:
            unreadable.append(path)
    if unreadable:
        raise describe_unreadable(sorted(unreadable))


def describe_unreadable(folders: list[str]) -> LocalError:
    """Return the error for folders that cannot be read."""
    named = ", ".join(folders[:_MAX_NAMED])
    return LocalError(f"{len(folders)} directories cannot be read: {named}", "make them readable, or EXCLUDE them")
