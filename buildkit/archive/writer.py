"""One reproducible tar.gz and its digests, in constant memory: the source first, then the generated files.

Each of the two is a gzip member of its own (RFC 1952, 2.2), and every program that reads gzip reads them as one file.
So the first can be used again, as it is, with other generated files.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, NamedTuple

from buildkit.archive import tar
from buildkit.archive.compressor import GzipWriter
from buildkit.archive.findings import describe_limit, describe_private_keys, describe_secret, read_lines
from buildkit.archive.stream import Digest, LimitExceeded, PackingOptions, SecretFound, TarStream
from buildkit.errors import FileChanged, run
from buildkit.source.reader import TreeReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from buildkit.source.fingerprint import StatFingerprint

_COPY_BYTES = 1 << 18


class SourcePart(NamedTuple):
    """The first gzip member of an archive: the source, without the end of the tar."""

    archive_bytes: int
    context_bytes: int


class ReadSource(NamedTuple):
    """What was found in the source while it was packed.

    Attributes:
        different: Mode and ID of each file that is not as it was committed, by path.
        warnings: A sentence for each private key.
    """

    fingerprint: StatFingerprint
    different: dict[str, str]
    warnings: list[str]


class PackedArchive(NamedTuple):
    """What was packed.

    Attributes:
        context_sha256: Of the tar before compression; the same wherever the same files are packed.
        source: The part of it that does not depend on the generated files.
    """

    archive_sha256: str
    archive_bytes: int
    context_sha256: str
    context_bytes: int
    source: SourcePart


class ArchiveWriter:
    """Writes an archive to a file: first `pack_source` or `copy_source`, then `finish`."""

    def __init__(
        self,
        file: IO[bytes],
        options: PackingOptions,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self._file = file
        self._options = options
        self._progress = progress
        self._archive = Digest()
        self._context = Digest()
        self._source = SourcePart(0, 0)

    def pack_source(
        self, source: Path, files: Sequence[str], committed: Mapping[str, str] = MappingProxyType({})
    ) -> ReadSource:
        """Write the source as one gzip member, and return what was found in it.

        Args:
            files: Sorted POSIX paths of regular files and symbolic links below `source`.
            committed: Mode and ID of the committed ones, to be compared with what is packed.

        Raises:
            FileChanged: A file changed or vanished while it was read.
            LocalError: Files cannot be read, a link leaves the tree, the secret is in a file, or the tar is too large.
        """
        try:
            with self._start_member() as stream:
                reader = TreeReader(source, stream, committed)
                reader.read(files)
        except SecretFound:
            raise describe_secret(self._options.secrets, read_lines(source, files)) from None
        except LimitExceeded:
            raise describe_limit(self._options.max_bytes, source, files) from None
        self._source = SourcePart(self._archive.size_bytes, self._context.size_bytes)
        warnings = describe_private_keys(source, stream.find_suspects())
        return ReadSource(reader.fingerprint, reader.different, warnings)

    def copy_source(self, archive: IO[bytes], part: SourcePart) -> None:
        """Write the source part of an earlier archive, which is decompressed only to digest the tar.

        Raises:
            FileChanged: It is no longer the part that was written.
        """
        compressor = self._options.compressor
        member = compressor.start_reading()
        changed = FileChanged("the earlier archive changed", f"run {run('context', '--no-cache')}")
        try:
            for data in _read_exactly(archive, part.archive_bytes):
                self._put(data)
                self._context.update(member.decompress(data))
        except compressor.error:
            raise changed from None
        if self._context.size_bytes != part.context_bytes or not member.eof:
            raise changed
        self._source = part

    def finish(self, generated: dict[str, bytes]) -> PackedArchive:
        """Write the generated files and the end of the tar as the last gzip member, and return the digests.

        Raises:
            LocalError: The secret is in a generated file, or the tar is too large.
        """
        try:
            with self._start_member() as stream:
                _write_generated(stream, generated)
                stream.write(tar.format_end(stream.size_bytes))
        except SecretFound:
            lines = ((path, data.splitlines()) for path, data in generated.items())
            raise describe_secret(self._options.secrets, lines) from None
        except LimitExceeded:
            raise describe_limit(self._options.max_bytes) from None
        return PackedArchive(
            archive_sha256=self._archive.hexdigest(),
            archive_bytes=self._archive.size_bytes,
            context_sha256=self._context.hexdigest(),
            context_bytes=self._context.size_bytes,
            source=self._source,
        )

    @contextmanager
    def _start_member(self) -> Iterator[TarStream]:
        with GzipWriter(self._put, self._options.compressor) as gzip:
            stream = TarStream(gzip, self._context, self._options, self._progress)
            yield stream
            stream.finish()

    def _put(self, data: bytes) -> None:
        self._archive.update(data)
        self._file.write(data)


def _write_generated(stream: TarStream, generated: Mapping[str, bytes]) -> None:
    """Write the entries of files that are in memory, sorted, and of the folders that contain them."""
    folders = {""}
    for path, data in sorted(generated.items()):
        folder = path.rpartition("/")[0]
        if folder not in folders:
            folders.add(folder)
            stream.add_folder(folder)
        stream.start_file(path, len(data), executable=False)
        stream.write(data)


def _read_exactly(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size and (data := file.read(min(size, _COPY_BYTES))):
        size -= len(data)
        yield data
