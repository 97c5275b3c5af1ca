"""A folder whose files are addressed by name and never opened through a link."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from buildkit import files
from buildkit.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAX_BYTES = 16_000_000


class Folder:
    """A folder that we write to. Its files are addressed by name, and no name leads anywhere else.

    Reading raises OSError if there is no such file, or if it is not a regular one. Writing raises LocalError, which
    names the file, if the disk is full, the file is too large or not a regular one, or the folder is not writable.

    Attributes:
        path: Absolute; nothing needs to exist there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The folder's own name, as messages show it."""
        return self.path.name

    def show(self, name: str) -> str:
        """Return a file's name as messages show it."""
        return f"{self.name}/{name}"

    def read(self, name: str) -> bytes:
        """Return the contents of a file."""
        with self._opened(name) as folder:
            return files.read_bounded(name, _MAX_BYTES, folder=folder)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        with self.replacing(name) as file:
            file.write(data)

    @contextmanager
    def replacing(self, name: str) -> Iterator[IO[bytes]]:
        """Give a new file to write. It takes the name `name` when the block succeeds, and is removed otherwise."""
        temporary = files.make_temporary_name()
        with self._naming_failures(name), self._opened(name) as folder:
            descriptor = os.open(temporary, files.NEW_FLAGS, 0o600, dir_fd=folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    yield file
                    file.flush()
                    os.fchmod(file.fileno(), 0o644)
                    os.fsync(file.fileno())
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            os.fsync(folder)

    @contextmanager
    def growing(self, name: str) -> Iterator[IO[bytes]]:
        """Give an unbuffered file that others can read while it is written, such as a log; it is emptied first."""
        with (
            self._naming_failures(name),
            self._opened(name) as folder,
            os.fdopen(files.open_file(name, files.WRITE_FLAGS, folder), "wb", 0) as file,
        ):
            os.ftruncate(file.fileno(), 0)
            yield file

    @contextmanager
    def _naming_failures(self, name: str) -> Iterator[None]:
        """Raise LocalError where writing in the block fails."""
        try:
            yield
        except OSError as error:
            raise LocalError(
                f"cannot write {self.show(name)}: {error.strerror or error}",
                f"free some disk space, or make {self.path} writable",
            ) from error

    def open(self, name: str) -> int:
        """Return a descriptor for reading a file; the caller closes it."""
        with self._opened(name) as folder:
            return files.open_regular(name, folder=folder)

    def exists(self, name: str) -> bool:
        """Return whether something of that name is there."""
        return os.path.lexists(self.path / name)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with suppress(FileNotFoundError), self._opened(name) as folder:
            os.unlink(name, dir_fd=folder)

    def digest(self, name: str) -> str | None:
        """Return a file's sha256 in hex, or None if it cannot be read."""
        try:
            with os.fdopen(self.open(name), "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None

    def digests(self, *names: str) -> dict[str, str]:
        """Return `made_from` for a result that is made from these files."""
        return {name: digest for name in names if (digest := self.digest(name))}

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        """Give the descriptor of the folder, provided that `name` is one of its own files."""
        if "/" in name or name in {"", ".", ".."}:
            raise OSError(errno.EINVAL, "not a name in this folder", name)
        with files.open_folder(self.path) as folder:
            yield folder
