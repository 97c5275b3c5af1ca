"""A lock that the kernel frees with the process that holds it, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MODE = 0o644


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, which is made where it is missing and stays: a second one would let two runs in.

    Raises:
        BlockingIOError: Another process holds it.
        OSError: It cannot be made, or is something else than a file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, _MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except PermissionError as error:  # what some network file systems say instead
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path)) from error
        yield
    finally:
        os.close(descriptor)
