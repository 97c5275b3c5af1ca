"""Files opened safely: never through a link, never blocking, and replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Windows has none of these. `cli` refuses to run there, but the command line must get as far as saying so.
_NOFOLLOW, _NONBLOCK = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
_CLOEXEC, _DIRECTORY = getattr(os, "O_CLOEXEC", 0), getattr(os, "O_DIRECTORY", 0)
READ_FLAGS = os.O_RDONLY | _NOFOLLOW | _NONBLOCK | _CLOEXEC
FOLDER_FLAGS = os.O_RDONLY | _DIRECTORY | _NOFOLLOW | _CLOEXEC
LOCK_FLAGS = os.O_RDWR | os.O_CREAT | _NOFOLLOW | _NONBLOCK | _CLOEXEC
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _CLOEXEC
_TEMPORARY = re.compile(r"\.tmp-[0-9a-z_]{8}")


def open_regular(path: Path | str, *, folder: int | None = None, follow: bool = False) -> int:
    """Return a descriptor for reading a regular file; the caller closes it. A FIFO or a device never blocks.

    Args:
        folder: Descriptor of the folder that a relative `path` starts from.
        follow: Whether `path` itself may be a symbolic link.

    Raises:
        OSError: It cannot be read, or is not a regular file.
    """
    flags = READ_FLAGS & ~_NOFOLLOW if follow else READ_FLAGS
    try:
        descriptor = os.open(path, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:  # a link, a socket
            raise _refuse(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refuse(path)
    return descriptor


def read_bounded(path: Path | str, limit_bytes: int, *, folder: int | None = None, follow: bool = False) -> bytes:
    """Return the contents of a regular file, or its first `limit_bytes`.

    Raises:
        OSError: As in `open_regular`.
    """
    with os.fdopen(open_regular(path, folder=folder, follow=follow), "rb") as file:
        return file.read(limit_bytes)


def append_regular(path: Path | str, data: bytes) -> None:
    """Append `data` to a regular file, which is created if it is missing; a FIFO never blocks.

    Raises:
        OSError: It cannot be written, or is not a regular file.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "ab") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _refuse(path)
        file.write(data)


def open_growing(name: str, folder: int) -> IO[bytes]:
    """Return an unbuffered file to write, emptied first; the caller closes it.

    Args:
        folder: Descriptor of the folder that contains it.

    Raises:
        OSError: It cannot be written, or is not a regular file.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o644, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refuse(name)
    os.ftruncate(descriptor, 0)
    return os.fdopen(descriptor, "wb", 0)


@contextmanager
def open_folder(path: Path | str, *, folder: int | None = None) -> Iterator[int]:
    """Give the descriptor of a folder that is not a symbolic link.

    Raises:
        OSError: There is no such folder, or it is a link.
    """
    descriptor = os.open(path, FOLDER_FLAGS, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def replacing(name: str, folder: int) -> Iterator[IO[bytes]]:
    """Give a new file to write. It takes the name `name` when the block succeeds, and is removed otherwise.

    Args:
        folder: Descriptor of the folder that contains it.

    Raises:
        OSError: It cannot be written: the disk is full, the folder is read-only.
    """
    temporary = f".tmp-{secrets.token_hex(4)}"
    descriptor = os.open(temporary, _WRITE_FLAGS, 0o600, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        remove(temporary, folder)
        raise
    os.fsync(folder)


def remove(name: str, folder: int) -> None:
    """Remove a file if it exists."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


def is_temporary(name: str) -> bool:
    """Return whether a file of that name is one that we had not finished writing."""
    return _TEMPORARY.fullmatch(name) is not None


def _refuse(path: Path | str) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", str(path))
