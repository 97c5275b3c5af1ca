"""Responses of `/build_logs`: whole, from a byte on, or followed until the build ends."""

from __future__ import annotations

import asyncio
import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from buildkit.runtime_api.protocol import ENDED
from buildkit.server.responses import NO_STORE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from buildkit.server.server import Server

_PIECE_BYTES = 1 << 18
_EVENT_BYTES = 1 << 16
_POLL_S = 0.5
_KEEPALIVE_POLLS = 30
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
_DIGITS = re.compile(r"\d{1,18}")


async def respond_with_log(server: Server, request: Request, build_id: str) -> Response:
    """Return the log in the way that the request's headers ask for."""
    if "text/event-stream" in request.headers.get("accept", ""):
        last = request.headers.get("last-event-id", request.query_params.get("from", ""))
        offset = int(last) if _DIGITS.fullmatch(last) else 0
        events = _follow(server, build_id, offset)
        return StreamingResponse(
            events, media_type="text/event-stream", headers={**NO_STORE, "X-Accel-Buffering": "no"}
        )
    size = await run_in_threadpool(server.logs.size, build_id)
    headers = {**NO_STORE, "Accept-Ranges": "bytes"}
    start, end, status = 0, size, HTTPStatus.OK
    if wanted := _RANGE.fullmatch(request.headers.get("range", "")):
        start = int(wanted[1])
        end = min(size, int(wanted[2]) + 1) if wanted[2] else size
        if start >= end:
            outside = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            return Response(status_code=outside, headers={**headers, "Content-Range": f"bytes */{size}"})
        status = HTTPStatus.PARTIAL_CONTENT
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    pieces = _read(server, build_id, start, end)
    return StreamingResponse(pieces, status, headers, media_type="text/plain; charset=utf-8")


async def _read(server: Server, build_id: str, start: int, end: int) -> AsyncIterator[bytes]:
    while start < end:
        piece = await run_in_threadpool(server.logs.read, build_id, start, min(_PIECE_BYTES, end - start))
        if not piece:
            return
        start += len(piece)
        yield piece


async def _follow(server: Server, build_id: str, offset: int) -> AsyncIterator[bytes]:
    """Yield the log from `offset` on as server-sent events, and at last how the build ended.

    The ID of an event is the offset of what follows it, so a client that reconnects misses and repeats nothing.
    """
    yield b"retry: 1000\n\n"
    quiet_polls = 0
    while not server.is_stopping:
        build = await run_in_threadpool(server.store.get, build_id)
        is_ended = build is None or build.status in ENDED  # asked before reading: what it wrote last is then there
        piece = await run_in_threadpool(server.logs.read, build_id, offset, _EVENT_BYTES)
        piece = _cut_at_line(piece, is_last=is_ended)
        if piece:
            offset += len(piece)
            quiet_polls = 0
            yield format_event(piece.decode("utf-8", "replace"), event_id=offset)
        elif is_ended:
            status = json.dumps({"status": build.status if build else "UNKNOWN"})
            yield format_event(status, event_id=offset, name="end")
            return
        else:
            quiet_polls += 1
            if quiet_polls % _KEEPALIVE_POLLS == 0:
                yield b": still running\n\n"
            await asyncio.sleep(_POLL_S)


def _cut_at_line(piece: bytes, *, is_last: bool) -> bytes:
    """Return whole lines only; a line that is longer than an event, and the end of the log, are taken as they are."""
    end = piece.rfind(b"\n") + 1
    if end:
        return piece[:end]
    return piece if is_last or len(piece) >= _EVENT_BYTES else b""


def format_event(text: str, *, event_id: int, name: str = "") -> bytes:
    r"""Return a server-sent event; the client joins its `data` lines with newlines.

    >>> format_event("one\ntwo\n", event_id=8)
    b'id: 8\ndata: one\ndata: two\n\n'
    """
    lines = [f"event: {name}"] if name else []
    data = re.sub(r"\r\n?", "\n", text).removesuffix("\n")
    lines += [f"id: {event_id}", *(f"data: {line}" for line in data.split("\n"))]
    return ("\n".join(lines) + "\n\n").encode()
