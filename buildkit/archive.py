"""Ordered files to one reproducible tar.gz and its digests, each file read once, in constant memory."""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from buildkit import tar
from buildkit.compressor import BLOCK_BYTES, Compressor, GzipWriter
from buildkit.errors import FileChanged, FileVanished, LocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_MAX_NAMED = 10
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class SecretFound(Exception):  # noqa: N818 - it never reaches a user: the context step says where
    """The secret is in the tar."""


@dataclass(frozen=True)
class PackedArchive:
    """What was packed.

    Attributes:
        context_sha256: Of the tar before compression; the same wherever the same files are packed.
        stat_sha256: Of what the file system said of each file while it was read; see `digest_stats`.
        newest_ns: The latest change (ctime) of any of them, in nanoseconds since the epoch.
    """

    archive_sha256: str
    archive_bytes: int
    context_sha256: str
    context_bytes: int
    stat_sha256: str
    newest_ns: int


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
) -> PackedArchive:
    """Return the digests of the tar.gz that was written to `file`.

    Args:
        files: Sorted POSIX paths of regular files and symbolic links below `source`.
        generated: Files that exist nowhere on disk, by path; packed among the others.
        mtime: Of every entry, in seconds since the epoch.
        secret: Bytes that may not be in the tar; empty where there is nothing to look for.
        progress: Called now and then with the bytes read so far.

    Raises:
        FileChanged: A file changed or vanished while it was read.
        SecretFound: The secret is in the tar.
        LocalError: Files cannot be read, or a link leaves the tree.
    """
    with GzipWriter(file, compressor) as gzip:
        stream = _TarStream(gzip, secret, progress)
        packer = _Packer(source, stream, mtime)
        packer.pack(files, generated)
        stream.finish()
    return PackedArchive(
        archive_sha256=gzip.sha256.hexdigest(),
        archive_bytes=gzip.size_bytes,
        context_sha256=stream.sha256.hexdigest(),
        context_bytes=stream.size_bytes,
        stat_sha256=packer.stats.hexdigest(),
        newest_ns=packer.newest_ns,
    )


def digest_stats(source: Path, files: Sequence[str]) -> str | None:
    """Return the `stat_sha256` that packing `files` would give now, without opening one; None where one is gone."""
    digest = hashlib.sha256()
    prefix = f"{source}/"
    try:
        for path in files:
            found = os.lstat(prefix + path)
            link = os.readlink(prefix + path) if stat.S_ISLNK(found.st_mode) else ""
            digest.update(_format_stat(path, found, link))
    except OSError:
        return None
    return digest.hexdigest()


def _format_stat(path: str, found: os.stat_result, link: str) -> bytes:
    return os.fsencode(
        f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\0{found.st_ino}\0{found.st_mode}\0{link}\n"
    )


class _TarStream:
    """Cuts what is written into fixed blocks, digests them and looks for the secret in them."""

    def __init__(self, gzip: GzipWriter, secret: bytes, progress: Callable[[int], None]) -> None:
        self.sha256 = hashlib.sha256()
        self._gzip = gzip
        self._secret = secret
        self._tail = b""
        self._progress = progress
        self._sent = 0
        self._block = gzip.take_block()
        self._used = 0

    @property
    def size_bytes(self) -> int:
        return self._sent + self._used

    def write(self, data: bytes) -> None:
        end = self._used + len(data)
        if end < BLOCK_BYTES:
            self._block[self._used : end] = data
            self._used = end
            return
        start = 0
        while start < len(data):
            piece = data[start : start + BLOCK_BYTES - self._used]
            self._block[self._used : self._used + len(piece)] = piece
            start += len(piece)
            self._advance(len(piece))

    def read_from(self, descriptor: int, size: int) -> int:
        """Return how many of the next `size` bytes of an open file there were; they are written."""
        left = size
        while left:
            room = min(left, BLOCK_BYTES - self._used)
            count = os.readv(descriptor, [memoryview(self._block)[self._used : self._used + room]])
            if not count:
                break
            left -= count
            self._advance(count)
        return size - left

    def finish(self) -> None:
        self.write(tar.format_end(self.size_bytes))
        if self._used:
            self._send()

    def _advance(self, count: int) -> None:
        self._used += count
        if self._used == BLOCK_BYTES:
            self._send()
            self._block = self._gzip.take_block()

    def _send(self) -> None:
        with memoryview(self._block)[: self._used] as filled:
            self.sha256.update(filled)
        if self._secret:
            self._refuse_secret()
        self._gzip.write(self._block, self._used)
        self._sent += self._used
        self._used = 0
        self._progress(self._sent)

    def _refuse_secret(self) -> None:
        overlap = len(self._secret) - 1
        seam = self._tail + bytes(self._block[: min(overlap, self._used)])
        if self._secret in seam or self._block.find(self._secret, 0, self._used) != -1:
            raise SecretFound
        self._tail = bytes(self._block[max(self._used - overlap, 0) : self._used])


class _Packer:
    """Reads each file once, in order, and notices what changes meanwhile."""

    def __init__(self, source: Path, stream: _TarStream, mtime: int) -> None:
        self.stats = hashlib.sha256()
        self.newest_ns = 0
        self._prefix = f"{source}/"
        self._root = os.path.realpath(source)
        self._stream = stream
        self._mtime = mtime
        self._folders: set[str] = set()
        self._unreadable: list[str] = []

    def pack(self, files: Sequence[str], generated: Mapping[str, bytes]) -> None:
        waiting = sorted(generated, reverse=True)
        for path in files:
            while waiting and waiting[-1] < path:
                self._write_generated(waiting[-1], generated[waiting.pop()])
            self._write_folders(path)
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

    def _write_folders(self, path: str) -> None:
        """Write the folders above `path` that are not written yet, outermost first."""
        folder = path.rpartition("/")[0]
        if not folder or folder in self._folders:
            return
        self._write_folders(folder)
        with self._noticing(folder):
            if not stat.S_ISDIR(os.lstat(self._prefix + folder).st_mode):
                raise FileVanished(f"{folder} is no longer a folder", "run `invoke context` again")
        self._folders.add(folder)
        self._stream.write(tar.format_directory(folder, self._mtime))

    def _write_path(self, path: str) -> None:
        with self._noticing(path):
            found = os.lstat(self._prefix + path)
            if stat.S_ISLNK(found.st_mode):
                link = os.readlink(self._prefix + path)
                self._refuse_escape(path, link)
                self._stream.write(tar.format_symlink(path, link, self._mtime))
                self._note(path, found, link)
            elif stat.S_ISREG(found.st_mode):
                self._write_file(path)
            else:
                raise FileVanished(f"{path} is no longer a file", "run `invoke context` again")

    def _write_file(self, path: str) -> None:
        descriptor = os.open(self._prefix + path, _OPEN_FLAGS)
        try:
            before = os.fstat(descriptor)
            size = before.st_size
            executable = bool(before.st_mode & stat.S_IXUSR)
            self._stream.write(tar.format_file(path, size, self._mtime, executable=executable))
            count = self._stream.read_from(descriptor, size)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if count != size or _is_changed(before, after):
            raise FileChanged(
                f"{path} changed while it was read", "stop what writes to it, or leave it out with EXCLUDE"
            )
        self._stream.write(tar.format_padding(size))
        self._note(path, after, "")

    def _note(self, path: str, found: os.stat_result, link: str) -> None:
        self.stats.update(_format_stat(path, found, link))
        self.newest_ns = max(self.newest_ns, found.st_ctime_ns)

    def _refuse_escape(self, path: str, link: str) -> None:
        lexical = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        real = os.path.realpath(self._prefix + path)
        inside = real == self._root or real.startswith(self._root + "/")
        if posixpath.isabs(link) or lexical == ".." or lexical.startswith("../") or not inside:
            raise LocalError(
                f"the symbolic link {path} leaves the source tree: it points to {link}",
                "make it relative and inside the tree, or leave it out with EXCLUDE",
            )

    @contextmanager
    def _noticing(self, path: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileVanished(f"{path} vanished while it was packed", "run `invoke context` again") from error
        except PermissionError:
            self._unreadable.append(path)


def _is_changed(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )
