"""The wire protocol: one function for each call. What blocks runs in threads, and no thread waits for a client."""

from __future__ import annotations

import re
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from buildkit.errors import PROGRAM, NotStarted
from buildkit.runtime_api import protocol
from buildkit.server.bodies import BodyLimits, read_length, receive_body
from buildkit.server.logstream import respond_with_log
from buildkit.server.records import Query
from buildkit.server.refusals import InvalidBody, Refused, refuse_unknown
from buildkit.server.responses import NO_STORE, describe_build, describe_status, format_metrics, respond
from buildkit.server.server import FEATURES
from buildkit.server.upload import Upload, UploadRequest

if TYPE_CHECKING:
    from starlette.requests import Request

    from buildkit.server.page import Page
    from buildkit.server.server import Server

_MAX_UPLOADS = 64
_MAX_LISTED = 500
_KEY = re.compile(r"[!-~]{1,256}")
# base64 makes four bytes of three, and the other fields need some room.
_OTHER_FIELDS_BYTES = 1 << 20


class Api:
    """The calls of the Runtime API, and our extensions."""

    def __init__(self, server: Server, page: Page) -> None:
        self._server = server
        self._page = page
        self._uploads = 0

    def list_routes(self) -> list[Route]:
        """Return every route."""
        return [
            Route("/", self.show_start),
            Route("/health", self.show_health),
            Route("/metrics", self.show_metrics),
            Route(protocol.BUILD, self.start_build, methods=["POST"]),
            Route(protocol.BUILD_STATUS, self.show_status),
            Route(protocol.BUILD_LOGS, self.show_log),
            Route(protocol.REGISTRY_PREFIX, self.show_prefix),
            Route(protocol.IMAGE_EXISTS, self.show_image),
            Route("/builds", self.list_builds),
            Route("/builds/{build_id}/cancel", self.cancel_build, methods=["POST"]),
            Route("/builds/{build_id}/retry", self.retry_build, methods=["POST"]),
            Route("/contexts/{sha256}", self.find_source, methods=["HEAD"]),
            Route("/contexts/{sha256}", self.store_source, methods=["PUT"]),
        ]

    async def show_start(self, request: Request) -> Response:
        """Respond with the page to a browser, and with what this server can do to a program."""
        if wants_page(request):
            return await run_in_threadpool(self._page.show_builds, request)
        features = {"name": PROGRAM, "version": version(PROGRAM), "features": list(FEATURES)}
        return respond(features)

    async def show_health(self, _: Request) -> Response:
        """Respond with 200 as long as the server accepts builds, and with the state of its builders."""
        health = await run_in_threadpool(self._server.describe)
        return respond(health, HTTPStatus.SERVICE_UNAVAILABLE if self._server.is_stopping else HTTPStatus.OK)

    async def show_metrics(self, _: Request) -> Response:
        """Respond with the gauges."""
        text = await run_in_threadpool(format_metrics, self._server)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def start_build(self, request: Request) -> Response:
        """Receive a context and respond with the build: 200 to JSON and 202 to multipart, as old clients require."""
        described = _read_upload_headers(request)
        await run_in_threadpool(self._server.check_room, read_length(request))
        if self._uploads >= _MAX_UPLOADS:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many uploads at the same time", retry_after_s=5)
        upload = await run_in_threadpool(Upload, self._server, described)
        self._uploads += 1
        try:
            max_bytes = self._server.options.limits.max_bytes * 4 // 3 + _OTHER_FIELDS_BYTES
            await receive_body(request, upload.read, upload.store, BodyLimits(max_bytes))
            build = await run_in_threadpool(upload.finish)
        finally:
            self._uploads -= 1
            await run_in_threadpool(upload.discard)
        is_json = described.content_type.lower().startswith("application/json")
        return respond({"build_id": build.id}, HTTPStatus.OK if is_json else HTTPStatus.ACCEPTED)

    async def show_status(self, request: Request) -> Response:
        """Respond with the state of a build."""
        build = await run_in_threadpool(self._server.get, _read_query(request, "build_id"))
        position = await run_in_threadpool(self._server.store.queue_position, build)
        return respond(describe_status(build, position))

    async def show_log(self, request: Request) -> Response:
        """Respond with the log of a build."""
        build = await run_in_threadpool(self._server.get, _read_query(request, "build_id"))
        return await respond_with_log(self._server, request, build.id)

    async def show_prefix(self, _: Request) -> Response:
        """Respond with what image names begin with, or 404 if images stay in the engine."""
        prefix = self._server.options.registry_prefix
        if prefix is None:
            raise Refused(HTTPStatus.NOT_FOUND, "images stay in the engine of this server")
        return respond({"registry_prefix": prefix})

    async def show_image(self, request: Request) -> Response:
        """Respond with whether an image exists."""
        try:
            image = await run_in_threadpool(self._server.find_image, _read_query(request, "image"))
        except NotStarted as error:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(error), retry_after_s=10) from error
        if image is None:
            return respond({"exists": False})
        described = {"upload_time": image.upload_time, "image_size_bytes": image.size_bytes}
        return respond({"exists": True, "image": described})

    async def list_builds(self, request: Request) -> Response:
        """Respond with builds, the newest first."""
        wanted = request.query_params
        limit = wanted.get("limit", "50")
        if not re.fullmatch(r"[1-9]\d{0,2}", limit, re.ASCII) or int(limit) > _MAX_LISTED:
            raise InvalidBody(f"limit is not a number from 1 to {_MAX_LISTED}")
        query = Query(wanted.get("status"), wanted.get("image", ""), int(limit), wanted.get("before"))
        builds = await run_in_threadpool(self._server.store.list, query)
        return respond({"builds": [describe_build(build) for build in builds]})

    async def cancel_build(self, request: Request) -> Response:
        """Cancel a build, and respond with its state; one that has ended stays as it is."""
        build = await run_in_threadpool(self._server.cancel, request.path_params["build_id"])
        return respond({"build_id": build.id, "status": build.status})

    async def retry_build(self, request: Request) -> Response:
        """Build the same context again, and respond with the new build."""
        build_id = request.path_params["build_id"]
        build = await run_in_threadpool(self._server.retry, build_id, request.state.owner)
        return respond({"build_id": build.id})

    async def find_source(self, request: Request) -> Response:
        """Respond with 200 if the source part of a context is stored, and with 404 if not."""
        is_stored = await run_in_threadpool(self._server.contexts.has_source, _read_digest(request))
        return Response(status_code=HTTPStatus.OK if is_stored else HTTPStatus.NOT_FOUND, headers=NO_STORE)

    async def store_source(self, request: Request) -> Response:
        """Store the source part of a context."""
        sha256, limits = _read_digest(request), self._server.options.limits
        await run_in_threadpool(self._server.check_room, read_length(request))
        incoming = await run_in_threadpool(self._server.contexts.receive_source, sha256, limits)
        try:
            await receive_body(request, bytes, incoming.write, BodyLimits(limits.max_bytes))
            self._server.retention.keep_source(sha256)
            await run_in_threadpool(incoming.finish)
        finally:
            await run_in_threadpool(incoming.discard)
        return respond({"context_sha256": sha256}, HTTPStatus.CREATED)


def wants_page(request: Request) -> bool:
    """Return whether a browser asks, and not a program."""
    return "text/html" in request.headers.get("accept", "")


def _read_upload_headers(request: Request) -> UploadRequest:
    """Return what the headers of `POST /build` say.

    Raises:
        InvalidBody: The idempotency key cannot be one.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidBody("Idempotency-Key is not 1 to 256 printable ASCII characters without spaces")
    return UploadRequest(request.state.owner, request.headers.get("content-type", ""), key)


def _read_query(request: Request, name: str) -> str:
    value = request.query_params.get(name, "")
    if not value:
        raise InvalidBody(f"{name} is missing")
    return value


def _read_digest(request: Request) -> str:
    sha256: str = request.path_params["sha256"]
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise refuse_unknown("context: a context is named by the 64 hexadecimal digits of its sha256")
    return sha256
