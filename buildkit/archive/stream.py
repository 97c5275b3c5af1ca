"""The tar on its way to the compressor: entries, in fixed blocks, with the size limit and the search for the secret."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from buildkit.archive import tar
from buildkit.archive.compressor import BLOCK_BYTES
from buildkit.source.reader import Sink

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildkit.archive.compressor import Compressor, GzipWriter

_KEY_MARK = b"PRIVATE KEY"
_LARGE_BYTES = 1_000_000


class SecretFound(Exception):
    """The secret is in the tar."""


class LimitExceeded(Exception):
    """The tar is larger than it may be."""


class PackingOptions(NamedTuple):
    """What determines an archive, in addition to its files.

    Attributes:
        mtime: Of every entry, in seconds since the epoch.
        max_bytes: The limit of the tar before compression.
        secrets: Bytes that must not be in the tar, none of which contains another.
    """

    mtime: int
    compressor: Compressor
    max_bytes: int
    secrets: tuple[bytes, ...] = ()


class Digest:
    """Counts bytes that are written somewhere else, and computes their sha256."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._sha256 = hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        self._sha256.update(data)
        self.size_bytes += len(data)

    def hexdigest(self) -> str:
        """Return the sha256 of all bytes so far."""
        return self._sha256.hexdigest()


class TarStream(Sink):
    """Writes files as tar entries, cuts them into fixed blocks, and passes these to a gzip member.

    Any call may raise SecretFound or LimitExceeded, or OSError if an earlier block could not be written.

    Attributes:
        size_bytes: The size of the tar so far.

    Args:
        digest: Of the whole tar; earlier parts may be in it already.
        progress: Called after each block with the bytes of the tar so far, and 0 for the unknown total.
    """

    def __init__(
        self, gzip: GzipWriter, digest: Digest, options: PackingOptions, progress: Callable[[int, int], None]
    ) -> None:
        self._gzip = gzip
        self._digest = digest
        self._options = options
        self._progress = progress
        self._tail = b""
        self._overlap = max(len(text) for text in (_KEY_MARK, *options.secrets)) - 1
        self._pieces: list[bytes] = []
        self.size_bytes = digest.size_bytes
        self._block_end = self.size_bytes + BLOCK_BYTES
        self._paths: list[str] = []
        self._starts = array("q")
        self._key_marks = array("q")

    def add_folder(self, path: str) -> None:
        """Write a folder."""
        self._start_entry(tar.format_directory(path, self._options.mtime))

    def add_link(self, path: str, target: str) -> None:
        """Write a symbolic link."""
        self._start_entry(tar.format_symlink(path, target, self._options.mtime))

    def start_file(self, path: str, size: int, *, executable: bool) -> None:
        """Write the header of a file, whose content follows; a sparse one of terabytes would be read for days."""
        if size > _LARGE_BYTES and self.size_bytes + size > self._options.max_bytes:
            raise LimitExceeded
        self._paths.append(path)
        self._starts.append(self.size_bytes)
        self._start_entry(tar.format_file(path, size, self._options.mtime, executable=executable))

    def write(self, data: bytes) -> None:
        """Write some of the content of a file."""
        self._pieces.append(data)
        self.size_bytes += len(data)
        while self.size_bytes >= self._block_end:
            last = self._pieces.pop()
            inside = len(last) - (self.size_bytes - self._block_end)
            block = b"".join([*self._pieces, last[:inside]])
            self._pieces = [last[inside:]]
            self._block_end += BLOCK_BYTES
            self._send(block)

    def find_suspects(self) -> list[str]:
        """Return the paths of the files that contain the words of a private key block."""
        places = (max(bisect_right(self._starts, mark) - 1, 0) for mark in self._key_marks)
        return list(dict.fromkeys(self._paths[place] for place in places))

    def finish(self) -> None:
        """Pass the last block on; nothing is written afterwards."""
        if rest := b"".join(self._pieces) + tar.format_padding(self.size_bytes):
            self._send(rest)

    def _start_entry(self, header: bytes) -> None:
        """Write a header, after zeros that make the content of the entry before it whole blocks."""
        self.write(tar.format_padding(self.size_bytes) + header)

    def _send(self, block: bytes) -> None:
        self._search(block)
        self._digest.update(block)
        self._gzip.write(block)
        if self._digest.size_bytes > self._options.max_bytes:
            raise LimitExceeded
        self._progress(self._digest.size_bytes, 0)

    def _search(self, block: bytes) -> None:
        """Search a block, and the end of the one before it, for secrets and private keys."""
        seam = self._tail + block[: self._overlap]
        if any(secret in seam or secret in block for secret in self._options.secrets):
            raise SecretFound
        start = self._digest.size_bytes
        position = block.find(_KEY_MARK)
        while position != -1:
            self._key_marks.append(start + position)
            position = block.find(_KEY_MARK, position + 1)
        if _KEY_MARK in seam:
            self._key_marks.append(start - 1)
        self._tail = block[-self._overlap :]
