"""The body of `POST /build`, read from the archive while it is sent, and how much of it a server can have."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pybase64 import b64encode

from buildkit.errors import LocalError, run
from buildkit.runtime_api.protocol import JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# A multiple of 3, so that base64 pads only at the end; small, so that a slow network still makes progress. pybase64,
# because the standard library's base64 would take most of the time.
_BLOCK_BYTES = 3 * 16 * 1024


@dataclass(frozen=True)
class Upload:
    """What is sent.

    Attributes:
        descriptor: Of the archive, open for reading; the caller closes it.
        name: Of the archive, for messages.
        sha256: Of the archive, in hex: a server gets the last block only if that is what was sent before it.
        images: Full image references; the first is the target image.
    """

    descriptor: int
    name: str
    size_bytes: int
    sha256: str
    images: Sequence[str]
    upload_format: str


class UploadAttempt:
    """An upload on its way, sent once or several times over; it alone knows what a server can have received.

    Args:
        draw: Called with the bytes sent and their total, only to show them.

    Attributes:
        sent: Bytes of the body handed to the network, in the latest try.
        total: Bytes of the body.
        may_have_started: A server may have had the whole body, and has not refused it.
    """

    def __init__(self, upload: Upload, draw: Callable[[int, int], None] | None = None) -> None:
        self.upload = upload
        self._draw = draw
        frame = _frame_json(upload.images) if upload.upload_format == JSON else _frame_multipart(upload.images)
        self._prefix, self._suffix, self.content_type = frame
        self.sent = 0
        self.total = len(self._prefix) + 4 * ((upload.size_bytes + 2) // 3) + len(self._suffix)
        self.may_have_started = False

    @property
    def complete(self) -> bool:
        """Whether the server may have the whole body of the latest try."""
        return self.sent >= self.total

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body from its beginning, as a new try.

        Raises:
            LocalError: The archive cannot be read or has changed; the server does not get the end of it.
        """
        self.sent = 0
        yield self._hand_out(self._prefix)
        digest = hashlib.sha256()
        held = b""
        for block in self._read_blocks():
            if held:
                yield self._hand_out(held)
            digest.update(block)
            held = b64encode(block)
        if digest.hexdigest() != self.upload.sha256:
            raise self._refuse("changed")
        yield self._hand_out(held + self._suffix)

    def restart(self) -> None:
        """Forget what the latest try sent: the next one begins with a connection, which may fail."""
        self.sent = 0

    def _hand_out(self, piece: bytes) -> bytes:
        self.sent += len(piece)
        self.may_have_started |= self.complete
        if self._draw:
            self._draw(self.sent, self.total)
        return piece

    def _read_blocks(self) -> Iterator[bytes]:
        upload = self.upload
        for offset in range(0, upload.size_bytes, _BLOCK_BYTES):
            wanted = min(_BLOCK_BYTES, upload.size_bytes - offset)
            try:
                block = os.pread(upload.descriptor, wanted, offset)
            except OSError as error:
                raise LocalError(
                    f"cannot read {upload.name}: {error.strerror or error}", f"run {run('context')} again"
                ) from error
            if len(block) < wanted:
                raise self._refuse("became shorter")
            yield block

    def _refuse(self, what: str) -> LocalError:
        return LocalError(
            f"{self.upload.name} {what} while it was sent", f"run {run('context')}, then {run('upload')} again"
        )


class _Frame(NamedTuple):
    """What surrounds the archive in a body."""

    prefix: bytes
    suffix: bytes
    content_type: str


def _frame_json(images: Sequence[str]) -> _Frame:
    target_image, *tags = images
    fields: dict[str, str | list[str]] = {"target_image": target_image}
    if tags:
        fields["tags"] = tags
    prefix = json.dumps(fields)[:-1] + ', "context": "'
    return _Frame(prefix.encode("ascii"), b'"}', "application/json")


def _frame_multipart(images: Sequence[str]) -> _Frame:
    boundary = secrets.token_hex(16)
    names = ["target_image", *["tags"] * (len(images) - 1)]
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{image}\r\n'
        for name, image in zip(names, images, strict=True)
    ]
    parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="context"; filename="context.tar.gz"\r\n\r\n')
    return _Frame(
        "".join(parts).encode("utf-8"),
        f"\r\n--{boundary}--\r\n".encode("ascii"),
        f"multipart/form-data; boundary={boundary}",
    )
