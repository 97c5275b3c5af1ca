"""Headers of a tar archive: ustar, with PAX records only where ustar has no room.

Written by hand because the standard `tarfile` takes 30 times as long for each header and keeps every one in memory.
The format is POSIX.1-2001 pax (https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html).
"""

from __future__ import annotations

import os
import zlib
from functools import lru_cache
from typing import NamedTuple

BLOCK_BYTES = 512
_RECORD_BYTES = 10240
_NAME_BYTES = 100
_PREFIX_BYTES = 155
_MAX_SIZE = 8**11 - 1


class _Kind(NamedTuple):
    """A kind of entry: its type flag and its mode."""

    flag: bytes
    mode: int


_FILE, _EXECUTABLE = _Kind(b"0", 0o644), _Kind(b"0", 0o755)
_SYMLINK, _DIRECTORY, _PAX = _Kind(b"2", 0o777), _Kind(b"5", 0o755), _Kind(b"x", 0o644)
_OWNER = b"0000000\0" * 2
_MAGIC = b"ustar\x0000"
_NO_OWNER_NAMES = bytes(32 + 32) + b"0000000\0" * 2


def format_file(path: str, size: int, mtime: int, *, executable: bool) -> bytes:
    """Return the header of a regular file of `size` bytes; its content follows, padded to whole blocks."""
    return _format_entry(os.fsencode(path), b"", size, mtime, _EXECUTABLE if executable else _FILE)


def format_directory(path: str, mtime: int) -> bytes:
    """Return the header of a directory."""
    return _format_entry(os.fsencode(path) + b"/", b"", 0, mtime, _DIRECTORY)


def format_symlink(path: str, link: str, mtime: int) -> bytes:
    """Return the header of a symbolic link that points to `link`."""
    return _format_entry(os.fsencode(path), os.fsencode(link), 0, mtime, _SYMLINK)


def format_padding(size: int) -> bytes:
    """Return the zeros that pad a content of `size` bytes to a whole block."""
    return bytes(-size % BLOCK_BYTES)


def format_end(size: int) -> bytes:
    """Return the two empty blocks that end an archive of `size` bytes so far, padded to a whole record."""
    return bytes(2 * BLOCK_BYTES + -(size + 2 * BLOCK_BYTES) % _RECORD_BYTES)


def _format_entry(path: bytes, link: bytes, size: int, mtime: int, kind: _Kind) -> bytes:
    prefix, name = (b"", path) if len(path) <= _NAME_BYTES else _split_name(path)
    if name and path.isascii() and size <= _MAX_SIZE and len(link) <= _NAME_BYTES and link.isascii():
        return _format_header(name, size, _format_frame(kind, mtime, prefix, link))
    records = {}
    if not name or not path.isascii():
        records["path"] = path
    if len(link) > _NAME_BYTES or not link.isascii():
        records["linkpath"] = link
    if size > _MAX_SIZE:
        records["size"] = b"%d" % size
    extended = _format_records(records)
    return (
        _format_header(b"PaxHeaders/" + path[-80:].replace(b"/", b"_"), len(extended), _format_frame(_PAX, mtime))
        + extended
        + format_padding(len(extended))
        + _format_header(path[-_NAME_BYTES:], min(size, _MAX_SIZE), _format_frame(kind, mtime, b"", link[:_NAME_BYTES]))
    )


def _split_name(path: bytes) -> tuple[bytes, bytes]:
    """Return ustar's prefix and name of a path that is too long to be a name; both are empty if it does not fit."""
    slash = path.find(b"/", max(len(path) - _NAME_BYTES - 1, 1), _PREFIX_BYTES + 1)
    return (b"", b"") if slash in {-1, len(path) - 1} else (path[:slash], path[slash + 1 :])


def _format_header(name: bytes, size: int, frame: _Frame) -> bytes:
    owner, time, end, end_sum = frame
    start = b"%b%b%011o\0%b" % (name.ljust(_NAME_BYTES, b"\0"), owner, size, time)
    return b"%b%06o\0 %b" % (start, _sum_bytes(start) + end_sum, end)


class _Frame(NamedTuple):
    """What is the same in the headers of nearly all files.

    Attributes:
        owner: Mode and owner, which follow the name.
        time: What follows the size.
        end: What follows the checksum.
        end_sum: The sum of the bytes of `end` and of the checksum itself, which counts as spaces.
    """

    owner: bytes
    time: bytes
    end: bytes
    end_sum: int


@lru_cache(maxsize=32)
def _format_frame(kind: _Kind, mtime: int, prefix: bytes = b"", link: bytes = b"") -> _Frame:
    end = b"%b%b%b%b%b" % (
        kind.flag,
        link.ljust(_NAME_BYTES, b"\0"),
        _MAGIC,
        _NO_OWNER_NAMES,
        prefix.ljust(_PREFIX_BYTES + 12, b"\0"),
    )
    return _Frame(b"%07o\0%b" % (kind.mode, _OWNER), b"%011o\0" % mtime, end, _sum_bytes(end) + 8 * 0x20)


def _sum_bytes(data: bytes) -> int:
    """Return the sum of the bytes of one part of a header, which is always less than 65521.

    The low half of an Adler checksum is that sum and one more (RFC 1950); `sum` takes 30 times as long.
    """
    return (zlib.adler32(data) & 0xFFFF) - 1


def _format_records(records: dict[str, bytes]) -> bytes:
    """Return PAX records, `length key=value` a line, where the length counts its own digits."""
    if any(not _is_utf8(value) for value in records.values()):
        records = {"hdrcharset": b"BINARY", **records}
    lines = []
    for key, value in records.items():
        body = b" %s=%s\n" % (key.encode("ascii"), value)
        length = len(body) + len(str(len(body)))
        if len(str(length)) > len(str(len(body))):
            length += 1
        lines.append(b"%d%s" % (length, body))
    return b"".join(lines)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
