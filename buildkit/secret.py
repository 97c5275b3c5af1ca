"""The API key, in a type that does not print itself and that takes itself out of other people's text."""

from __future__ import annotations

import base64
import re
import urllib.parse
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MASK = "***"
# Shorter keys stand in every other text by chance.
SHORTEST_SEARCHED = 8


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

    def scrub(self, text: str) -> str:
        """Return `text` with the key masked, also where it stands there as base64 or URL-encoded."""
        return self._echoes.sub(MASK, text) if self._value else text

    @cached_property
    def _echoes(self) -> re.Pattern[str]:
        raw = self._value.encode("utf-8", "surrogateescape")
        encoded = {encode(raw).decode("ascii").rstrip("=") for encode in (base64.b64encode, base64.urlsafe_b64encode)}
        # In the middle of something longer, as in `user:key`, the digits depend on where the key begins.
        encoded |= {form for form in _encode_inside(raw) if len(form) >= SHORTEST_SEARCHED}
        # `%2f` and `%2F` are the same byte, so the URL-encoded forms are matched without regard to case.
        quoted = {urllib.parse.quote(raw, safe=safe) for safe in ("", "/")} | {urllib.parse.quote_plus(raw)}
        forms = [rf"{re.escape(form)}=*" for form in encoded]
        forms += [f"(?i:{re.escape(form)})" for form in quoted if form != self._value]
        return re.compile("|".join([re.escape(self._value), *forms]))


def _encode_inside(raw: bytes) -> Iterator[str]:
    """Yield the digits of base64 that are the key's alone, for each place in a group of three where it may begin."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            first, end = -(-before * 4 // 3), (before + len(raw)) * 4 // 3
            yield encode(bytes(before) + raw + bytes(2)).decode("ascii")[first:end]
