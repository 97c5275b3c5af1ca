"""The API key, in a type that does not print itself and that takes itself out of other people's text."""

from __future__ import annotations

import base64
import re
import urllib.parse
from functools import cached_property

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
        encoded = {
            base64.b64encode(raw).decode("ascii").rstrip("="),
            base64.urlsafe_b64encode(raw).decode("ascii").rstrip("="),
        }
        # `%2f` and `%2F` are the same byte, so the URL-encoded forms are matched without regard to case.
        quoted = {urllib.parse.quote(raw, safe=safe) for safe in ("", "/")} | {urllib.parse.quote_plus(raw)}
        forms = [rf"{re.escape(form)}=*" for form in encoded]
        forms += [f"(?i:{re.escape(form)})" for form in quoted if form != self._value]
        return re.compile("|".join([re.escape(self._value), *forms]))
