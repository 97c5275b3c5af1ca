"""The multipart form of `POST /build`, read as it arrives: the context is never in memory as a whole."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError

from buildkit.server.fields import CONTEXT, FIELDS_TOO_LARGE, MAX_FIELD_BYTES, FieldCollector, decode_field
from buildkit.server.refusals import InvalidBody

if TYPE_CHECKING:
    from buildkit.server.fields import BuildFields

_NAME = re.compile(rb'form-data\s*;(?:.*;)?\s*name="?([^";\r\n]*)', re.IGNORECASE)


class MultipartBody:
    """A form with one part for each field; the part `context` holds base64 text and may be of any length.

    Args:
        boundary: What separates the parts, as the Content-Type header names it.

    Raises:
        InvalidBody: The boundary is invalid.
    """

    def __init__(self, boundary: bytes) -> None:
        self._fields = FieldCollector()
        self._name = ""
        self._value = bytearray()
        self._read_bytes = 0
        self._header, self._header_value = bytearray(), bytearray()
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_header_name,
                    "on_header_value": self._add_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_value,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise InvalidBody("the boundary of the multipart form is invalid") from None

    def read(self, data: bytes) -> bytes:
        """Read the next part of the body, and return what it holds of the context, decoded.

        Raises:
            InvalidBody: It is not the form that `POST /build` expects.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidBody(f"the body is not a multipart form: {error}") from None
        return self._fields.take_context()

    def close(self) -> BuildFields:
        """Return the fields at the end of the body.

        Raises:
            InvalidBody: The body is cut, or a field is missing.
        """
        if not self._ended:
            raise InvalidBody("the multipart form ends before its last boundary")
        return self._fields.finish()

    def _begin_part(self) -> None:
        self._name = ""

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._header += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition" and (found := _NAME.match(self._header_value)):
            self._name = decode_field("a field's name", found[1])
        self._header.clear()
        self._header_value.clear()

    def _begin_value(self) -> None:
        if not self._name:
            raise InvalidBody("a part of the multipart form has no name")
        self._fields.start(self._name)

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == CONTEXT:
            self._fields.add_context(data[start:end])
            return
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, size_bytes: int) -> None:
        """Bound what is kept, and how many parts there can be: each has a header."""
        self._read_bytes += size_bytes
        if self._read_bytes > MAX_FIELD_BYTES:
            raise InvalidBody(FIELDS_TOO_LARGE)

    def _end_part(self) -> None:
        if self._name != CONTEXT:
            self._fields.add(self._name, decode_field(f"`{self._name}`", bytes(self._value)))
        self._value.clear()

    def _end(self) -> None:
        self._ended = True
