"""The sha256 and the size of bytes that are written somewhere else."""

from __future__ import annotations

import hashlib


class Digest:
    """Counts bytes and computes their sha256."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._sha256 = hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        self._sha256.update(data)
        self.size_bytes += len(data)

    def hexdigest(self) -> str:
        """Return the sha256 of all bytes so far."""
        return self._sha256.hexdigest()
