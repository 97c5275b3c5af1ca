"""Folders that a pattern of a project file matches, found in bounded time."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from buildkit.errors import LocalError
from buildkit.source.folders import SourceFolders

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def find_folders(source: Path, pattern: str) -> Iterator[str]:
    """Yield the folders that a pattern matches, in one walk of the tree however many `**` it has.

    Each folder is visited with the positions in the pattern at which the names so far may have arrived.
    """
    parts = pattern.split("/") if pattern != "." else []
    if any("**" in part and part != "**" for part in parts):
        raise LocalError(
            f"{pattern!r} is not a valid pattern: `**` stands for whole names",
            "correct tool.uv.workspace in pyproject.toml",
        )
    with SourceFolders(source) as folders:
        waiting = [("", _skip_stars(parts, {0}))]
        while waiting:
            folder, positions = waiting.pop()
            if len(parts) in positions:
                yield folder or "."
            if positions != {len(parts)}:
                below = ((name, _advance(parts, positions, name)) for name in _list_folders(folders, folder))
                waiting += [(f"{folder}/{name}".lstrip("/"), reached) for name, reached in below if reached]


def _advance(parts: Sequence[str], positions: set[int], name: str) -> set[int]:
    """Return the positions after one more name."""
    reached = set()
    for position in positions - {len(parts)}:
        if parts[position] == "**":
            reached.add(position)
        elif fnmatchcase(name, parts[position]):
            reached.add(position + 1)
    return _skip_stars(parts, reached)


def _skip_stars(parts: Sequence[str], positions: set[int]) -> set[int]:
    """Return the positions with those after each `**`, which may stand for no name at all."""
    for position in sorted(positions):
        for after in range(position, len(parts)):
            if parts[after] != "**":
                break
            positions = positions | {after + 1}
    return positions


def _list_folders(folders: SourceFolders, folder: str) -> list[str]:
    try:
        with os.scandir(folders.enter(folder)) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []  # it cannot be read, or is gone
