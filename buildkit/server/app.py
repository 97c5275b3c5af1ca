"""The application, and what a request passes first: one form of its path, a key, a bound on how many are open."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from buildkit.server.api import Api, wants_page
from buildkit.server.bodies import RefusalResponse, note_end_of_body
from buildkit.server.page import Page
from buildkit.server.refusals import Refused
from buildkit.server.responses import make_handlers
from buildkit.server.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from buildkit.server.server import Server

    FindOwner = Callable[[Request], str | None]
    AskForKey = Callable[[Request], Response]

MAX_OPEN_REQUESTS = 512
# A client that reads nothing of its response for this long is disconnected.
_WRITE_TIMEOUT_S = 60.0
# What anybody may see: whether the server works, and the page on which a key is entered.
_OPEN_PATHS = re.compile(r"/|/health|/metrics|/login|/static/.*")
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    b" form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"content-security-policy", _POLICY),
]


class Access:
    """The outermost layer of the application.

    Args:
        find_owner: Returns whose key or cookie a request carries, or None; it may block. `request.state.owner` is the
            result.
        ask_for_key: Returns the page on which somebody with a browser enters a key.
    """

    def __init__(self, app: ASGIApp, find_owner: FindOwner, ask_for_key: AskForKey) -> None:
        self._app = app
        self._find_owner = find_owner
        self._ask_for_key = ask_for_key
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # A real client sends `//build`. Nothing is ever redirected: many clients then repeat a POST as a GET.
        scope["path"] = re.sub("/+", "/", scope["path"]).removesuffix("/") or "/"
        self._open += 1
        try:
            app = RefusalResponse(_TOO_MANY) if self._open > MAX_OPEN_REQUESTS else await self._admit(scope)
            await app(scope, note_end_of_body(scope, receive), _send_in_time(send))
        finally:
            self._open -= 1

    async def _admit(self, scope: Scope) -> ASGIApp:
        request = Request(scope)
        request.state.owner = await run_in_threadpool(self._find_owner, request)
        if request.state.owner is not None or _OPEN_PATHS.fullmatch(scope["path"]):
            return self._app
        if request.method == "GET" and wants_page(request):
            return await run_in_threadpool(self._ask_for_key, request)
        return RefusalResponse(_WRONG_KEY if request.headers.get("x-api-key") else _NO_KEY)


_TOO_MANY = Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests are open", retry_after_s=1)
_NO_KEY = Refused(HTTPStatus.UNAUTHORIZED, "send a key of this server as X-API-Key")
_WRONG_KEY = Refused(HTTPStatus.UNAUTHORIZED, "this server does not know that X-API-Key")


def _send_in_time(send: Send) -> Send:
    async def send_one(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_SECURITY]
        async with asyncio.timeout(_WRITE_TIMEOUT_S):
            await send(message)

    return send_one


def create_app(server: Server) -> Access:
    """Return the ASGI application of a server."""
    page, sessions = Page(server), Sessions(server.keys)
    routes = [*Api(server, page).list_routes(), *page.list_routes()]
    app = Starlette(routes=routes, exception_handlers=make_handlers())
    app.router.redirect_slashes = False

    def find_owner(request: Request) -> str | None:
        return server.keys.check(request.headers.get("x-api-key", "")) or sessions.find_owner(request)

    return Access(app, find_owner, page.ask_for_key)
