"""The packed files of a source tree, each read once, in order, and compared with the commit; changes are noticed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from buildkit.errors import FileChanged, FileVanished, LocalError, run
from buildkit.files import READ_FLAGS
from buildkit.source.fingerprint import StatFingerprint, refuse_escape
from buildkit.source.folders import SourceFolders

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    Update = Callable[[bytes | memoryview], object]

_MAX_NAMED = 10
_BECAME_SPECIAL = frozenset({errno.ELOOP, errno.ENXIO})  # a link, a socket
_AGAIN = f"run {run('context')} again"
_FILE, _EXECUTABLE, _LINK = "100644", "100755", "120000"
_SHA1_ENTRY = len("100644 ") + 40
_BUFFER_BYTES = 1 << 18


class Sink(Protocol):
    """What the contents are read into."""

    def add_folder(self, path: str) -> None:
        """Take a folder; those above it, and nothing in it, came before."""

    def add_link(self, path: str, target: str) -> None:
        """Take a symbolic link."""

    def read_file(self, path: str, file: os.stat_result, descriptor: int, update: Update | None) -> int:
        """Read the file's content to its size, pass it to `update`, and return how many bytes there were."""


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
        self._folder = ""
        self._known_folders: set[str] = set()
        self._unreadable: list[str] = []

    def read(self, files: Sequence[str]) -> None:
        """Read `files`, sorted.

        Raises:
            FileChanged: A file changed or vanished while it was read.
            LocalError: Files cannot be read, or a link leaves the tree.
        """
        with SourceFolders(self._root) as folders:
            for path in files:
                self._read_path(path, folders)
        if self._unreadable:
            named = ", ".join(self._unreadable[:_MAX_NAMED])
            more = len(self._unreadable) - _MAX_NAMED
            raise LocalError(
                f"cannot read {named}" + (f" and {more} more" if more > 0 else ""),
                "make them readable, or leave them out with EXCLUDE",
            )

    def _read_path(self, path: str, folders: SourceFolders) -> None:
        folder, _, name = path.rpartition("/")
        try:
            at = folders.enter(folder) if folder == self._folder else self._enter(folder, folders)
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                self._read_file(path, name, found, at)
            elif stat.S_ISLNK(found.st_mode):
                self._read_link(path, os.readlink(name, dir_fd=at), found)
            else:
                raise FileVanished(f"{path} is no longer a file", _AGAIN)
        except FileNotFoundError as error:
            raise FileVanished(f"{path} vanished while it was packed", _AGAIN) from error
        except PermissionError:
            self._unreadable.append(path)

    def _enter(self, folder: str, folders: SourceFolders) -> int:
        try:
            at = folders.enter(folder)
        except NotADirectoryError as error:
            raise FileVanished(f"{folder} is no longer a folder", _AGAIN) from error
        for place in accumulate(folder.split("/"), "{}/{}".format) if folder else ():
            if place not in self._known_folders:
                self._known_folders.add(place)
                self._sink.add_folder(place)
        self._folder = folder
        return at

    def _read_file(self, path: str, name: str, found: os.stat_result, folder: int) -> None:
        try:
            descriptor = os.open(name, READ_FLAGS, dir_fd=folder)
        except OSError as error:
            if error.errno not in _BECAME_SPECIAL:
                raise
            raise FileVanished(f"{path} is no longer a file", _AGAIN) from error
        committed = self._committed.get(path)
        blob = start_blob(committed, found.st_size) if committed else None
        try:
            count = self._sink.read_file(path, found, descriptor, blob.update if blob else None)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if count != found.st_size or _is_changed(found, after):
            raise FileChanged(
                f"{path} changed while it was read", "stop what writes to it, or leave it out with EXCLUDE"
            )
        if blob:
            mode = _EXECUTABLE if found.st_mode & stat.S_IXUSR else _FILE
            self._compare(path, f"{mode} {blob.hexdigest()}")
        self.fingerprint.add(path, after)

    def _read_link(self, path: str, target: str, found: os.stat_result) -> None:
        refuse_escape(self._root, path, target)
        if committed := self._committed.get(path):
            data = os.fsencode(target)
            blob = start_blob(committed, len(data))
            blob.update(data)
            self._compare(path, f"{_LINK} {blob.hexdigest()}")
        self._sink.add_link(path, target)
        self.fingerprint.add(path, found, target)

    def _compare(self, path: str, found: str) -> None:
        if self._committed[path] != found:
            self.different[path] = found


class Discard:
    """A sink for those who only want to know what differs."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def add_folder(self, path: str) -> None:
        """Ignore it."""

    def add_link(self, path: str, target: str) -> None:
        """Ignore it."""

    def read_file(self, path: str, file: os.stat_result, descriptor: int, update: Update | None) -> int:  # noqa: ARG002 - the protocol's
        """Read the file; one that is not committed has nothing to be compared with."""
        if update is None:
            return file.st_size
        left = file.st_size
        while left and (count := os.readv(descriptor, [self._buffer[:left]])):
            update(self._buffer[:count])
            left -= count
        return file.st_size - left


def start_blob(committed: str, size: int) -> hashlib._Hash:
    """Return the digest of a blob of `size` bytes, of the kind that the committed ID is."""
    head = b"blob %d\0" % size
    if len(committed) == _SHA1_ENTRY:
        return hashlib.sha1(head, usedforsecurity=False)
    return hashlib.sha256(head, usedforsecurity=False)


def _is_changed(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether a file is another one, or was written to, since it was looked at."""
    return (
        before.st_ino != after.st_ino
        or before.st_size != after.st_size
        or before.st_mtime_ns != after.st_mtime_ns
        or before.st_ctime_ns != after.st_ctime_ns
    )
