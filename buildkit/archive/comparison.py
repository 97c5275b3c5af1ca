"""What is in an archive and in a source tree, file by file, and how one differs from the other."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
import zlib
from functools import partial
from typing import IO, TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError, run
from buildkit.source.folders import SourceFolders

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

# The kinds of change, in the order in which they are counted and listed in legends.
CHANGES = ("added", "removed", "grown", "shrunk", "changed")
_CHUNK_BYTES = 1 << 18
_FILE, _EXECUTABLE, _LINK = b"-", b"x", b"l"


class PackedFile(NamedTuple):
    """A file or a symbolic link in a build context.

    Attributes:
        size_bytes: Of a link, that of its target's name.
        digest: Of the kind of the file and its content; empty if it is not known.
    """

    path: str
    size_bytes: int
    digest: str = ""


class Change(NamedTuple):
    """How a file differs from an earlier context: one of `CHANGES`, and by how many bytes its size does."""

    kind: str
    path: str
    growth: int


def compare_files(old: Iterable[PackedFile], new: Iterable[PackedFile]) -> list[Change]:
    """Return what was added, removed, grown, shrunk or changed at the same size, the largest differences first.

    >>> old = [PackedFile("a", 1), PackedFile("b", 5), PackedFile("d", 2, "one")]
    >>> new = [PackedFile("a", 4), PackedFile("c", 1), PackedFile("d", 2, "two")]
    >>> for change in compare_files(old, new):
    ...     print(*change)
    removed b -5
    grown a 3
    added c 1
    changed d 0
    """
    before, after = {file.path: file for file in old}, {file.path: file for file in new}
    changes = [Change("added", path, after[path].size_bytes) for path in after.keys() - before.keys()]
    changes += [Change("removed", path, -before[path].size_bytes) for path in before.keys() - after.keys()]
    for path in before.keys() & after.keys():
        growth = after[path].size_bytes - before[path].size_bytes
        if growth:
            changes.append(Change("grown" if growth > 0 else "shrunk", path, growth))
        elif after[path].digest != before[path].digest:
            changes.append(Change("changed", path, 0))
    return sorted(changes, key=lambda change: (-abs(change.growth), change.path))


def read_archive(archive: IO[bytes], name: str) -> list[PackedFile]:
    """Return the files of a tar.gz, in its order.

    Args:
        name: What messages call it.

    Raises:
        LocalError: It is not a tar.gz, or is damaged.
    """
    try:
        # `tarfile` itself would stop at the end of the first gzip member.
        with gzip.open(archive) as content, tarfile.open(fileobj=content, mode="r|") as tar:
            found = [_read_member(tar, member) for member in tar if not member.isdir()]
            while content.read(_CHUNK_BYTES):
                pass  # what is behind the end of the tar, for the checksum
            return found
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise LocalError(f"{name} cannot be read as a tar.gz: {error}", "name an archive of this tool") from error


def read_source(source: Path, files: Iterable[str]) -> Iterator[PackedFile]:
    """Yield the files of a source tree as they would be packed, in the order of `files`.

    Raises:
        LocalError: One cannot be read.
    """
    with SourceFolders(source) as folders:
        for path in files:
            try:
                yield _read_file(folders, path)
            except OSError as error:
                message = f"cannot read {path}: {error.strerror}"
                raise LocalError(message, f"run {run('context', '--diff')} again") from error


def read_generated(generated: Mapping[str, bytes]) -> Iterator[PackedFile]:
    """Yield the generated files as they would be packed."""
    for path, data in generated.items():
        yield PackedFile(path, len(data), _start_digest(_FILE, data).hexdigest())


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> PackedFile:
    content = tar.extractfile(member) if member.isreg() else None
    if content is None:
        return _make_link(member.name, member.linkname)
    return _digest_file(member.name, member.size, content, is_executable=bool(member.mode & stat.S_IXUSR))


def _read_file(folders: SourceFolders, path: str) -> PackedFile:
    folder, _, name = path.rpartition("/")
    if stat.S_ISLNK(folders.stat(path).st_mode):
        return _make_link(path, os.readlink(name, dir_fd=folders.enter(folder)))
    with os.fdopen(folders.open(path), "rb") as file:
        found = os.fstat(file.fileno())
        return _digest_file(path, found.st_size, file, is_executable=bool(found.st_mode & stat.S_IXUSR))


def _digest_file(path: str, size: int, content: IO[bytes], *, is_executable: bool) -> PackedFile:
    start = partial(_start_digest, _EXECUTABLE if is_executable else _FILE)
    return PackedFile(path, size, hashlib.file_digest(content, start).hexdigest())  # type: ignore[arg-type]  # a tar's member has `readinto`, too


def _make_link(path: str, target: str) -> PackedFile:
    name = os.fsencode(target)
    return PackedFile(path, len(name), _start_digest(_LINK, name).hexdigest())


def _start_digest(kind: bytes, data: bytes = b"") -> hashlib._Hash:
    return hashlib.sha256(kind + data)
