"""The packed files of a source tree, each read once, in order, and compared with the commit; changes are noticed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from itertools import accumulate
from typing import TYPE_CHECKING

from buildkit.display import name_first
from buildkit.errors import FileChanged, FileVanished, LocalError, run
from buildkit.files import READ_FLAGS
from buildkit.source.fingerprint import StatFingerprint, get_fields, refuse_escape
from buildkit.source.folders import SourceFolders

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_AGAIN = f"run {run('context')} again"
_FILE, _EXECUTABLE, _LINK = "100644", "100755", "120000"
# How the digest of a blob begins, by the length of a mode and an ID; copying it takes less than starting another.
_BLOBS = {
    len("100644 ") + 40: hashlib.sha1(b"blob ", usedforsecurity=False),
    len("100644 ") + 64: hashlib.sha256(b"blob ", usedforsecurity=False),
}
_PIECE_BYTES = 1 << 18


class Sink:
    """What files are read into. This one ignores them, for those who only want to know what differs."""

    def add_folder(self, path: str) -> None:
        """Take a folder; those above it, and nothing in it, came before."""

    def add_link(self, path: str, target: str) -> None:
        """Take a symbolic link."""

    def start_file(self, path: str, size: int, *, executable: bool) -> None:
        """Take a file, whose content follows."""

    def write(self, data: bytes) -> None:
        """Take the next piece of the file's content."""


class TreeReader:
    """Reads files of a tree into a sink.

    Attributes:
        fingerprint: What the file system said about each file after it was read.
        different: Mode and ID of each file that is not as it was committed, by path.

    Args:
        committed: Mode and ID (`100644 4b825dc…`) of the committed files, by path.
    """

    def __init__(self, source: Path, sink: Sink, committed: Mapping[str, str]) -> None:
        self.fingerprint = StatFingerprint()
        self.different: dict[str, str] = {}
        self._root = os.path.realpath(source)
        self._sink = sink
        self._committed = committed
        self._known_folders: set[str] = set()
        self._unreadable: list[str] = []

    def read(self, files: Sequence[str]) -> None:
        """Read `files`, sorted.

        Raises:
            FileChanged: A file changed or vanished while it was read.
            LocalError: Files cannot be read, or a link leaves the tree.
        """
        with SourceFolders(self._root) as folders:
            entered, at = "", folders.enter("")
            for path in files:
                folder, _, name = path.rpartition("/")
                try:
                    if folder != entered:
                        at = self._enter(folder, folders)
                        entered = folder
                    self._read_path(path, name, at)
                except FileNotFoundError as error:
                    raise FileVanished(f"{path} vanished while it was packed", _AGAIN) from error
                except PermissionError:
                    self._unreadable.append(path)
        if self._unreadable:
            message = f"cannot read {name_first(self._unreadable)}"
            raise LocalError(message, "make them readable, or leave them out with EXCLUDE")

    def _enter(self, folder: str, folders: SourceFolders) -> int:
        try:
            at = folders.enter(folder)
        except NotADirectoryError as error:
            raise FileVanished(f"{folder} is no longer a folder", _AGAIN) from error
        for place in accumulate(folder.split("/"), "{}/{}".format) if folder else ():
            if place not in self._known_folders:
                self._known_folders.add(place)
                self._sink.add_folder(place)
        return at

    def _read_path(self, path: str, name: str, folder: int) -> None:
        try:
            descriptor = os.open(name, READ_FLAGS, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ELOOP:
                self._read_link(path, name, folder)
                return
            if error.errno == errno.ENXIO:
                raise _describe_special(path) from error
            raise
        try:
            self._read_file(path, descriptor)
        finally:
            os.close(descriptor)

    def _read_file(self, path: str, descriptor: int) -> None:
        size, _, _, _, mode = before = get_fields(os.fstat(descriptor))
        if not stat.S_ISREG(mode):
            raise _describe_special(path)
        executable = bool(mode & stat.S_IXUSR)
        self._sink.start_file(path, size, executable=executable)
        committed = self._committed.get(path)
        data = os.read(descriptor, min(size, _PIECE_BYTES))
        blob = start_blob(committed, size, data) if committed else None
        left = size
        while data:
            self._sink.write(data)
            left -= len(data)
            if not left:
                break
            data = os.read(descriptor, min(left, _PIECE_BYTES))
            if blob:
                blob.update(data)
        if left or get_fields(os.fstat(descriptor)) != before:
            raise FileChanged(
                f"{path} changed while it was read", "stop what writes to it, or leave it out with EXCLUDE"
            )
        if blob and committed != (found := f"{_EXECUTABLE if executable else _FILE} {blob.hexdigest()}"):
            self.different[path] = found
        self.fingerprint.add(path, before)

    def _read_link(self, path: str, name: str, folder: int) -> None:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            raise _describe_special(path)
        target = os.readlink(name, dir_fd=folder)
        refuse_escape(self._root, path, target)
        if committed := self._committed.get(path):
            data = os.fsencode(target)
            blob = start_blob(committed, len(data), data)
            if committed != (entry := f"{_LINK} {blob.hexdigest()}"):
                self.different[path] = entry
        self._sink.add_link(path, target)
        self.fingerprint.add(path, get_fields(found), target)


def _describe_special(path: str) -> FileVanished:
    return FileVanished(f"{path} is no longer a file", _AGAIN)


def start_blob(committed: str, size: int, data: bytes) -> hashlib._Hash:
    """Return the digest of a blob of `size` bytes that begins with `data`, of the kind that the committed ID is."""
    blob = _BLOBS[len(committed)].copy()
    blob.update(b"%d\0%b" % (size, data))
    return blob
