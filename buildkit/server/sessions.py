"""Who is looking at the page: a signed cookie, which a key was exchanged for, and the forms that it protects."""

from __future__ import annotations

import hashlib
import hmac
import re
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from buildkit.server.refusals import Refused

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from buildkit.server.keys import Keys

_COOKIE = "runtime-build-session"
_SESSION_S = 7 * 86_400
_MAX_FORM_BYTES, _MAX_FORM_FIELDS = 8192, 20
_READING = {"GET", "HEAD"}
# The page's own forms check their tokens; no other call that changes something accepts a cookie.
_FORMS = re.compile(r"/logout|/builds/[^/]+")


class Sessions:
    """Sessions of browsers; nothing is stored on the server."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def find_owner(self, request: Request) -> str | None:
        """Return whose session a request belongs to, or None."""
        if request.method not in _READING and not _FORMS.fullmatch(request.url.path):
            return None
        owner = self._keys.verify("session", request.cookies.get(_COOKIE, ""))
        return owner if owner and self._keys.has_owner(owner) else None

    def begin(self, owner: str, request: Request, response: Response) -> None:
        """Give the browser a session."""
        cookie = self._keys.sign("session", owner, _SESSION_S)
        secure = request.url.scheme == "https"
        response.set_cookie(_COOKIE, cookie, _SESSION_S, httponly=True, secure=secure, samesite="strict")

    def end(self, response: Response) -> None:
        """Take the session away from the browser."""
        response.delete_cookie(_COOKIE, httponly=True, samesite="strict")

    def make_token(self, request: Request) -> str:
        """Return what a form of this session carries."""
        return self._keys.sign("form", _digest_cookie(request), _SESSION_S)

    async def read_form(self, request: Request) -> dict[str, str]:
        """Return the fields of a form of this session.

        Raises:
            Refused: Another site's page may have sent it.
        """
        form = await read_form(request)
        made_for = self._keys.verify("form", form.get("token", "")) or ""
        if request.state.owner is None or not hmac.compare_digest(made_for, _digest_cookie(request)):
            raise Refused(HTTPStatus.FORBIDDEN, "the form is too old or not from this server; reload the page")
        return form


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a small form.

    Raises:
        Refused: It is too large, or has too many fields.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_FORM_BYTES:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the form is too large")
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_MAX_FORM_FIELDS)
    except ValueError:
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "the form has too many fields") from None
    return {name: values[-1] for name, values in fields.items()}


def _digest_cookie(request: Request) -> str:
    return hashlib.sha256(request.cookies.get(_COOKIE, "").encode("utf-8", "surrogateescape")).hexdigest()
