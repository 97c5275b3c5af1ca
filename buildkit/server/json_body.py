"""The JSON form of `POST /build`, read as it arrives: the context is never in memory as a whole."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from buildkit.server.fields import CONTEXT, FIELDS_TOO_LARGE, MAX_FIELD_BYTES, TAGS, FieldCollector, decode_field
from buildkit.server.refusals import InvalidBody

if TYPE_CHECKING:
    from collections.abc import Generator

    from buildkit.server.fields import BuildFields

_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# What has arrived may end within an escape: `\` or `\u002`.
_CUT_ESCAPE = re.compile(rb"\\(?:u[^\\]{0,3})?\Z", re.DOTALL)
_ESCAPE_BYTES = 6


class JsonBody:
    """A JSON object: texts, a list of texts (`tags`), and the context, whose value may be of any length."""

    def __init__(self) -> None:
        self._fields = FieldCollector()
        self._data = b""
        self._position = 0
        self._ended = False
        self._read_bytes = 0
        self._parser = self._parse()

    def read(self, data: bytes) -> bytes:
        """Read the next part of the body, and return what it holds of the context, decoded.

        Raises:
            InvalidBody: It is not the JSON object that `POST /build` expects.
        """
        self._data = self._data[self._position :] + data
        self._position = 0
        next(self._parser)
        return self._fields.take_context()

    def close(self) -> BuildFields:
        """Return the fields at the end of the body.

        Raises:
            InvalidBody: The body is cut, or a field is missing.
        """
        if not self._ended:
            raise InvalidBody("the JSON ends before its object does")
        return self._fields.finish()

    def _parse(self) -> Generator[None]:
        """Read the object; suspended whenever more of the body is needed."""
        yield from self._expect("{")
        separator = ","
        while separator == ",":
            name = yield from self._read_text("a field's name")
            self._fields.start(name)
            yield from self._expect(":")
            if name == CONTEXT:
                yield from self._read_context()
            elif name == TAGS:
                yield from self._read_tags()
            else:
                self._fields.add(name, (yield from self._read_text(f"`{name}`")))
            separator = yield from self._expect(",", "}")
        self._ended = True
        while True:
            self._skip_space()
            if self._position < len(self._data):
                raise InvalidBody("there is something after the JSON object")
            yield

    def _read_tags(self) -> Generator[None]:
        yield from self._expect("[")
        if (yield from self._peek()) == "]":
            self._position += 1
            return
        separator = ","
        while separator == ",":
            self._fields.add(TAGS, (yield from self._read_text("a tag")))
            separator = yield from self._expect(",", "]")

    def _read_context(self) -> Generator[None]:
        yield from self._expect('"')
        while True:
            end = self._find_quote()
            piece = self._data[self._position : len(self._data) if end is None else end]
            held = _CUT_ESCAPE.search(piece, max(0, len(piece) - _ESCAPE_BYTES)) if end is None else None
            piece = piece[: held.start()] if held else piece
            self._position += len(piece)
            self._fields.add_context(_unescape(piece))
            if end is not None:
                self._position = end + 1
                return
            yield

    def _find_quote(self) -> int | None:
        """Return where the value of `context` ends, or None if that has not arrived."""
        quote = self._data.find(b'"', self._position)
        if quote == -1:
            return None
        before = self._data[self._position : quote]
        if b"\\" not in before:
            return quote
        # An escaped quote is never base64, so what follows it does not matter.
        if (len(before) - len(before.rstrip(b"\\"))) % 2:
            raise InvalidBody(f"`{CONTEXT}` is not base64")
        return quote

    def _read_text(self, what: str) -> Generator[None, None, str]:
        if (found := (yield from self._peek())) != '"':
            raise InvalidBody(f"{what} is not a string: it begins with {found!r}")
        while not (literal := _STRING.match(self._data, self._position)):
            yield from self._wait()
        self._count(literal.end() - self._position)
        self._position = literal.end()
        try:
            text: str = json.loads(decode_field(what, literal[0]))
            text.encode("utf-8")
        except ValueError:
            raise InvalidBody(f"{what} is not a valid JSON string") from None
        return text

    def _expect(self, *characters: str) -> Generator[None, None, str]:
        """Return the next character other than white space, which must be one of these."""
        found = yield from self._peek()
        if found not in characters:
            raise InvalidBody(f"the JSON has {found!r} where {' or '.join(map(repr, characters))} is expected")
        self._position += 1
        return found

    def _peek(self) -> Generator[None, None, str]:
        self._skip_space()
        while self._position == len(self._data):
            yield
            self._skip_space()
        return chr(self._data[self._position])

    def _wait(self) -> Generator[None]:
        """Wait for more of a string."""
        if len(self._data) - self._position > MAX_FIELD_BYTES:
            raise InvalidBody(FIELDS_TOO_LARGE)
        yield

    def _skip_space(self) -> None:
        space = _SPACE.match(self._data, self._position)
        end = space.end() if space else self._position
        self._count(end - self._position)
        self._position = end

    def _count(self, size_bytes: int) -> None:
        self._read_bytes += size_bytes
        if self._read_bytes > MAX_FIELD_BYTES:
            raise InvalidBody(FIELDS_TOO_LARGE)


def _unescape(piece: bytes) -> bytes:
    r"""Return part of a JSON string without its escapes, such as `\/`."""
    if b"\n" in piece or b"\r" in piece:
        raise InvalidBody(f"`{CONTEXT}` is not a valid JSON string: it contains a line break")
    if b"\\" not in piece:
        return piece
    try:
        return str(json.loads(f'"{piece.decode("ascii")}"')).encode("ascii")
    except ValueError:
        raise InvalidBody(f"`{CONTEXT}` is not base64") from None
