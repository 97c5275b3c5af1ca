"""The API key, in a type that does not print itself and that masks itself in other text."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from functools import cached_property
from typing import TYPE_CHECKING

from buildkit.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

MASK = "***"
# Shorter keys occur in other text by chance.
_MIN_SEARCHABLE = 8
_LAST_LATIN = 0xFF


class ApiKey:
    """The key for the Runtime API; only `reveal` shows it."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"ApiKey({MASK})"

    def __str__(self) -> str:
        return MASK

    def reveal(self) -> str:
        """Return the key itself, for a request header and for nothing else."""
        return self._value

    @property
    def is_searchable(self) -> bool:
        """Whether the key is long enough to look for in other text."""
        return len(self._value) >= _MIN_SEARCHABLE

    def scrub(self, text: str) -> str:
        """Return `text` with the key masked, in each of its encoded forms too."""
        return self._echoes.sub(MASK, text) if self._value else text

    @cached_property
    def encoded_forms(self) -> tuple[bytes, ...]:
        """The bytes to look for in files: the key as it is, and as common encodings write it."""
        if not self.is_searchable:
            return ()
        wide = [self._value.encode(f"utf-16-{order}", "surrogatepass") for order in ("le", "be")]
        if self._value.isascii():
            wide = [wide[0][:-1]]  # which both byte orders contain
        forms = dict.fromkeys([*self._raws, *(form.encode("ascii") for form in self._escaped), *wide])
        return tuple(form for form in forms if not any(other != form and other in form for other in forms))

    @cached_property
    def _raws(self) -> tuple[bytes, ...]:
        """The key in UTF-8 and, as in an HTTP header, in latin-1: the same bytes unless it has other than ASCII."""
        raws = [self._value.encode("utf-8", "surrogateescape")]
        if all(ord(char) <= _LAST_LATIN for char in self._value):
            raws.append(self._value.encode("latin-1"))
        return tuple(dict.fromkeys(raws))

    @cached_property
    def _escaped(self) -> list[str]:
        """The key as base64, hex, URL-encoded and as JSON escapes it; not the key itself."""
        quoted = [urllib.parse.quote(raw, safe=safe) for raw in self._raws for safe in ("", "/")]
        quoted += [urllib.parse.quote_plus(raw) for raw in self._raws]
        units = self._value.encode("utf-16-be", "surrogatepass").hex()
        numbers = [units[start : start + 4] for start in range(0, len(units), 4)]
        in_json = json.dumps(self._value)[1:-1]
        forms = [
            *(form for raw in self._raws for form in _encode_inside(raw)),
            *(text for form in quoted for text in (form, re.sub("%..", lambda code: code[0].lower(), form))),
            *(case(raw.hex()) for raw in self._raws for case in (str.lower, str.upper)),
            *("".join(f"\\u{case(number)}" for number in numbers) for case in (str.lower, str.upper)),
            in_json,
            re.sub(r"(?<=\\u)[0-9a-f]{4}", lambda code: code[0].upper(), in_json),
        ]
        return [form for form in dict.fromkeys(forms) if len(form) >= _MIN_SEARCHABLE and form != self._value]

    @cached_property
    def _echoes(self) -> re.Pattern[str]:
        encoders = (base64.b64encode, base64.urlsafe_b64encode)
        whole = [encode(raw).decode("ascii").rstrip("=") for raw in self._raws for encode in encoders]
        forms = [rf"{re.escape(form)}=*" for form in whole]
        # `%2f` and `%2F` are the same byte, and so are the digits of hex.
        forms += [rf"{re.escape(form)}=*" if form.isalnum() else f"(?i:{re.escape(form)})" for form in self._escaped]
        return re.compile("|".join([re.escape(self._value), *forms]))


def parse_key(value: str, name: str) -> ApiKey:
    """Return the key; no refusal shows it."""
    if not re.fullmatch(r"[\x20-\x7e\xa1-\xff]+", value) or value != value.strip():
        raise SettingError(
            f"{name} has characters that no HTTP header can carry (a newline, a control character, or beyond latin-1)",
            f"set {name} again, without quotes or newlines",
        )
    return ApiKey(value)


def _encode_inside(raw: bytes) -> Iterator[str]:
    """Yield the base64 digits that depend on the key alone, for each offset modulo 3 at which it may begin.

    Inside a longer text, such as `user:key`, the digits depend on where the key begins.
    """
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            first, end = -(-before * 4 // 3), (before + len(raw)) * 4 // 3
            yield encode(bytes(before) + raw + bytes(2)).decode("ascii")[first:end]
