"""Files that appear whole or not at all: written beside their final name, synced, then renamed."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from buildkit.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PREFIX = ".tmp-"
_TEMPORARY = re.compile(r"\.tmp-[a-z0-9_]{8}")  # as tempfile.mkstemp names them


@contextmanager
def open_replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file to write, which takes the name `path` when the block ends well and is removed when it does not.

    Raises:
        LocalError: The disk is full, the file too large, the directory not writable.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=_PREFIX, dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        _sync_directory(path.parent)
    except OSError as error:
        raise LocalError(
            f"cannot write {path.name}: {error.strerror or error}", f"make room or mend permissions in {path.parent}"
        ) from error
    finally:
        if temporary is not None:
            os.unlink(temporary)


def write_file(path: Path, data: bytes) -> None:
    """Write `data` under the name `path`, whole or not at all.

    Raises:
        LocalError: As in `open_replacing`.
    """
    with open_replacing(path) as file:
        file.write(data)


def is_temporary(name: str) -> bool:
    """Return whether a file of that name is one that we had not finished writing."""
    return _TEMPORARY.fullmatch(name) is not None


def sweep_temporaries(directory: Path) -> None:
    """Remove what a killed run left half-written. The caller holds the directory's lock."""
    for name in filter(is_temporary, os.listdir(directory)):
        (directory / name).unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
