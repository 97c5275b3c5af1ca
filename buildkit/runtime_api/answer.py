"""What an answer of the Runtime API says: bounded, checked, and made safe to show."""

from __future__ import annotations

import codecs
import email.utils
import html
import http
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

MAX_BODY_BYTES = 1024 * 1024
MAX_DETAIL_BYTES = 2048
MAX_LOG_BYTES = 64 * MAX_BODY_BYTES

# Enough to find a sentence in a page, and little enough for the expressions below on any page.
_MAX_PAGE_CHARS = 16 * 1024
_UNSEEN = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_DETAIL_KEYS = ("error", "message", "detail")


class OddAnswer(ValueError):
    """The answer is not what it should be; the text says in which way."""


@dataclass(frozen=True)
class Answer:
    """An answer as it came.

    Attributes:
        body: Decoded, at most `MAX_BODY_BYTES`.
        flaw: Why the body is not whole, as a clause; None where it is.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    flaw: str | None

    @property
    def title(self) -> str:
        """The status with its usual name. The server's own reason phrase is not repeated."""
        try:
            return f"HTTP {self.status} {http.HTTPStatus(self.status).phrase}"
        except ValueError:
            return f"HTTP {self.status}"


def parse_object(answer: Answer) -> dict[str, Any]:
    """Return the JSON object in the answer.

    Raises:
        OddAnswer: It is cut off, or not UTF-8 (RFC 8259 allows no byte order mark), or not strict JSON, or no object.
    """
    if answer.flaw:
        raise OddAnswer(answer.flaw)
    try:
        value = json.loads(answer.body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise OddAnswer("it is not JSON") from error
    if not isinstance(value, dict):
        raise OddAnswer("it is not a JSON object")
    return value


def extract_detail(answer: Answer, scrub: Callable[[str], str]) -> str:
    """Return what the body of an error says, for people; of any length, and not yet made safe for a terminal.

    Args:
        scrub: Takes secrets out, before anything is cut.
    """
    try:
        fields = parse_object(answer)
    except OddAnswer:
        return _strip_markup(scrub(answer.body.decode("utf-8", "replace")))
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


def split_lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Return the lines of a text that arrives in pieces, none of them and not all of them without a limit."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest, size = "", 0
    for piece in pieces:
        size += len(piece)
        *lines, rest = (rest + decoder.decode(piece)).split("\n")
        yield from lines
        if len(rest) > MAX_BODY_BYTES:
            yield rest
            rest = ""
        if size > MAX_LOG_BYTES:
            yield "(the log is longer than 64 MiB; the rest is left out)"
            return
    if rest:
        yield rest


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `Retry-After` asks for; None where it is missing or says nothing usable.

    A date is measured against the answer's own `Date`, because the clocks of two machines differ
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
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _strip_markup(text: str) -> str:
    page = _UNSEEN.sub(" ", text[:_MAX_PAGE_CHARS])
    return " ".join(html.unescape(_TAG.sub(" ", page)).split())


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
