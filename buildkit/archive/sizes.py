"""Which files and folders of a build context are the largest."""

from __future__ import annotations

import heapq
import os
from typing import TYPE_CHECKING

from buildkit.display import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_MAX_NAMED = 5
_DEPTH = 2


def list_sizes(source: Path, files: Sequence[str]) -> list[tuple[int, str]]:
    """Return size in bytes and path of each file, largest first."""
    return sorted(zip(read_sizes(source, files), files, strict=True), key=lambda pair: (-pair[0], pair[1]))


def read_sizes(source: Path, files: Iterable[str]) -> Iterable[int]:
    """Return the size of each file in bytes, in the order of `files`; of a link, that of its target's name."""
    prefix = f"{source}/"
    return (os.lstat(prefix + path).st_size for path in files)


def name_largest(files: Iterable[str], sizes: Iterable[int]) -> str:
    """Return the largest folders (two levels deep) and files, for people."""
    folders: dict[str, int] = {}
    largest: list[tuple[int, str]] = []
    for path, size in zip(files, sizes, strict=True):
        folder = "/".join(path.split("/", _DEPTH)[:-1]) or "."
        folders[folder] = folders.get(folder, 0) + size
        if len(largest) < _MAX_NAMED:
            heapq.heappush(largest, (size, path))
        elif size > largest[0][0]:
            heapq.heapreplace(largest, (size, path))
    top = heapq.nlargest(_MAX_NAMED, folders.items(), key=lambda pair: pair[1])
    named_folders = ", ".join(f"{folder}/ {format_size(size)}" for folder, size in top)
    named_files = ", ".join(f"{path} {format_size(size)}" for size, path in sorted(largest, reverse=True))
    return f"largest folders: {named_folders}; largest files: {named_files}"
