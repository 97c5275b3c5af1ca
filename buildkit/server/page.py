"""The page for browsers: HTML from records. Its functions block, so Starlette runs them in threads."""

from __future__ import annotations

import re
from http import HTTPStatus
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from buildkit.archive.comparison import PackedFile, compare_files
from buildkit.runtime_api.protocol import ENDED
from buildkit.server.log_page import MAX_MATCHES, LogPosition, read_new, read_part, read_raw, search_log
from buildkit.server.records import Query
from buildkit.server.refusals import Refused
from buildkit.server.render import STATUSES, render_page
from buildkit.server.responses import NO_STORE, respond
from buildkit.server.sessions import Sessions, read_form
from buildkit.server.views import find_failed, find_previous, list_files, list_steps
from buildkit.template import FOLDERS
from buildkit.treemap import LEGEND, render_treemap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from buildkit.server.server import Server

    Show = Callable[[Request], Response]

_MAX_LISTED = 50
_NUMBER = re.compile(r"[0-9]{1,12}")
# A path of ours: a browser takes what begins with two slashes, or with a slash and a backslash, for another host.
_OWN_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")


class Page:
    """Every page, and every form on them. `request.state.owner` is whose session it is, or None."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._sessions = Sessions(server.keys)

    def list_routes(self) -> list[BaseRoute]:
        """Return every route except `/`."""
        folder = next(path for path in (Path(folder) / "server/static" for folder in FOLDERS) if path.is_dir())
        return [
            Route("/login", self.ask_for_key),
            Route("/login", self.log_in, methods=["POST"]),
            Route("/logout", self.log_out, methods=["POST"]),
            Route("/builds/{build_id}", self._for_owners(self.show_build)),
            Route("/builds/{build_id}", self.change_build, methods=["POST"]),
            Route("/builds/{build_id}/log", self._for_owners(self.show_log)),
            Route("/builds/{build_id}/log.json", self._for_owners(self.show_new_lines)),
            Route("/builds/{build_id}/log.txt", self._for_owners(self.show_raw_log)),
            Route("/builds/{build_id}/context", self._for_owners(self.show_context)),
            Mount("/static", StaticFiles(directory=folder), name="static"),
        ]

    def show_builds(self, request: Request) -> Response:
        """Respond with the list of builds."""
        return self._for_owners(self._list_builds)(request)

    def _list_builds(self, request: Request) -> Response:
        wanted = request.query_params
        status = wanted.get("status", "")
        query = Query(
            status if status in STATUSES else None, wanted.get("text", "").strip(), _MAX_LISTED, wanted.get("before")
        )
        builds = self._server.store.list(query)
        rows = [{"build": build, "queue_position": self._server.store.queue_position(build)} for build in builds]
        older = {"status": query.status or "", "text": query.text, "before": builds[-1].id if builds else ""}
        values = {
            "query": query,
            "statuses": [name for name in STATUSES if name != "PENDING"],
            "rows": rows,
            "counts": self._server.store.counts(),
            "older": f"/?{urlencode(older)}" if len(builds) == _MAX_LISTED else None,
            "problems": [f"{it['name']}: {it['problem']}" for it in self._server.workers.describe() if it["problem"]],
        }
        return self._respond(request, "builds", values)

    def show_build(self, request: Request) -> Response:
        """Respond with one build: what went wrong, and its steps."""
        build = self._server.get(request.path_params["build_id"])
        steps = list_steps(self._server, build)
        values = {
            "build": build,
            "queue_position": self._server.store.queue_position(build),
            "steps": steps,
            "failed": find_failed(steps),
            "ended": build.status in ENDED,
        }
        return self._respond(request, "build", values)

    def show_log(self, request: Request) -> Response:
        """Respond with a part of a log, or with the lines that match a search."""
        build = self._server.get(request.path_params["build_id"])
        search = request.query_params.get("search", "").strip()
        first = _read_number(request, "from")
        offset = self._server.logs.size(build.id)
        logs = self._server.logs
        part = search_log(logs, build.id, search) if search else read_part(logs, build.id, first, offset)
        is_live = build.status not in ENDED and not search and part.later is None
        values = {"part": part, "search": search, "offset": offset, "is_live": is_live, "max_matches": MAX_MATCHES}
        return self._respond(request, "log", {"build": build, **values})

    def show_new_lines(self, request: Request) -> Response:
        """Respond with the lines that a log has gained, as HTML in JSON."""
        build = self._server.get(request.path_params["build_id"])
        after = LogPosition(_read_number(request, "offset") or 0, _read_number(request, "line") or 0)
        new = read_new(self._server.logs, build.id, after, is_ended=build.status in ENDED)
        html = render_page("lines", build=build, lines=new.lines)
        record = {"html": html, "offset": new.offset, "line": after.line + len(new.lines), "ended": new.is_last}
        return respond(record)

    def show_raw_log(self, request: Request) -> Response:
        """Respond with the log as it is, as a file to save."""
        build = self._server.get(request.path_params["build_id"])
        headers = {**NO_STORE, "Content-Disposition": f"attachment; filename*=utf-8''{quote(build.id, safe='')}.log"}
        pieces = read_raw(self._server.logs, build.id)
        return StreamingResponse(pieces, headers=headers, media_type="text/plain; charset=utf-8")

    def show_context(self, request: Request) -> Response:
        """Respond with what is in a context, and how that differs from the last one of the same image."""
        build = self._server.get(request.path_params["build_id"])
        files = list_files(self._server, build)
        if files is None:
            return self._respond(request, "context", {"build": build, "files": None})
        earlier = find_previous(self._server, build)
        values = {
            "build": build,
            "files": files,
            "treemap": Markup(render_treemap(files)),  # noqa: S704 - `render_treemap` escapes
            "legend": LEGEND,
            "previous": earlier and earlier[0],
            "changes": compare_files(starmap(PackedFile, earlier[1]), starmap(PackedFile, files)) if earlier else [],
            "dockerfile": self._server.contexts.read_dockerfile(build).splitlines(),
        }
        return self._respond(request, "context", values)

    def ask_for_key(self, request: Request) -> Response:
        """Respond with the form for a key."""
        path = request.url.path
        return _render_login("", "/" if path == "/login" or not _OWN_PATH.fullmatch(path) else path)

    async def log_in(self, request: Request) -> Response:
        """Exchange a key for a session."""
        form = await read_form(request)
        owner = await run_in_threadpool(self._server.keys.check, form.get("key", "").strip())
        path = form.get("next", "/")
        if owner is None:
            return _render_login("This server does not know that key.", path)
        response = _go_to(path if _OWN_PATH.fullmatch(path) else "/")
        self._sessions.begin(owner, request, response)
        return response

    async def log_out(self, request: Request) -> Response:
        """End the session."""
        await self._sessions.read_form(request)
        response = _go_to("/")
        self._sessions.end(response)
        return response

    async def change_build(self, request: Request) -> Response:
        """Cancel a build, or build the same context again."""
        form = await self._sessions.read_form(request)
        build_id = request.path_params["build_id"]
        if form.get("action") == "retry":
            build = await run_in_threadpool(self._server.retry, build_id, request.state.owner)
        elif form.get("action") == "cancel":
            build = await run_in_threadpool(self._server.cancel, build_id)
        else:
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "action is neither cancel nor retry")
        return _go_to(f"/builds/{quote(build.id, safe='')}")

    def _for_owners(self, show: Show) -> Show:
        """Return an endpoint that asks for a key first, and that explains a refusal on a page."""

        def show_or_ask(request: Request) -> Response:
            if request.state.owner is None:
                return self.ask_for_key(request)
            try:
                return show(request)
            except Refused as refused:
                values = {"title": refused.status.phrase, "message": str(refused)}
                return self._respond(request, "problem", values, refused.status)

        return show_or_ask

    def _respond(
        self, request: Request, template: str, values: Mapping[str, object], status: HTTPStatus = HTTPStatus.OK
    ) -> Response:
        token = self._sessions.make_token(request)
        html = render_page(template, owner=request.state.owner, token=token, **values)
        return HTMLResponse(html, status, headers=NO_STORE)


def _render_login(message: str, path: str) -> Response:
    html = render_page("login", owner=None, token="", message=message, next=path if _OWN_PATH.fullmatch(path) else "/")
    return HTMLResponse(html, HTTPStatus.UNAUTHORIZED, headers=NO_STORE)


def _go_to(path: str) -> Response:
    return RedirectResponse(path, HTTPStatus.SEE_OTHER, headers=NO_STORE)


def _read_number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name, "")
    return int(text) if _NUMBER.fullmatch(text) else None
