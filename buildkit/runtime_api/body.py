"""Request bodies of `POST /build` that are read from the archive while they are sent."""

from __future__ import annotations

import json
import os
import secrets
from typing import TYPE_CHECKING, Self

from pybase64 import b64encode

from buildkit.errors import LocalError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

JSON = "json"
MULTIPART = "multipart"
UPLOAD_FORMATS = (JSON, MULTIPART)

# A multiple of 3, so that base64 pads only at the end. Large, because each piece costs a trip through the HTTP stack,
# but not larger than a processor's cache. pybase64, because the standard library's base64 would take most of the time.
_PIECE_BYTES = 3 * 64 * 1024


class StreamedBody:
    """The archive as base64 text between a prefix and a suffix, in constant memory.

    requests takes an object with `__len__` and `read` for a body of known length. It must have neither `tell` nor
    `__iter__`: requests would rewind the one and send the other in chunks.

    Attributes:
        content_type: For the header of that name.
        sent: Bytes handed out so far. As long as it is less than the length, the server cannot have the whole body.
    """

    def __init__(
        self, archive: Path, prefix: bytes, suffix: bytes, content_type: str, progress: Callable[[int, int], None]
    ) -> None:
        try:
            self._file = archive.open("rb")
        except OSError as error:
            raise _unreadable(archive, error) from error
        self._archive = archive
        self._archive_bytes = os.fstat(self._file.fileno()).st_size
        self._length = len(prefix) + 4 * ((self._archive_bytes + 2) // 3) + len(suffix)
        self._pieces = self._generate(prefix, suffix)
        self._progress = progress
        self.content_type = content_type
        self.sent = 0

    def __len__(self) -> int:
        return self._length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, _size: int = -1) -> bytes:
        """Return the next piece, whatever size is asked for: http.client would ask for 16 KiB at a time.

        Raises:
            LocalError: The archive cannot be read, or is shorter than it was when it was opened.
        """
        piece = next(self._pieces, b"")
        self.sent += len(piece)
        if piece:
            self._progress(self.sent, self._length)
        return piece

    def _generate(self, prefix: bytes, suffix: bytes) -> Iterator[bytes]:
        yield prefix
        left = self._archive_bytes
        while left:
            try:
                piece = self._file.read(min(_PIECE_BYTES, left))
            except OSError as error:
                raise _unreadable(self._archive, error) from error
            if not piece:
                raise LocalError(
                    f"{self._archive.name} became shorter while it was sent", "run `invoke context` and upload again"
                )
            left -= len(piece)
            yield b64encode(piece)
        yield suffix


def open_body(
    archive: Path, target_image: str, tags: Sequence[str], *, upload_format: str, progress: Callable[[int, int], None]
) -> StreamedBody:
    """Return the body of `POST /build`, open; the caller closes it.

    Args:
        tags: Full image references besides `target_image`.
        progress: Called with the bytes handed out so far and the length of the body.

    Raises:
        SettingError: There is no such upload format.
        LocalError: The archive cannot be read.
    """
    if upload_format == JSON:
        return _open_json(archive, target_image, tags, progress)
    if upload_format == MULTIPART:
        return _open_multipart(archive, target_image, tags, progress)
    raise SettingError(
        f"UPLOAD_FORMAT is {upload_format!r}, which is not a form of upload",
        f"set UPLOAD_FORMAT to {' or '.join(UPLOAD_FORMATS)}",
    )


def _open_json(
    archive: Path, target_image: str, tags: Sequence[str], progress: Callable[[int, int], None]
) -> StreamedBody:
    fields: dict[str, str | list[str]] = {"target_image": target_image}
    if tags:
        fields["tags"] = list(tags)
    prefix = json.dumps(fields)[:-1] + ', "context": "'
    return StreamedBody(archive, prefix.encode("ascii"), b'"}', "application/json", progress)


def _open_multipart(
    archive: Path, target_image: str, tags: Sequence[str], progress: Callable[[int, int], None]
) -> StreamedBody:
    boundary = secrets.token_hex(16)
    fields = [("target_image", target_image), *(("tags", tag) for tag in tags)]
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields
    ]
    parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="context"; filename="context.tar.gz"\r\n\r\n')
    return StreamedBody(
        archive,
        "".join(parts).encode("utf-8"),
        f"\r\n--{boundary}--\r\n".encode("ascii"),
        f"multipart/form-data; boundary={boundary}",
        progress,
    )


def _unreadable(archive: Path, error: OSError) -> LocalError:
    return LocalError(f"cannot read {archive.name}: {error.strerror or error}", "run `invoke context` again")
