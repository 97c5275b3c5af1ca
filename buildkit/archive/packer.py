"""Files of a source tree to tar entries, each file read once, in order; changes while reading are noticed."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from typing import TYPE_CHECKING

from buildkit.archive import tar
from buildkit.archive.fingerprint import StatFingerprint
from buildkit.errors import FileChanged, FileVanished, LocalError, run
from buildkit.files import READ_FLAGS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from buildkit.archive.stream import TarStream

_MAX_NAMED = 10
_BECAME_SPECIAL = frozenset({errno.ELOOP, errno.ENXIO})  # a link, a socket
_AGAIN = f"run {run('context')} again"
_LARGE_BYTES = 1_000_000


class Packer:
    """Writes the tar entries of a source tree's files to a stream.

    Attributes:
        fingerprint: What the file system said about each file after it was read.
    """

    def __init__(self, source: Path, stream: TarStream, mtime: int) -> None:
        self.fingerprint = StatFingerprint()
        self._prefix = f"{source}/"
        self._root = os.path.realpath(source)
        self._stream = stream
        self._mtime = mtime
        self._folder = ""
        self._folders = {""}
        self._unreadable: list[str] = []

    def pack(self, files: Sequence[str]) -> None:
        """Write `files`, and the folders that contain them.

        Raises:
            FileChanged: A file changed or vanished while it was read.
            LocalError: Files cannot be read, or a link leaves the tree.
        """
        for path in files:
            self._write_path(path)
        if self._unreadable:
            named = ", ".join(self._unreadable[:_MAX_NAMED])
            more = len(self._unreadable) - _MAX_NAMED
            raise LocalError(
                f"cannot read {named}" + (f" and {more} more" if more > 0 else ""),
                "make them readable, or leave them out with EXCLUDE",
            )

    def _write_path(self, path: str) -> None:
        try:
            self._write_folders(path.rpartition("/")[0])
            found = os.lstat(self._prefix + path)
            if stat.S_ISREG(found.st_mode):
                self._write_file(path, found)
            elif stat.S_ISLNK(found.st_mode):
                self._write_link(path, found)
            else:
                raise FileVanished(f"{path} is no longer a file", _AGAIN)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileVanished(f"{path} vanished while it was packed", _AGAIN) from error
        except PermissionError:
            self._unreadable.append(path)

    def _write_folders(self, folder: str) -> None:
        """Write `folder` and those above it that are not written yet, outermost first."""
        if folder == self._folder:
            return
        if folder not in self._folders:
            self._write_folders(folder.rpartition("/")[0])
            if not stat.S_ISDIR(os.lstat(self._prefix + folder).st_mode):
                raise FileVanished(f"{folder} is no longer a folder", _AGAIN)
            self._folders.add(folder)
            self._stream.write(tar.format_directory(folder, self._mtime))
        self._folder = folder

    def _write_file(self, path: str, found: os.stat_result) -> None:
        size = found.st_size
        if size > _LARGE_BYTES:
            self._stream.check_room(size)
        try:
            descriptor = os.open(self._prefix + path, READ_FLAGS)
        except OSError as error:
            if error.errno not in _BECAME_SPECIAL:
                raise
            raise FileVanished(f"{path} is no longer a file", _AGAIN) from error
        try:
            executable = bool(found.st_mode & stat.S_IXUSR)
            self._stream.write(tar.format_file(path, size, self._mtime, executable=executable))
            count = self._stream.read_from(descriptor, size)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if count != size or _is_changed(found, after):
            raise FileChanged(
                f"{path} changed while it was read", "stop what writes to it, or leave it out with EXCLUDE"
            )
        self._stream.write(tar.format_padding(size))
        self.fingerprint.add(path, after)

    def _write_link(self, path: str, found: os.stat_result) -> None:
        link = os.readlink(self._prefix + path)
        self._refuse_escape(path, link)
        self._stream.write(tar.format_symlink(path, link, self._mtime))
        self.fingerprint.add(path, found, link)

    def _refuse_escape(self, path: str, link: str) -> None:
        lexical = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        real = os.path.realpath(self._prefix + path)
        inside = real == self._root or real.startswith(self._root + "/")
        if posixpath.isabs(link) or lexical == ".." or lexical.startswith("../") or not inside:
            raise LocalError(
                f"the symbolic link {path} leaves the source tree: it points to {link}",
                "make it relative and inside the tree, or leave it out with EXCLUDE",
            )


def write_generated(stream: TarStream, generated: dict[str, bytes], mtime: int) -> None:
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


def _is_changed(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether a file is another one, or was written to, since it was looked at."""
    return (
        before.st_ino != after.st_ino
        or before.st_size != after.st_size
        or before.st_mtime_ns != after.st_mtime_ns
        or before.st_ctime_ns != after.st_ctime_ns
    )
