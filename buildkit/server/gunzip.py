"""gzip decompressed as it arrives, in pieces of bounded size: a few bytes of a gzip bomb make no gigabytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit.archive.compressor import find_compressor
from buildkit.server.refusals import InvalidContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 1 << 19


class Gunzip:
    """Decompresses one gzip member after another.

    Args:
        sink: Called with the decompressed bytes.
    """

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink
        self._compressor = find_compressor()
        self._member = self._compressor.start_reading()
        self._begun = False

    def feed(self, data: bytes) -> None:
        """Decompress the next piece.

        Raises:
            InvalidContext: It is not gzip.
        """
        for start in range(0, len(data), _BLOCK_BYTES):
            piece: bytes | memoryview = memoryview(data)[start : start + _BLOCK_BYTES]
            while piece or not (self._member.eof or self._member.needs_input):
                self._decompress(piece)
                piece = self._member.unused_data

    def finish(self) -> None:
        """Check that the last member is complete.

        Raises:
            InvalidContext: It is cut.
        """
        if self._begun and not self._member.eof:
            raise InvalidContext("the context is cut: its gzip data ends too early")

    def _decompress(self, piece: bytes | memoryview) -> None:
        """Decompress some of `piece`; the member keeps the rest, unless it ends first."""
        if self._member.eof or not self._begun:
            self._member = self._compressor.start_reading()
            if not _MAGIC.startswith(bytes(piece[: len(_MAGIC)])):
                raise self._refuse()
        try:
            output = self._member.decompress(piece, _BLOCK_BYTES)
        except self._compressor.error:
            raise self._refuse() from None
        self._begun = True
        if output:
            self._sink(output)

    def _refuse(self) -> InvalidContext:
        return InvalidContext(f"the context is {'damaged' if self._begun else 'not gzip'}")


def feed_file(gunzip: Gunzip, path: Path) -> None:
    """Decompress a stored file."""
    with path.open("rb") as file:
        while data := file.read(_BLOCK_BYTES):
            gunzip.feed(data)
