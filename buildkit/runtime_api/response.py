"""A response of a Runtime API, in bounded memory: its JSON object, or what else it says."""

from __future__ import annotations

import http
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_BODY_BYTES = 1024 * 1024
MAX_DETAIL_BYTES = 2048

# Enough to find a sentence in a page, and little enough for the expressions below on any page.
_MAX_PAGE_CHARS = 16 * 1024
_UNSEEN = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_DETAIL_KEYS = ("error", "message", "detail")

_PORTS = {"http": 80, "https": 443}


class InvalidResponse(ValueError):
    """The response is not what it should be; the text says why, as a clause."""


@dataclass(frozen=True)
class Response:
    """A response as it came.

    Attributes:
        headers: By name, each word capitalised: `Retry-After`.
        body: Decoded, at most `MAX_BODY_BYTES`.
        problem: Why the body is incomplete, as a clause; None if it is complete.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    problem: str | None

    @property
    def title(self) -> str:
        """The status with its usual name. The server's own reason phrase is not repeated."""
        try:
            return f"HTTP {self.status} {http.HTTPStatus(self.status).phrase}"
        except ValueError:
            return f"HTTP {self.status}"


def parse_object(response: Response) -> dict[str, Any]:
    """Return the JSON object in the response.

    Raises:
        InvalidResponse: It is incomplete, not UTF-8 (RFC 8259 allows no byte order mark), not strict JSON, or not an
            object.
    """
    if response.problem:
        raise InvalidResponse(response.problem)
    try:
        value = json.loads(response.body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidResponse("it is not JSON") from error
    if not isinstance(value, dict):
        raise InvalidResponse("it is not a JSON object")
    return value


def parse_origin(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of a URL, or None if it is not one or has a user, a query or a fragment."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        return None
    return parts.scheme, parts.hostname, port or _PORTS[parts.scheme]


def extract_detail(response: Response, scrub: Callable[[str], str]) -> str:
    """Return what the body of an error says, for people; of any length, and not yet made safe for a terminal.

    Args:
        scrub: Masks secrets, before anything is cut.
    """
    try:
        fields = parse_object(response)
    except InvalidResponse:
        return _strip_markup(scrub(response.body.decode("utf-8", "replace")))
    found = [fields[key] for key in _DETAIL_KEYS if fields.get(key)]
    return ": ".join(dict.fromkeys(describe(part) for part in found or ([fields] if fields else [])))


def describe(value: object) -> str:
    """Return a JSON value as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def shorten(text: str, limit_bytes: int = MAX_DETAIL_BYTES) -> str:
    """Return `text`, cut to `limit_bytes` of UTF-8 with an ellipsis in place of the rest."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit_bytes:
        return text
    return encoded[: limit_bytes - 3].decode("utf-8", "ignore") + "…"


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `Retry-After` asks for, or None if it is missing or unusable.

    A date is measured against the response's own `Date`, because the clocks of two machines differ
    (https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3).
    """
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch("[0-9]{1,20}", value):
        return float(value)
    until = _parse_date(value)
    if until is None:
        return None
    now = _parse_date(headers.get("Date", "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def _parse_date(value: str) -> datetime | None:
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _strip_markup(text: str) -> str:
    from html import unescape

    page = _UNSEEN.sub(" ", text[:_MAX_PAGE_CHARS])
    return " ".join(unescape(_TAG.sub(" ", page)).split())


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
