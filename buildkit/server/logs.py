"""The builds' logs: files that only ever grow, so that a reader can go on from where it was."""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from buildkit.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD_BYTES, TAIL_BYTES = 16 << 20, 1 << 20
_MAX_LINE_BYTES = 64 * 1024


class Logs:
    """A folder with one log for each build.

    Args:
        scrub: Masks secrets in a line before it is written.
    """

    def __init__(self, folder: Path, scrub: Callable[[str], str] = lambda line: line) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = Folder(folder)
        self._scrub = scrub

    def open(self, build_id: str) -> LogWriter:
        """Return a writer that continues the log of a build.

        Raises:
            OSError: It cannot be written.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return LogWriter(os.open(self._folder.path / _name(build_id), flags, 0o600), self._scrub)

    def size(self, build_id: str) -> int:
        """Return the size of a log in bytes; 0 before the build has one."""
        try:
            return (self._folder.path / _name(build_id)).stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, build_id: str, offset: int, limit: int) -> bytes:
        """Return at most `limit` bytes from `offset`; empty if there are none yet."""
        try:
            descriptor = self._folder.open(_name(build_id))
        except FileNotFoundError:
            return b""
        try:
            return os.pread(descriptor, limit, offset)
        finally:
            os.close(descriptor)

    def delete(self, build_id: str) -> None:
        """Delete a log if there is one."""
        self._folder.remove(_name(build_id))


class LogWriter:
    """Appends lines to a log. Of what exceeds the limit, the end is kept and appended on `close`, after a note.

    A log that cannot be written does not stop the build: what is missing is counted as left out.
    """

    def __init__(self, descriptor: int, scrub: Callable[[str], str]) -> None:
        self._descriptor = descriptor
        self._scrub = scrub
        self._room = HEAD_BYTES - os.fstat(descriptor).st_size
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._lost_lines = self._lost_bytes = 0
        self._is_cut = False

    def write(self, line: str) -> None:
        """Append a line, which readers see at once unless the log is too long."""
        text = self._scrub(line.rstrip("\n")).encode("utf-8", "replace")
        if len(text) >= _MAX_LINE_BYTES:
            text = text[:_MAX_LINE_BYTES] + b" [the rest of this line is left out]"
        text += b"\n"
        if not self._is_cut and len(text) <= self._room and self._append(text):
            self._room -= len(text)
            return
        self._is_cut = True
        self._tail.append(text)
        self._tail_bytes += len(text)
        while self._tail_bytes > TAIL_BYTES:
            lost = self._tail.popleft()
            self._tail_bytes -= len(lost)
            self._lost_bytes += len(lost)
            self._lost_lines += 1

    def close(self) -> None:
        """Append the end of a log that was too long; does nothing the second time."""
        if self._descriptor < 0:
            return
        try:
            if self._lost_lines:
                note = f"[{self._lost_lines} lines ({self._lost_bytes} bytes) are left out: the log is too long]\n"
                self._append(note.encode())
            for text in self._tail:
                self._append(text)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, text: bytes) -> bool:
        """Return whether the whole text was appended; none of it is if the disk is full."""
        size = os.fstat(self._descriptor).st_size
        with suppress(OSError):
            if os.write(self._descriptor, text) == len(text):
                return True
        os.ftruncate(self._descriptor, size)
        return False


def _name(build_id: str) -> str:
    return f"{build_id}.log"
