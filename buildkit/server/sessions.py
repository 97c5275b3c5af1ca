"""Who is looking at the page: a signed cookie, which a key was exchanged for, and tokens that protect its forms."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from buildkit.server.keys import Keys

_COOKIE = "runtime-build-session"
_SESSION_S = 7 * 86_400
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

    def is_token(self, request: Request, token: str) -> bool:
        """Return whether a form came from a page of this session."""
        return hmac.compare_digest(self._keys.verify("form", token) or "", _digest_cookie(request))


def _digest_cookie(request: Request) -> str:
    return hashlib.sha256(request.cookies.get(_COOKIE, "").encode("utf-8", "surrogateescape")).hexdigest()
