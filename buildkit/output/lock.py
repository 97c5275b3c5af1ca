"""A lock that the kernel frees with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MODE = 0o644


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, which is there only meanwhile.

    Raises:
        BlockingIOError: Another process holds it.
        OSError: It cannot be made, or is something else than a file.
    """
    descriptor = _acquire(path)
    try:
        yield
    finally:
        # While it is still held: whoever opened it before sees that it has no name any more, and makes a new one.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Return the descriptor of the locked file; closing it frees the lock."""
    while True:
        descriptor = os.open(path, _FLAGS, _MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_named = os.fstat(descriptor).st_nlink > 0
        except OSError:
            os.close(descriptor)
            raise
        if is_named:
            return descriptor
        os.close(descriptor)
