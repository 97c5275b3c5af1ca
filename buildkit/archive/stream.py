"""The tar on its way to the compressor: fixed blocks, their digest, the size limit, and the search for the secret."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from buildkit.archive.compressor import BLOCK_BYTES
from buildkit.archive.tar import format_padding

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildkit.archive.compressor import Compressor, GzipWriter
    from buildkit.archive.digest import Digest

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
        size_bytes: The size of the tar so far.
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
        self._pieces: list[bytes] = []
        self.size_bytes = digest.size_bytes
        self._block_end = self.size_bytes + BLOCK_BYTES
        self.key_marks = array("q")

    def check_room(self, size: int) -> None:
        """Refuse `size` more bytes if they exceed the limit: a sparse file of terabytes would be read for days.

        Raises:
            LimitExceeded: They do.
        """
        if self.size_bytes + size > self._options.max_bytes:
            raise LimitExceeded

    def start_entry(self, header: bytes) -> None:
        """Write the header of an entry, after zeros that make the content of the one before whole blocks.

        Raises:
            SecretFound, LimitExceeded, OSError: As in `write`.
        """
        self.write(format_padding(self.size_bytes) + header)

    def write(self, data: bytes) -> None:
        """Write some of the content of an entry.

        Raises:
            SecretFound: The secret is in what was written.
            LimitExceeded: The tar is too large.
            OSError: An earlier block could not be written.
        """
        self._pieces.append(data)
        self.size_bytes += len(data)
        while self.size_bytes >= self._block_end:
            last = self._pieces.pop()
            inside = len(last) - (self.size_bytes - self._block_end)
            block = b"".join([*self._pieces, last[:inside]])
            self._pieces = [last[inside:]]
            self._block_end += BLOCK_BYTES
            self._send(block)

    def finish(self) -> None:
        """Pass the last block on; nothing is written afterwards."""
        if rest := b"".join(self._pieces) + format_padding(self.size_bytes):
            self._send(rest)

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
            self.key_marks.append(start + position)
            position = block.find(_KEY_MARK, position + 1)
        if _KEY_MARK in seam:
            self.key_marks.append(start - 1)
        self._tail = block[-self._overlap :]
