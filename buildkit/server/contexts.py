"""The stored contexts: each one a file, named by its digest, that was checked while it arrived."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
from contextlib import ExitStack, suppress
from typing import IO, TYPE_CHECKING

from buildkit import files
from buildkit.server.gunzip import Gunzip, feed_file
from buildkit.server.incoming import IncomingContext, Limits, decode_dockerfile
from buildkit.server.scanner import TarScanner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from buildkit.server.records import Build
    from buildkit.server.scanner import FileEntry

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTEXT, _SOURCE = ".tar.gz", ".source.gz"
_COPY_BYTES = 1 << 18
_MAX_LISTED_BYTES = 1 << 50


class Contexts:
    """A folder of contexts; nobody else may write to it. Unfinished files of an earlier process are removed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in folder.iterdir():
            if files.is_temporary(path.name):
                path.unlink()

    def receive(self, limits: Limits) -> IncomingContext:
        """Return what a context, or the rest of one whose source part is stored, is written to."""
        return IncomingContext(self, limits)

    def receive_source(self, sha256: str, limits: Limits) -> IncomingContext:
        """Return what the source part of a context is written to: gzip members of a tar without its end.

        Args:
            sha256: The digest that the part must have.
        """
        return IncomingContext(self, limits, source_sha256=sha256)

    def has(self, build: Build) -> bool:
        """Return whether the context of a build is stored."""
        return all(path.exists() for path in self._list_paths(build))

    def has_source(self, sha256: str) -> bool:
        """Return whether a source part is stored."""
        return _SHA256.fullmatch(sha256) is not None and self.find(sha256, is_source=True).exists()

    def find(self, sha256: str, *, is_source: bool) -> Path:
        """Return the path of a context or of a source part, which may not be stored."""
        return self._folder / f"{sha256}{_SOURCE if is_source else _CONTEXT}"

    def open(self, build: Build) -> int:
        """Return a descriptor that gives the archive of a build; the caller closes it.

        Raises:
            OSError: It is no longer stored.
        """
        with ExitStack() as stack:
            parts = [stack.enter_context(path.open("rb")) for path in self._list_paths(build)]
            if len(parts) == 1:
                return os.dup(parts[0].fileno())
            reading, writing = os.pipe()
            pipe = stack.enter_context(os.fdopen(writing, "wb", 0))
            arguments = (parts, pipe, stack.pop_all())
            threading.Thread(target=_concatenate, args=arguments, name="context", daemon=True).start()
            return reading

    def list_files(self, build: Build) -> list[tuple[str, int]]:
        """Return the path and the size in bytes of each file in a context, in its order.

        Raises:
            OSError: The context is no longer stored.
        """
        found: dict[str, int] = {}
        self._scan(build, lambda entry: found.update({entry.path: entry.size_bytes}))
        return list(found.items())

    def read_dockerfile(self, build: Build) -> str:
        """Return the Dockerfile of a build.

        Raises:
            OSError: The context is no longer stored.
        """
        return decode_dockerfile(self._scan(build).dockerfile)

    def delete_unused(self, used: set[str]) -> None:
        """Delete the contexts and source parts whose digests are not in `used`."""
        for path in self._folder.iterdir():
            digest = path.name.partition(".")[0]
            if _SHA256.fullmatch(digest) and digest not in used:
                path.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Return the free space of the disk."""
        return shutil.disk_usage(self._folder).free

    def create_spool(self) -> tuple[Path, IO[bytes]]:
        """Return a new file for what arrives, and its path.

        Raises:
            OSError: It cannot be created.
        """
        path = self._folder / f".tmp-{secrets.token_hex(4)}"
        return path, os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")

    def _list_paths(self, build: Build) -> list[Path]:
        source = [self.find(build.source_sha256, is_source=True)] if build.source_sha256 else []
        return [*source, self.find(build.context_sha256, is_source=False)]

    def _scan(self, build: Build, report: Callable[[FileEntry], object] | None = None) -> TarScanner:
        scanner = TarScanner(_MAX_LISTED_BYTES, report)
        gunzip = Gunzip(scanner.feed)
        for path in self._list_paths(build):
            feed_file(gunzip, path)
        return scanner


def _concatenate(parts: Sequence[IO[bytes]], pipe: IO[bytes], opened: ExitStack) -> None:
    """Write the parts to the pipe until its reader closes it, and close everything."""
    with opened, suppress(BrokenPipeError):
        for part in parts:
            shutil.copyfileobj(part, pipe, _COPY_BYTES)
