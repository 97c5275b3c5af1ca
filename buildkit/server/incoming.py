"""One context on its way to the disk: checked and digested as it arrives, and kept whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from buildkit import files
from buildkit.errors import LocalError
from buildkit.server.gunzip import Gunzip, feed_file
from buildkit.server.refusals import InvalidContext, TooLarge
from buildkit.server.scanner import TarScanner

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from buildkit.server.contexts import Contexts

_FROM = re.compile(r"^\s*FROM\s", re.IGNORECASE | re.MULTILINE)
# Written to the disk while the rest arrives, so that the response does not wait for all of it.
_SYNC_BYTES = 1 << 25
# The time to find the image below the last stage grows with the square of this.
_MAX_STAGES = 500


@dataclass(frozen=True)
class Limits:
    """How large a context may be: as it arrives, and decompressed."""

    max_bytes: int = 4_000_000_000
    max_unpacked_bytes: int = 40_000_000_000


@dataclass(frozen=True)
class StoredContext:
    """A context that is stored.

    Attributes:
        base_image: What its last stage is built on; empty if only the engine can tell.
        dockerfile: Empty for the source part of a context.
    """

    sha256: str
    size_bytes: int
    base_image: str
    dockerfile: str


class IncomingContext:
    """Checks and stores one context as it arrives. If anything fails, nothing is kept.

    Args:
        source_sha256: The digest of what arrives if it is the source part of a context.
    """

    def __init__(self, contexts: Contexts, limits: Limits, *, source_sha256: str | None = None) -> None:
        self._contexts = contexts
        self._limits = limits
        self._source_sha256 = source_sha256
        self._digest = hashlib.sha256()
        self._size_bytes = self._unsynced_bytes = 0
        self._scanner = TarScanner(limits.max_unpacked_bytes)
        self._gunzip = Gunzip(self._scanner.feed)
        self._checker = ThreadPoolExecutor(1, "check context")
        self._last_check: Future[None] | None = None
        self._path, self._file = contexts.create_spool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write(self, data: bytes) -> None:
        """Store the next piece, while another thread checks it and the one before.

        Raises:
            InvalidContext: An engine could not build what was written before this piece.
            TooLarge: It is larger than the limit.
            OSError: It cannot be stored.
        """
        try:
            self._count(len(data))
            earlier, self._last_check = self._last_check, self._checker.submit(self._gunzip.feed, data)
            self._store(data)
            if earlier:
                earlier.result()
        except BaseException:
            self.discard()
            raise

    def finish(self, continues: str | None = None) -> StoredContext:
        """Return the context, which is stored under its digest from now on.

        Args:
            continues: The digest of the stored source part that it is the rest of.

        Raises:
            InvalidContext: It is cut, or has no Dockerfile, or the source part is not stored.
            OSError: It cannot be stored.
        """
        try:
            if self._last_check:
                self._last_check.result()
            self._gunzip.finish()
            sha256 = self._digest.hexdigest()
            if self._source_sha256 is None:
                self._check_end()
            else:
                self._check_source(sha256)
            if continues is not None:
                self._check_whole(continues)
            self._keep(self._contexts.find(sha256, is_source=self._source_sha256 is not None))
        finally:
            self.discard()
        dockerfile = decode_dockerfile(self._scanner.dockerfile) if self._source_sha256 is None else ""
        return StoredContext(sha256, self._size_bytes, _find_base_image(dockerfile), dockerfile)

    def discard(self) -> None:
        """Keep nothing of what has arrived; does nothing after `finish`."""
        self._checker.shutdown(cancel_futures=True)
        with suppress(OSError):  # a full disk: what is buffered need not be written
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _store(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)
        self._unsynced_bytes += len(data)
        if self._unsynced_bytes >= _SYNC_BYTES:
            os.fsync(self._file.fileno())
            self._unsynced_bytes = 0

    def _count(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if self._size_bytes > self._limits.max_bytes:
            raise TooLarge(f"the context is larger than {self._limits.max_bytes} bytes")

    def _check_end(self) -> None:
        if not self._scanner.is_ended:
            raise InvalidContext(
                "the context is cut: its tar has no end" if self._size_bytes else "the context is empty"
            )
        if self._scanner.dockerfile is None:
            raise InvalidContext("the context has no Dockerfile at its top level")

    def _check_source(self, sha256: str) -> None:
        if sha256 != self._source_sha256:
            raise InvalidContext(f"the sha256 of the source part is {sha256}, not {self._source_sha256}")
        if self._scanner.is_ended or not self._scanner.is_between_entries or not self._size_bytes:
            raise InvalidContext("a source part consists of complete files, without the end of the tar")

    def _check_whole(self, source_sha256: str) -> None:
        """Check the source part and the rest as one archive: links and limits count together."""
        if not self._contexts.has_source(source_sha256):
            raise InvalidContext(f"the source part {source_sha256!r} is not stored; send it first")
        self._file.flush()
        gunzip = Gunzip(TarScanner(self._limits.max_unpacked_bytes).feed)
        feed_file(gunzip, self._contexts.find(source_sha256, is_source=True))
        feed_file(gunzip, self._path)

    def _keep(self, path: Path) -> None:
        self._file.flush()
        if path.exists():
            return
        os.fsync(self._file.fileno())
        self._path.rename(path)
        with files.open_folder(path.parent) as folder:
            os.fsync(folder)


def decode_dockerfile(dockerfile: bytes | None) -> str:
    """Return the text of a Dockerfile, or an empty text if the archive has none."""
    return (dockerfile or b"").decode("utf-8", "replace")


def _find_base_image(dockerfile: str) -> str:
    """Return the image that the last stage is built on, or an empty text if only the engine can tell."""
    from buildkit.stages import parse_stages

    if len(_FROM.findall(dockerfile)) > _MAX_STAGES:
        return ""
    try:
        stages = parse_stages(dockerfile, "Dockerfile", {})
        return stages.find_root(len(stages.stages) - 1)
    except (LocalError, ValueError):
        return ""
