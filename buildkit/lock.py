"""A lock that the kernel releases with the process that holds it, however that process ends."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from buildkit.files import LOCK_FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MODE = 0o644


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, which exists only while it is held.

    Raises:
        BlockingIOError: Another process holds it.
        OSError: It cannot be created, or is not a file.
    """
    descriptor = _acquire(path)
    try:
        yield
    finally:
        # Removed while it is still held: whoever has it open then sees that it has no name, and creates a new one.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Return the descriptor of the locked file; closing it releases the lock."""
    import fcntl  # which Windows does not have

    while True:
        descriptor = os.open(path, LOCK_FLAGS, _MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_named = os.fstat(descriptor).st_nlink > 0
        except OSError:
            os.close(descriptor)
            raise
        if is_named:
            return descriptor
        os.close(descriptor)
