"""Bodies that are read from the archive while they are sent, and how much of them a server can have."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from typing import TYPE_CHECKING, NamedTuple, Self

from buildkit.errors import LocalError, run
from buildkit.runtime_api.protocol import JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from buildkit.archive.parts import ArchiveParts

    Draw = Callable[[int, int], None]

# A multiple of 3, so that base64 pads only at the end; small, so that a slow network still makes progress.
_BLOCK_BYTES = 3 * 16 * 1024


class ArchivePart(NamedTuple):
    """An open archive, or a part of it, which is checked while it is read.

    Attributes:
        descriptor: Open for reading; the caller closes it.
        name: Of the archive, for messages.
        sha256: Of the part, in hex.
    """

    descriptor: int
    name: str
    sha256: str
    start: int
    end: int

    @classmethod
    def of_whole(cls, descriptor: int, name: str, sha256: str) -> Self:
        """Return the whole archive."""
        return cls(descriptor, name, sha256, 0, os.fstat(descriptor).st_size)

    def split(self, parts: ArchiveParts) -> tuple[ArchivePart, ArchivePart]:
        """Return the source and the rest."""
        source = self._replace(end=parts.source_bytes, sha256=parts.source_sha256)
        return source, self._replace(start=parts.source_bytes, sha256=parts.rest_sha256)

    def read(self) -> Iterator[bytes]:
        """Yield the bytes in blocks, the last one only if all of them have the digest.

        Raises:
            LocalError: The archive cannot be read or has changed.
        """
        digest, held = hashlib.sha256(), b""
        for offset in range(self.start, self.end, _BLOCK_BYTES):
            if held:
                yield held
            held = self._read_block(offset)
            digest.update(held)
        if digest.hexdigest() != self.sha256:
            raise self._refuse("changed")
        yield held

    def _read_block(self, offset: int) -> bytes:
        wanted = min(_BLOCK_BYTES, self.end - offset)
        try:
            block = os.pread(self.descriptor, wanted, offset)
        except OSError as error:
            raise LocalError(f"cannot read {self.name}: {error.strerror}", f"run {run('context')} again") from error
        if len(block) < wanted:
            raise self._refuse("became shorter")
        return block

    def _refuse(self, what: str) -> LocalError:
        return LocalError(f"{self.name} {what} while it was sent", f"run {run('context')}, then {run('upload')} again")


class Frame(NamedTuple):
    """What surrounds a part of the archive in a body."""

    prefix: bytes
    suffix: bytes
    content_type: str
    is_base64: bool = True


class Body:
    """A part of the archive as the body of a request, which may be sent several times.

    Attributes:
        sent: Bytes handed to the network, in the latest try.
        total: Bytes of the body.
        draw: Called with the bytes sent and their total, only to show them.
    """

    def __init__(self, part: ArchivePart, frame: Frame, draw: Draw | None = None) -> None:
        self.draw = draw
        self._frame(part, frame)

    @property
    def complete(self) -> bool:
        """Whether the server may have the whole body of the latest try."""
        return self.sent >= self.total

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body from its beginning."""
        from pybase64 import b64encode  # the standard library's base64 would take most of the time

        if self._prefix:
            yield self._hand_out(self._prefix)
        for block in self._part.read():
            left = self.total - self.sent - len(self._suffix)
            data = b64encode(block) if self._is_base64 else block
            yield self._hand_out(data if len(data) < left else data + self._suffix)

    def _frame(self, part: ArchivePart, frame: Frame) -> None:
        self._part = part
        self._prefix, self._suffix, self.content_type, self._is_base64 = frame
        size_bytes = part.end - part.start
        encoded_bytes = 4 * ((size_bytes + 2) // 3) if frame.is_base64 else size_bytes
        self.total = len(frame.prefix) + encoded_bytes + len(frame.suffix)
        self.sent = 0

    def _hand_out(self, piece: bytes) -> bytes:
        self.sent += len(piece)
        if self.draw:
            self.draw(self.sent, self.total)
        return piece


class SourceUpload(Body):
    """The source part of a context, which is sent as it is. This starts no build."""

    def __init__(self, source: ArchivePart, draw: Draw | None = None) -> None:
        self.sha256 = source.sha256
        super().__init__(source, Frame(b"", b"", "application/gzip", is_base64=False), draw)


class UploadAttempt(Body):
    """A build that is asked for, in one request or in several; it alone knows what a server can have received.

    Args:
        images: Full image references; the first is the target image.
        idempotency_key: Sent along if there is one; a server that knows such keys starts one build for each.

    Attributes:
        archive: What is built.
        source: The part of it that the server has already been sent, if the server takes it on its own.
        outcome_unknown: The server knows such keys, and an earlier try may have started the build: the upload may be
            sent again, and no failure proves that there is no build.
        may_have_started: A server may have had the whole body, and has not refused it.
    """

    def __init__(
        self,
        archive: ArchivePart,
        images: Sequence[str],
        upload_format: str,
        draw: Draw | None = None,
        idempotency_key: str = "",
    ) -> None:
        self.archive = archive
        self.upload_format = upload_format
        self.idempotency_key = idempotency_key
        self.source: ArchivePart | None = None
        self.outcome_unknown = False
        self.may_have_started = False
        self._images = images
        super().__init__(archive, self._format_frame(), draw)

    def leave_out_source(self, parts: ArchiveParts) -> None:
        """Name the source by its digest instead of sending it, and send only the rest."""
        self.source, rest = self.archive.split(parts)
        self._frame(rest, self._format_frame(self.source.sha256))

    def send_source_along(self) -> None:
        """Send the whole archive."""
        self.source = None
        self._frame(self.archive, self._format_frame())

    def _format_frame(self, source_sha256: str | None = None) -> Frame:
        target_image, *tags = self._images
        fields = {"target_image": target_image, **({"context_sha256": source_sha256} if source_sha256 else {})}
        return (_frame_json if self.upload_format == JSON else _frame_multipart)(fields, tags)

    def _hand_out(self, piece: bytes) -> bytes:
        self.may_have_started |= self.sent + len(piece) >= self.total
        return super()._hand_out(piece)


def _frame_json(fields: dict[str, str], tags: Sequence[str]) -> Frame:
    prefix = json.dumps({**fields, **({"tags": tags} if tags else {})})[:-1] + ', "context": "'
    return Frame(prefix.encode("ascii"), b'"}', "application/json")


def _frame_multipart(fields: dict[str, str], tags: Sequence[str]) -> Frame:
    boundary = secrets.token_hex(16)
    opening = f"--{boundary}\r\nContent-Disposition: form-data; name="
    parts = [f'{opening}"{name}"\r\n\r\n{value}\r\n' for name, value in [*fields.items(), *(("tags", t) for t in tags)]]
    prefix = "".join([*parts, f'{opening}"context"; filename="context.tar.gz"\r\n\r\n'])
    suffix = f"\r\n--{boundary}--\r\n"
    return Frame(prefix.encode("utf-8"), suffix.encode("ascii"), f"multipart/form-data; boundary={boundary}")
