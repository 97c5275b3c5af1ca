"""Files opened safely: never through a link, and never blocking.

Whatever is not a regular file is an OSError, as are a full disk and a missing permission.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Windows has none of these. `cli` refuses to run there, but the command line must get as far as saying so.
_NOFOLLOW, _NONBLOCK = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
_CLOEXEC, _DIRECTORY = getattr(os, "O_CLOEXEC", 0), getattr(os, "O_DIRECTORY", 0)
READ_FLAGS = os.O_RDONLY | _NOFOLLOW | _NONBLOCK | _CLOEXEC
FOLDER_FLAGS = os.O_RDONLY | _DIRECTORY | _NOFOLLOW | _CLOEXEC
LOCK_FLAGS = os.O_RDWR | os.O_CREAT | _NOFOLLOW | _NONBLOCK | _CLOEXEC
WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | _NOFOLLOW | _NONBLOCK | _CLOEXEC
NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _CLOEXEC
_TEMPORARY = re.compile(r"\.tmp-[0-9a-z_]{8}")


def open_file(path: Path | str, flags: int, folder: int | None = None) -> int:
    """Return a descriptor of a regular file, opened with these flags; the caller closes it."""
    try:
        descriptor = os.open(path, flags, 0o644, dir_fd=folder)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:  # a link; a socket, or a FIFO that nobody reads
            raise _refuse(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refuse(path)
    return descriptor


def open_regular(path: Path | str, *, folder: int | None = None, follow: bool = False) -> int:
    """Return a descriptor for reading a regular file; the caller closes it. A FIFO or a device never blocks.

    Args:
        folder: Descriptor of the folder that a relative `path` starts from.
        follow: Whether `path` itself may be a symbolic link.
    """
    return open_file(path, READ_FLAGS & ~_NOFOLLOW if follow else READ_FLAGS, folder)


def read_bounded(path: Path | str, limit_bytes: int, *, folder: int | None = None, follow: bool = False) -> bytes:
    """Return the contents of a regular file, or its first `limit_bytes`; the arguments are those of `open_regular`."""
    with os.fdopen(open_regular(path, folder=folder, follow=follow), "rb") as file:
        return file.read(limit_bytes)


def append_regular(path: Path | str, data: bytes) -> None:
    """Append `data` to a regular file, which is created if it is missing; a FIFO never blocks."""
    with os.fdopen(open_file(path, WRITE_FLAGS & ~_NOFOLLOW | os.O_APPEND), "ab") as file:
        file.write(data)


@contextmanager
def open_folder(path: Path | str) -> Iterator[int]:
    """Give the descriptor of a folder that is not a symbolic link."""
    descriptor = os.open(path, FOLDER_FLAGS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make_temporary_name() -> str:
    """Return a name for a file that is being written."""
    return f".tmp-{secrets.token_hex(4)}"


def is_temporary(name: str) -> bool:
    """Return whether a file of that name is one that we had not finished writing."""
    return _TEMPORARY.fullmatch(name) is not None


def _refuse(path: Path | str) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", str(path))
