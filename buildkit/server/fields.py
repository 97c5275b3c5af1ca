"""What both forms of `POST /build` have in common: the fields, and the base64 text of the context."""

from __future__ import annotations

import binascii
from typing import NamedTuple

from pybase64 import b64decode

from buildkit.server.refusals import InvalidBody

CONTEXT, TAGS = "context", "tags"
MAX_FIELD_BYTES = 64 * 1024
FIELDS_TOO_LARGE = f"the fields other than `{CONTEXT}` are larger than {MAX_FIELD_BYTES // 1024} KiB"
_TEXTS = ("target_image", "context_sha256")
_NAMES = (CONTEXT, *_TEXTS, TAGS)


class BuildFields(NamedTuple):
    """The fields of `POST /build`, except for the context.

    Attributes:
        tags: Image references, in addition to the target image.
        context_sha256: The digest of the source part that the context continues, if it was uploaded on its own.
    """

    target_image: str
    tags: tuple[str, ...]
    context_sha256: str | None


class FieldCollector:
    """Collects the fields of one request, in any order, and rejects those that `POST /build` does not have."""

    def __init__(self) -> None:
        self._decoder = Base64Decoder()
        self._context: list[bytes] = []
        self._seen: set[str] = set()
        self._texts: dict[str, str] = {}
        self._tags: list[str] = []

    def start(self, name: str) -> None:
        """Note that a field begins.

        Raises:
            InvalidBody: There is no such field, or it is there already.
        """
        if name not in _NAMES:
            raise InvalidBody(f"there is no field {name[:100]!r}; the fields are {', '.join(_NAMES)}")
        if name in self._seen and name != TAGS:
            raise InvalidBody(f"`{name}` is given twice")
        self._seen.add(name)

    def add(self, name: str, text: str) -> None:
        """Add the text of a field other than the context."""
        if name == TAGS:
            self._tags.append(text)
        else:
            self._texts[name] = text

    def add_context(self, text: bytes) -> None:
        """Decode the next part of the context.

        Raises:
            InvalidBody: It is not base64.
        """
        self._context.append(self._decoder.decode(text))

    def take_context(self) -> bytes:
        """Return what has been decoded since the last call."""
        context = b"".join(self._context)
        self._context.clear()
        return context

    def finish(self) -> BuildFields:
        """Return the fields once the context is complete.

        Raises:
            InvalidBody: The context or the target image is missing, or the base64 text is cut.
        """
        for name in (CONTEXT, _TEXTS[0]):
            if name not in self._seen:
                raise InvalidBody(f"there is no `{name}`")
        self._decoder.close()
        target_image, context_sha256 = map(self._texts.get, _TEXTS)
        return BuildFields(target_image or "", tuple(self._tags), context_sha256)


class Base64Decoder:
    """Decodes base64 text as it arrives, with or without line breaks."""

    def __init__(self) -> None:
        self._held = b""
        self._is_padded = False

    def decode(self, text: bytes) -> bytes:
        """Return what the next part of the text stands for.

        Raises:
            InvalidBody: It is not base64.
        """
        if b"\n" in text or b"\r" in text:
            text = text.translate(None, b"\r\n")
        if self._held:
            text = self._held + text
        whole = len(text) - len(text) % 4
        self._held = text[whole:]
        if not whole:
            return b""
        if self._is_padded:
            raise InvalidBody("`context` is not base64: it continues after its padding")
        self._is_padded = text.endswith(b"=", 0, whole)
        try:
            return b64decode(memoryview(text)[:whole], validate=True)
        except binascii.Error:
            raise InvalidBody("`context` is not base64") from None

    def close(self) -> None:
        """Check that the text is complete.

        Raises:
            InvalidBody: It is cut.
        """
        if self._held:
            raise InvalidBody("`context` is not base64: its length is not a multiple of 4")


def decode_field(name: str, data: bytes) -> str:
    """Return the text of a field.

    Raises:
        InvalidBody: It is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidBody(f"{name} is not UTF-8") from None
