"""The application: the calls of the Runtime API and the page, behind one check of access."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette

from buildkit.server.access import Access
from buildkit.server.api import Api
from buildkit.server.page import Page
from buildkit.server.responses import make_handlers
from buildkit.server.sessions import Sessions

if TYPE_CHECKING:
    from starlette.requests import Request

    from buildkit.server.server import Server


def create_app(server: Server) -> Access:
    """Return the ASGI application of a server."""
    page, sessions = Page(server), Sessions(server.keys)
    routes = [*Api(server, page).list_routes(), *page.list_routes()]
    app = Starlette(routes=routes, exception_handlers=make_handlers())
    app.router.redirect_slashes = False

    def find_owner(request: Request) -> str | None:
        return server.keys.check(request.headers.get("x-api-key", "")) or sessions.find_owner(request)

    return Access(app, find_owner, page.ask_for_key)
