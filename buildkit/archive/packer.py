"""Files of a source tree, and files in memory, to tar entries."""

from __future__ import annotations

import stat
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING

from buildkit.archive import tar

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from buildkit.archive.stream import TarStream
    from buildkit.source.reader import Update

_LARGE_BYTES = 1_000_000


class TarSink:
    """Writes what a tree reader reads as tar entries."""

    def __init__(self, stream: TarStream, mtime: int) -> None:
        self._stream = stream
        self._mtime = mtime
        self._paths: list[str] = []
        self._starts = array("q")

    def add_folder(self, path: str) -> None:
        """Write a folder."""
        self._stream.write(tar.format_directory(path, self._mtime))

    def add_link(self, path: str, target: str) -> None:
        """Write a symbolic link."""
        self._stream.write(tar.format_symlink(path, target, self._mtime))

    def read_file(self, path: str, file: os.stat_result, descriptor: int, update: Update | None) -> int:
        """Write a file, and return how many bytes it had, up to its size."""
        size = file.st_size
        if size > _LARGE_BYTES:
            self._stream.check_room(size)
        self._paths.append(path)
        self._starts.append(self._stream.size_bytes)
        executable = bool(file.st_mode & stat.S_IXUSR)
        self._stream.write(tar.format_file(path, size, self._mtime, executable=executable))
        count = self._stream.read_from(descriptor, size, update)
        self._stream.write(tar.format_padding(size))
        return count

    def find_path(self, offset: int) -> str:
        """Return the path of the file whose entry contains that byte of the tar."""
        return self._paths[max(bisect_right(self._starts, offset) - 1, 0)]


def write_generated(stream: TarStream, generated: Mapping[str, bytes], mtime: int) -> None:
    """Write the entries of files that are in memory, sorted, and of the folders that contain them."""
    folders = set()
    for path, data in sorted(generated.items()):
        folder = path.rpartition("/")[0]
        if folder and folder not in folders:
            folders.add(folder)
            stream.write(tar.format_directory(folder, mtime))
        stream.write(tar.format_file(path, len(data), mtime, executable=False))
        stream.write(data)
        stream.write(tar.format_padding(len(data)))
