"""Request bodies as they arrive: bounded in size and in time, and no thread waits for a slow client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from buildkit.server.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, MutableMapping
    from typing import Any

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    Message = MutableMapping[str, Any]

_BATCH_BYTES = 1 << 21
# How much of a refused body is still read: a connection that is closed with unread data resets, and the client then
# never sees why.
_DRAIN_BYTES, _DRAIN_S = 1 << 26, 5.0
_BODY_RECEIVED = "runtime_build.body_received"


class BodyLimits(NamedTuple):
    """How much a client may send, and how slowly.

    Attributes:
        pause_s: Longest pause between two pieces of the body.
        grace_s: Time that is granted whatever the rate.
        bytes_per_s: The rate that the body must reach on average after that.
    """

    max_bytes: int
    pause_s: float = 60.0
    grace_s: float = 60.0
    bytes_per_s: int = 16_384


async def receive_body(
    request: Request, read: Callable[[bytes], bytes], store: Callable[[bytes], None], limits: BodyLimits
) -> None:
    """Store what a body holds batch by batch, in a thread, while the next batch arrives.

    Args:
        read: Returns what a piece of the body holds. It must not block. A thread of its own would spend more time on
            waiting for the interpreter's lock than on its work.

    Raises:
        Refused: It is too large or too slow.
        ClientDisconnect: The client has closed the connection.
    """
    if read_length(request) > limits.max_bytes:
        raise _refuse_size(limits.max_bytes)
    batches = _read_batches(request, read, limits)
    upcoming = asyncio.ensure_future(anext(batches, b""))
    try:
        while batch := await upcoming:
            upcoming = asyncio.ensure_future(anext(batches, b""))
            await run_in_threadpool(store, batch)
    finally:
        upcoming.cancel()
        await asyncio.gather(upcoming, return_exceptions=True)


async def _read_batches(request: Request, read: Callable[[bytes], bytes], limits: BodyLimits) -> AsyncIterator[bytes]:
    """Yield what a body holds in batches that are worth a thread's while."""
    started = time.monotonic()
    received, read_bytes, batch, more = 0, 0, list[bytes](), True
    while more:
        left_s = started + limits.grace_s + received / limits.bytes_per_s - time.monotonic()
        message = await _receive_in_time(request.receive, min(left_s, limits.pause_s))
        more = message.get("more_body", False)
        piece = message.get("body", b"")
        received += len(piece)
        if received > limits.max_bytes:
            raise _refuse_size(limits.max_bytes)
        if content := read(piece):
            batch.append(content)
            read_bytes += len(content)
        if read_bytes >= _BATCH_BYTES or not more:
            yield b"".join(batch)
            read_bytes = 0
            batch.clear()


def note_end_of_body(scope: Scope, receive: Receive) -> Receive:
    """Return `receive`, which notes in the scope that the whole body has been received: nothing else comes then."""

    async def receive_one() -> Message:
        message = await receive()
        scope[_BODY_RECEIVED] = not message.get("more_body", False)
        return message

    return receive_one


def read_length(request: Request) -> int:
    """Return how many bytes the body has, or 0 if its header does not say."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else 0


async def _receive_in_time(receive: Receive, timeout_s: float) -> Message:
    try:
        async with asyncio.timeout(max(timeout_s, 0)):
            message = await receive()
    except TimeoutError:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the body arrives too slowly") from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message


def _refuse_size(max_bytes: int) -> Refused:
    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {max_bytes} bytes")


class RefusalResponse(JSONResponse):
    """A refusal, sent before the body has been read; the client gets some time to send the rest and to read it."""

    def __init__(self, refusal: Refused) -> None:
        headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
        super().__init__({"detail": refusal.detail}, refusal.status, {"Cache-Control": "no-store", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and read on without keeping anything."""
        has_body = scope["method"] in {"POST", "PUT"} and not scope.get(_BODY_RECEIVED)
        if has_body:
            self.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = b"" if scope["method"] == "HEAD" else self.body
        await send({"type": "http.response.body", "body": body, "more_body": has_body})
        if has_body:
            await _drain(receive)
            await send({"type": "http.response.body"})


async def _drain(receive: Receive) -> None:
    left, more = _DRAIN_BYTES, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            while more and left > 0:
                message = await receive()
                more = message.get("more_body", False)
                left -= len(message.get("body", b""))
