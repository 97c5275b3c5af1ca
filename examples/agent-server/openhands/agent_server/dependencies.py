"""What an endpoint needs before it may answer: the caller's right to ask, and a body of bounded size."""

from __future__ import annotations

import hmac
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from email.message import Message
    from io import BufferedIOBase


class RequestRefused(Exception):
    """A request that gets an error for an answer.

    Args:
        detail: Sent to the caller.
    """

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def check_session_api_key(headers: Message, expected: str | None) -> None:
    """Let a caller through who sent the session key.

    Raises:
        RequestRefused: 403 where the server has no key, 401 where the caller's is missing or wrong.
    """
    if expected is None:
        raise RequestRefused(HTTPStatus.FORBIDDEN, "this server has no SESSION_API_KEY, so /api/ is switched off")
    given = headers.get("X-Session-API-Key", "")
    if not hmac.compare_digest(given.encode(errors="replace"), expected.encode(errors="replace")):
        raise RequestRefused(HTTPStatus.UNAUTHORIZED, "the header X-Session-API-Key is missing or wrong")


def read_body(headers: Message, stream: BufferedIOBase, limit_bytes: int) -> bytes:
    """Return the request's body.

    Raises:
        RequestRefused: Its length is unknown, wrong or above the limit.
    """
    length = headers.get("Content-Length", "")
    if "Transfer-Encoding" in headers or not length:
        raise RequestRefused(HTTPStatus.LENGTH_REQUIRED, "a Content-Length is required")
    if not (length.isascii() and length.isdigit()):
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "the Content-Length is no number")
    if len(length) > len(str(limit_bytes)) or int(length) > limit_bytes:
        raise RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {limit_bytes} bytes are taken")
    body = stream.read(int(length))
    if len(body) < int(length):
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "the body ended early")
    return body
