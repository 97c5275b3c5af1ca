"""Regular files, read without waiting: a FIFO under a name that we read would hold us for ever."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def read_regular(path: Path | str, limit_bytes: int = -1) -> bytes:
    """Return what a regular file holds, or its first `limit_bytes`.

    Raises:
        OSError: It cannot be read, or is something else than a regular file or a link to one.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        return file.read(limit_bytes)


def _open_at_once(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return descriptor
