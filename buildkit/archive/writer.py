"""Ordered files to one reproducible tar.gz and its digests, each file read once, in constant memory."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from typing import IO, TYPE_CHECKING, NamedTuple

from buildkit.archive import tar
from buildkit.archive.compressor import Compressor, GzipWriter
from buildkit.archive.facts import StatFacts
from buildkit.archive.stream import TarStream
from buildkit.errors import FileChanged, FileVanished, LocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_MAX_NAMED = 10
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BECAME_SPECIAL = frozenset({errno.ELOOP, errno.ENXIO})  # a link, a socket
_AGAIN = "run `invoke context` again"
_LARGE_BYTES = 1_000_000


class PackedArchive(NamedTuple):
    """What was packed.

    Attributes:
        context_sha256: Of the tar before compression; the same wherever the same files are packed.
        facts: What the file system said of each file after it was read.
    """

    archive_sha256: str
    archive_bytes: int
    context_sha256: str
    context_bytes: int
    facts: StatFacts


def pack_archive(
    source: Path,
    files: Sequence[str],
    generated: Mapping[str, bytes],
    file: IO[bytes],
    *,
    mtime: int,
    compressor: Compressor,
    secret: bytes = b"",
    progress: Callable[[int], None] = lambda _: None,
    check_size: Callable[[int], None] = lambda _: None,
) -> PackedArchive:
    """Return the digests of the tar.gz that was written to `file`.

    Args:
        files: Sorted POSIX paths of regular files and symbolic links below `source`.
        generated: Files that exist nowhere on disk, by path; packed among the others.
        mtime: Of every entry, in seconds since the epoch.
        secret: Bytes that may not be in the tar; empty where there is nothing to look for.
        progress: Called now and then with the bytes read so far.
        check_size: Called before a large file is read, with the bytes that there will be; raises where it is too much.

    Raises:
        FileChanged: A file changed or vanished while it was read.
        SecretFound: The secret is in the tar.
        LocalError: Files cannot be read, or a link leaves the tree.
    """
    with GzipWriter(file, compressor) as gzip:
        stream = TarStream(gzip, secret, progress)
        packer = _Packer(source, stream, mtime, check_size)
        packer.pack(files, generated)
        stream.finish()
    return PackedArchive(
        archive_sha256=gzip.sha256.hexdigest(),
        archive_bytes=gzip.size_bytes,
        context_sha256=stream.sha256.hexdigest(),
        context_bytes=stream.size_bytes,
        facts=packer.facts,
    )


class _Packer:
    """Reads each file once, in order, and notices what changes meanwhile."""

    def __init__(self, source: Path, stream: TarStream, mtime: int, check_size: Callable[[int], None]) -> None:
        self.facts = StatFacts()
        self._prefix = f"{source}/"
        self._root = os.path.realpath(source)
        self._stream = stream
        self._mtime = mtime
        self._check_size = check_size
        self._folder = ""
        self._folders = {""}
        self._unreadable: list[str] = []

    def pack(self, files: Sequence[str], generated: Mapping[str, bytes]) -> None:
        waiting = sorted(generated, reverse=True)
        for path in files:
            while waiting and waiting[-1] < path:
                self._write_generated(waiting[-1], generated[waiting.pop()])
            self._write_path(path)
        for path in reversed(waiting):
            self._write_generated(path, generated[path])
        if self._unreadable:
            named = ", ".join(self._unreadable[:_MAX_NAMED])
            more = len(self._unreadable) - _MAX_NAMED
            raise LocalError(
                f"cannot read {named}" + (f" and {more} more" if more > 0 else ""),
                "make them readable, or leave them out with EXCLUDE",
            )

    def _write_generated(self, path: str, data: bytes) -> None:
        self._stream.write(tar.format_file(path, len(data), self._mtime, executable=False))
        self._stream.write(data)
        self._stream.write(tar.format_padding(len(data)))

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
        if size > _LARGE_BYTES:  # a sparse file of terabytes is made in a moment, and read for days
            self._check_size(self._stream.size_bytes + size)
        try:
            descriptor = os.open(self._prefix + path, _OPEN_FLAGS)
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
        self.facts.add(path, after)

    def _write_link(self, path: str, found: os.stat_result) -> None:
        link = os.readlink(self._prefix + path)
        self._refuse_escape(path, link)
        self._stream.write(tar.format_symlink(path, link, self._mtime))
        self.facts.add(path, found, link)

    def _refuse_escape(self, path: str, link: str) -> None:
        lexical = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        real = os.path.realpath(self._prefix + path)
        inside = real == self._root or real.startswith(self._root + "/")
        if posixpath.isabs(link) or lexical == ".." or lexical.startswith("../") or not inside:
            raise LocalError(
                f"the symbolic link {path} leaves the source tree: it points to {link}",
                "make it relative and inside the tree, or leave it out with EXCLUDE",
            )


def _is_changed(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether a file is another one, or was written to, since it was looked at."""
    return (
        before.st_ino != after.st_ino
        or before.st_size != after.st_size
        or before.st_mtime_ns != after.st_mtime_ns
        or before.st_ctime_ns != after.st_ctime_ns
    )
