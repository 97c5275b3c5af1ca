"""The body of `POST /build`, read from the archive while it is sent, and how much of it a server can have."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pybase64 import b64encode

from buildkit.errors import LocalError, run
from buildkit.runtime_api.protocol import JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# A multiple of 3, so that base64 pads only at the end; small, so that a slow network still makes progress. pybase64,
# because the standard library's base64 would take most of the time.
_BLOCK_BYTES = 3 * 16 * 1024


@dataclass
class UploadAttempt:
    """An upload, sent once or several times over; it alone knows what a server can have received.

    Attributes:
        descriptor: Of the archive, open for reading; the caller closes it.
        name: Of the archive, for messages.
        sha256: Of the archive, in hex: a server gets the last block only if that is what was sent before it.
        images: Full image references; the first is the target image.
        draw: Called with the bytes sent and their total, only to show them.
        idempotency_key: Sent along if there is one; a server that knows such keys starts one build for each.
        outcome_unknown: The server knows such keys, and an earlier try may have started the build: the upload may be
            sent again, and no failure proves that there is no build.
        sent: Bytes of the body handed to the network, in the latest try.
        total: Bytes of the body.
        may_have_started: A server may have had the whole body, and has not refused it.
    """

    descriptor: int
    name: str
    sha256: str
    images: Sequence[str]
    upload_format: str
    draw: Callable[[int, int], None] | None = None
    idempotency_key: str = ""
    outcome_unknown: bool = False
    sent: int = field(default=0, init=False)
    total: int = field(init=False)
    may_have_started: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        frame = _frame_json if self.upload_format == JSON else _frame_multipart
        self._prefix, self._suffix, self.content_type = frame(self.images)
        self._size_bytes = os.fstat(self.descriptor).st_size
        self.total = len(self._prefix) + 4 * ((self._size_bytes + 2) // 3) + len(self._suffix)

    @property
    def complete(self) -> bool:
        """Whether the server may have the whole body of the latest try."""
        return self.sent >= self.total

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body from its beginning.

        Raises:
            LocalError: The archive cannot be read or has changed; the server does not get the end of it.
        """
        yield self._hand_out(self._prefix)
        digest = hashlib.sha256()
        held = b""
        for block in self._read_blocks():
            if held:
                yield self._hand_out(held)
            digest.update(block)
            held = b64encode(block)
        if digest.hexdigest() != self.sha256:
            raise self._refuse("changed")
        yield self._hand_out(held + self._suffix)

    def _hand_out(self, piece: bytes) -> bytes:
        self.sent += len(piece)
        self.may_have_started |= self.complete
        if self.draw:
            self.draw(self.sent, self.total)
        return piece

    def _read_blocks(self) -> Iterator[bytes]:
        for offset in range(0, self._size_bytes, _BLOCK_BYTES):
            wanted = min(_BLOCK_BYTES, self._size_bytes - offset)
            try:
                block = os.pread(self.descriptor, wanted, offset)
            except OSError as error:
                raise LocalError(f"cannot read {self.name}: {error.strerror}", f"run {run('context')} again") from error
            if len(block) < wanted:
                raise self._refuse("became shorter")
            yield block

    def _refuse(self, what: str) -> LocalError:
        return LocalError(f"{self.name} {what} while it was sent", f"run {run('context')}, then {run('upload')} again")


def _frame_json(images: Sequence[str]) -> tuple[bytes, bytes, str]:
    """Return what comes before and after the archive, and the content type."""
    target_image, *tags = images
    fields = {"target_image": target_image, **({"tags": tags} if tags else {})}
    prefix = json.dumps(fields)[:-1] + ', "context": "'
    return prefix.encode("ascii"), b'"}', "application/json"


def _frame_multipart(images: Sequence[str]) -> tuple[bytes, bytes, str]:
    """Return what comes before and after the archive, and the content type."""
    boundary = secrets.token_hex(16)
    opening = f"--{boundary}\r\nContent-Disposition: form-data; name="
    names = ["target_image", *["tags"] * (len(images) - 1)]
    parts = [f'{opening}"{name}"\r\n\r\n{image}\r\n' for name, image in zip(names, images, strict=True)]
    prefix = "".join([*parts, f'{opening}"context"; filename="context.tar.gz"\r\n\r\n'])
    return (
        prefix.encode("utf-8"),
        f"\r\n--{boundary}--\r\n".encode("ascii"),
        f"multipart/form-data; boundary={boundary}",
    )
