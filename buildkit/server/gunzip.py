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
# A member begins with a small piece: what follows its end is copied, which takes long if there are many tiny members.
_FIRST_BYTES = 1 << 12


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
        left = memoryview(data)
        while left:
            piece = left[: _BLOCK_BYTES if self._is_within_member else _FIRST_BYTES]
            self._decompress(piece)
            while not (self._member.eof or self._member.needs_input):
                self._decompress(b"")
            left = left[len(piece) - len(self._member.unused_data) :]

    def finish(self) -> None:
        """Check that the last member is complete.

        Raises:
            InvalidContext: It is cut.
        """
        if self._is_within_member:
            raise InvalidContext("the context is cut: its gzip data ends too early")

    @property
    def _is_within_member(self) -> bool:
        return self._begun and not self._member.eof

    def _decompress(self, piece: bytes | memoryview) -> None:
        """Decompress some of `piece`; the member keeps the rest, unless it ends first."""
        if not self._is_within_member:
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
