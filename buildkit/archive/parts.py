"""The two gzip members of an archive, found again: the source, and the rest, which has the generated files."""

from __future__ import annotations

import hashlib
import os
import zlib
from typing import TYPE_CHECKING, NamedTuple

from buildkit.archive.compressor import GZIP, GZIP_HEADER

if TYPE_CHECKING:
    from hashlib import _Hash

# The generated files are a few dozen kilobytes.
_MAX_REST_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20


class ArchiveParts(NamedTuple):
    """The sha256 of each part, in hex, and where the source ends and the rest begins."""

    source_bytes: int
    source_sha256: str
    rest_sha256: str


def find_rest(descriptor: int) -> int | None:
    """Return where the last gzip member of an open archive begins, or None if there is no member before it.

    Raises:
        OSError: The archive cannot be read.
    """
    size_bytes = os.fstat(descriptor).st_size
    start = max(0, size_bytes - _MAX_REST_BYTES)
    tail = os.pread(descriptor, size_bytes - start, start)
    position = tail.rfind(GZIP_HEADER)
    while position != -1:
        # The source may contain a gzip file, but none that ends where the archive does.
        if start + position and _is_one_member(tail[position:]):
            return start + position
        position = tail.rfind(GZIP_HEADER, 0, position)
    return None


def digest_parts(descriptor: int, source_bytes: int, sha256: str) -> ArchiveParts | None:
    """Return the parts of an open archive, or None if the archive as a whole no longer has the digest `sha256`.

    Raises:
        OSError: The archive cannot be read.
    """
    whole, rest = hashlib.sha256(), hashlib.sha256()
    _feed(descriptor, 0, source_bytes, whole)
    source_sha256 = whole.hexdigest()
    _feed(descriptor, source_bytes, os.fstat(descriptor).st_size, whole, rest)
    return ArchiveParts(source_bytes, source_sha256, rest.hexdigest()) if whole.hexdigest() == sha256 else None


def _is_one_member(data: bytes) -> bool:
    member = zlib.decompressobj(GZIP)
    try:
        while data and not member.eof:
            member.decompress(data, _BLOCK_BYTES)
            data = member.unconsumed_tail
    except zlib.error:
        return False
    return member.eof and not member.unused_data


def _feed(descriptor: int, start: int, end: int, *digests: _Hash) -> None:
    for offset in range(start, end, _BLOCK_BYTES):
        block = os.pread(descriptor, min(_BLOCK_BYTES, end - offset), offset)
        for digest in digests:
            digest.update(block)
