"""Files of a source tree, and files in memory, to tar entries."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING

from buildkit.archive import tar
from buildkit.source.reader import Sink

if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildkit.archive.stream import TarStream

_LARGE_BYTES = 1_000_000


class TarSink(Sink):
    """Writes what a tree reader reads as tar entries."""

    def __init__(self, stream: TarStream, mtime: int) -> None:
        self._stream = stream
        self._mtime = mtime
        self._paths: list[str] = []
        self._starts = array("q")

    def add_folder(self, path: str) -> None:
        """Write a folder."""
        self._stream.start_entry(tar.format_directory(path, self._mtime))

    def add_link(self, path: str, target: str) -> None:
        """Write a symbolic link."""
        self._stream.start_entry(tar.format_symlink(path, target, self._mtime))

    def start_file(self, path: str, size: int, *, executable: bool) -> None:
        """Write the header of a file, unless there is no room for that many bytes."""
        if size > _LARGE_BYTES:
            self._stream.check_room(size)
        self._paths.append(path)
        self._starts.append(self._stream.size_bytes)
        self._stream.start_entry(tar.format_file(path, size, self._mtime, executable=executable))

    def write(self, data: bytes) -> None:
        """Write some of the content of a file."""
        self._stream.write(data)

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
            stream.start_entry(tar.format_directory(folder, mtime))
        stream.start_entry(tar.format_file(path, len(data), mtime, executable=False))
        stream.write(data)
