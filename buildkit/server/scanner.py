"""A tar.gz checked as it arrives, in constant memory: nothing is unpacked, and nothing but the Dockerfile is kept.

A scanner of our own, because `tarfile` reads from where it likes, keeps every header and checks none of the paths.
"""

from __future__ import annotations

import posixpath
import tarfile
from typing import TYPE_CHECKING, NamedTuple

from buildkit.server.refusals import InvalidContext
from buildkit.server.tar_header import InvalidHeader, parse_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from buildkit.server.tar_header import Header

BLOCK_BYTES = 512
_END = bytes(BLOCK_BYTES)
DOCKERFILE = "Dockerfile"
_MAX_ENTRIES = 1_000_000
_MAX_KEPT_BYTES = 1_000_000
_MAX_PATH_BYTES = 4096
_LONG_NAMES = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_RECORDS = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
_FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_LINKS = {tarfile.SYMTYPE, tarfile.LNKTYPE}
_KNOWN = {*_FILES, *_LINKS, tarfile.DIRTYPE, tarfile.FIFOTYPE}
# Records that determine what an entry is; in a header for the whole archive, programs read them in different ways.
_DECISIVE = ("path", "linkpath", "size", "GNU.sparse.")


class FileEntry(NamedTuple):
    """A regular file in an archive."""

    path: str
    size_bytes: int


class TarScanner:
    """Checks a tar that arrives in pieces.

    Args:
        max_bytes: The limit of the tar.
        report: Called with each regular file.

    Attributes:
        dockerfile: The contents of the last `Dockerfile` at the top level, which is the one that an engine uses.
        size_bytes: Of the tar so far.
        is_ended: Whether the blocks that end a tar have arrived.
        is_between_entries: Whether the last entry is complete.
    """

    def __init__(self, max_bytes: int, report: Callable[[FileEntry], object] | None = None) -> None:
        self.dockerfile: bytes | None = None
        self.size_bytes = 0
        self.is_ended = False
        self._max_bytes = max_bytes
        self._report = report
        self._entries = 0
        self._links: set[int] = set()
        self._extended: dict[str, str] = {}
        self._header = b""
        self._left = 0  # bytes of the current entry that have not arrived, with their padding
        self._kept: bytearray | None = None
        self._kind, self._size_bytes = b"", 0  # of the current entry

    @property
    def is_between_entries(self) -> bool:
        """Whether everything that began is complete."""
        return not (self._left or self._header or self._extended)

    def feed(self, data: bytes) -> None:
        """Check the next piece.

        Raises:
            InvalidContext: It is not a tar, or not one that may be built.
        """
        self.size_bytes += len(data)
        if self.size_bytes > self._max_bytes:
            raise InvalidContext(f"the context is larger than {self._max_bytes} bytes once it is decompressed")
        position = 0
        while position < len(data):
            if self.is_ended:
                if data.count(0, position) != len(data) - position:
                    raise InvalidContext("there is something after the end of the tar")
                return
            position = self._read_content(data, position) if self._left else self._read_header(data, position)

    def _read_content(self, data: bytes, position: int) -> int:
        end = min(position + self._left, len(data))
        if self._kept is not None:
            self._kept += data[position:end]
        self._left -= end - position
        if not self._left:
            self._end_entry()
        return end

    def _read_header(self, data: bytes, position: int) -> int:
        end = position + BLOCK_BYTES - len(self._header)
        block = self._header + data[position:end]
        if len(block) < BLOCK_BYTES:
            self._header = block
            return len(data)
        self._header = b""
        if block == _END:
            self._end_tar()
            return end
        try:
            header = parse_header(block)
        except InvalidHeader as error:
            raise InvalidContext(f"the context is not a tar, or damaged: {error}") from None
        self._begin_entry(header)
        return end

    def _end_tar(self) -> None:
        if self._extended:
            raise InvalidContext("the tar ends within an entry")
        self.is_ended = True

    def _begin_entry(self, header: Header) -> None:
        self._entries += 1
        if self._entries > _MAX_ENTRIES:
            raise InvalidContext(f"the context has more than {_MAX_ENTRIES} files")
        keep, size = header.kind in _RECORDS or header.kind in _LONG_NAMES, header.size_bytes
        if not keep:
            keep, size = self._check_entry(header)
        if size < 0 or (keep and size > _MAX_KEPT_BYTES):
            raise InvalidContext(f"the size of {header.name!r} in the tar is invalid: {size}")
        self._kept = bytearray() if keep else None
        self._left = size + -size % BLOCK_BYTES
        self._kind, self._size_bytes = header.kind, size
        if not size:
            self._end_entry()

    def _check_entry(self, entry: Header) -> tuple[bool, int]:
        """Return whether the contents of a new entry are kept, and their size."""
        extended, self._extended = self._extended, {}
        path = _clean_path(extended.get("path", entry.name))
        if entry.kind not in _KNOWN:
            raise InvalidContext(f"{path!r} is neither a file nor a directory nor a link")
        if any(key.startswith("GNU.sparse.") for key in extended):
            raise InvalidContext(f"{path!r} is a sparse file; pack it without --sparse")
        self._refuse_linked(path)
        if entry.kind in _LINKS:
            self._note_link(path, extended.get("linkpath", entry.link_target), is_hard=entry.kind == tarfile.LNKTYPE)
        if entry.kind not in _FILES:
            return False, 0
        size = _parse_size(extended["size"]) if "size" in extended else entry.size_bytes
        if self._report and size >= 0:
            self._report(FileEntry(path, size))
        return path == DOCKERFILE, size

    def _note_link(self, path: str, target: str, *, is_hard: bool) -> None:
        if is_hard:
            target = _clean_path(target)
            self._refuse_linked(target)
            if hash(target) not in self._links:
                return
        # Hashes, because a million paths would take too much memory.
        self._links.add(hash(path))

    def _refuse_linked(self, path: str) -> None:
        """Refuse a path below a symbolic link: it is outside of the archive if the link leads there."""
        folder = path
        while self._links and (folder := posixpath.dirname(folder)):
            if hash(folder) in self._links:
                raise InvalidContext(f"{path!r} is below the symbolic link {folder!r}")

    def _end_entry(self) -> None:
        kept, self._kept = self._kept, None
        if kept is None:
            return
        data, kind = bytes(kept[: self._size_bytes]), self._kind
        if kind in _LONG_NAMES:
            self._extended[_LONG_NAMES[kind]] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif kind == tarfile.XGLTYPE:
            if any(key.startswith(_DECISIVE) for key, _ in _parse_records(data)):
                raise InvalidContext("a global header of the tar names a path or a size")
        elif kind in _RECORDS:
            self._extended.update(_parse_records(data))
        else:
            self.dockerfile = data


def _clean_path(path: str) -> str:
    """Return a path without `./` and the like.

    Raises:
        InvalidContext: It leads out of the archive, or is not a path.
    """
    if path.startswith("/") or ".." in path.split("/"):
        raise InvalidContext(f"the path {path[:200]!r} leads out of the archive")
    if not path or "\0" in path or len(path) > _MAX_PATH_BYTES:
        raise InvalidContext(f"the tar has an invalid path: {path[:200]!r}")
    return posixpath.normpath(path)


def _parse_records(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the records of a PAX header: `length key=value` and a newline each."""
    while data:
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < len(str(_MAX_KEPT_BYTES)) else 0
        record = data[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if len(digits) + 1 + len(record) != length or not equals or not value.endswith(b"\n"):
            raise InvalidContext("an extended header of the tar is damaged")
        yield key.decode("utf-8", "surrogateescape"), value[:-1].decode("utf-8", "surrogateescape")
        data = data[length:]


def _parse_size(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < len(str(2**63)) else -1
