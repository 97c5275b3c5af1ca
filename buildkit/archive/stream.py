"""The tar on its way to the compressor: fixed blocks, their digest, the size limit, and the search for the secret."""

from __future__ import annotations

import os
from array import array
from typing import TYPE_CHECKING, NamedTuple

from buildkit.archive.compressor import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildkit.archive.compressor import Compressor, GzipWriter
    from buildkit.archive.digest import Digest
    from buildkit.source.reader import Update


_KEY_MARK = b"PRIVATE KEY"


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


class TarStream:
    """Cuts one part of a tar into fixed blocks, digests and searches them, and passes them to a gzip member.

    Attributes:
        key_marks: Where in the tar the words of a private key block are, in bytes from its beginning.

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
        self.key_marks = array("q")
        self._block = gzip.take_block()
        self._used = 0

    @property
    def size_bytes(self) -> int:
        """The size of the tar so far, in bytes."""
        return self._digest.size_bytes + self._used

    def check_room(self, size: int) -> None:
        """Refuse `size` more bytes if they exceed the limit: a sparse file of terabytes would be read for days.

        Raises:
            LimitExceeded: They do.
        """
        if self.size_bytes + size > self._options.max_bytes:
            raise LimitExceeded

    def write(self, data: bytes) -> None:
        """Write `data`.

        Raises:
            SecretFound: The secret is in what was written.
            LimitExceeded: The tar is too large.
            OSError: An earlier block could not be written.
        """
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

    def read_from(self, descriptor: int, size: int, update: Update | None) -> int:
        """Write the next `size` bytes of an open file, pass them to `update`, and return how many there were."""
        left = size
        while left:
            room = memoryview(self._block)[self._used : min(self._used + left, BLOCK_BYTES)]
            count = os.readv(descriptor, [room])
            if not count:
                break
            if update:
                update(room[:count])
            left -= count
            self._advance(count)
        return size - left

    def finish(self) -> None:
        """Pass the last block on; nothing is written afterwards."""
        if self._used:
            self._send()

    def _advance(self, count: int) -> None:
        self._used += count
        if self._used == BLOCK_BYTES:
            self._send()
            self._block = self._gzip.take_block()

    def _send(self) -> None:
        self._search()
        with memoryview(self._block)[: self._used] as filled:
            self._digest.update(filled)
        self._gzip.write(self._block, self._used)
        self._used = 0
        if self.size_bytes > self._options.max_bytes:
            raise LimitExceeded
        self._progress(self.size_bytes, 0)

    def _search(self) -> None:
        """Search the block, and the end of the one before it, for secrets and private keys."""
        seam = self._tail + bytes(self._block[: min(self._overlap, self._used)])
        for secret in self._options.secrets:
            if secret in seam or self._block.find(secret, 0, self._used) != -1:
                raise SecretFound
        start = self._digest.size_bytes
        position = self._block.find(_KEY_MARK, 0, self._used)
        while position != -1:
            self.key_marks.append(start + position)
            position = self._block.find(_KEY_MARK, position + 1, self._used)
        if _KEY_MARK in seam:
            self.key_marks.append(start - 1)
        self._tail = bytes(self._block[max(self._used - self._overlap, 0) : self._used])
