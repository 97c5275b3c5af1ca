"""The API key, in a type that does not print itself and that masks itself in other text."""

from __future__ import annotations

import base64
import re
import urllib.parse
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MASK = "***"
# Shorter keys occur in other text by chance.
_MIN_SEARCHABLE = 8


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
        """Return `text` with the key masked, in base64 and URL-encoded forms too."""
        return self._echoes.sub(MASK, text) if self._value else text

    @cached_property
    def _echoes(self) -> re.Pattern[str]:
        raw = self._value.encode("utf-8", "surrogateescape")
        encoded = {encode(raw).decode("ascii").rstrip("=") for encode in (base64.b64encode, base64.urlsafe_b64encode)}
        # Inside a longer text, such as `user:key`, the digits depend on where the key begins.
        encoded |= {form for form in _encode_inside(raw) if len(form) >= _MIN_SEARCHABLE}
        # `%2f` and `%2F` are the same byte, so the URL-encoded forms are matched without regard to case.
        quoted = {urllib.parse.quote(raw, safe=safe) for safe in ("", "/")} | {urllib.parse.quote_plus(raw)}
        forms = [rf"{re.escape(form)}=*" for form in encoded]
        forms += [f"(?i:{re.escape(form)})" for form in quoted if form != self._value]
        return re.compile("|".join([re.escape(self._value), *forms]))


def _encode_inside(raw: bytes) -> Iterator[str]:
    """Yield the base64 digits that depend on the key alone, for each offset modulo 3 at which it may begin."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            first, end = -(-before * 4 // 3), (before + len(raw)) * 4 // 3
            yield encode(bytes(before) + raw + bytes(2)).decode("ascii")[first:end]
