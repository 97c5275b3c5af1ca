"""The tar on its way to the compressor: fixed blocks, their digest, and the search for the secret."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from buildkit.archive import tar
from buildkit.archive.compressor import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildkit.archive.compressor import GzipWriter


class SecretFound(Exception):
    """The secret is in the tar."""


class TarStream:
    """Cuts what is written into fixed blocks, digests them and looks for the secret in them.

    Attributes:
        sha256: Of all blocks that were sent on.
    """

    def __init__(self, gzip: GzipWriter, secret: bytes, progress: Callable[[int], None]) -> None:
        """Begin with an empty block.

        Args:
            secret: Bytes that may not be in the tar; empty where there is nothing to look for.
            progress: Called with the bytes so far after each block.
        """
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
        """What was written so far, in bytes."""
        return self._sent + self._used

    def write(self, data: bytes) -> None:
        """Write `data`.

        Raises:
            SecretFound: The secret is in what was written.
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
        """Write what ends a tar, and send the last block."""
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
