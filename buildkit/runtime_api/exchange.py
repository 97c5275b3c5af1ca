"""What one HTTP exchange carries, decoded and bounded, and how it fails."""

from __future__ import annotations

import ssl
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import httpcore

from buildkit.runtime_api.response import MAX_BODY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.runtime_api.response import Response

FAILURES = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)
_PIECE_BYTES = 64 * 1024
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate"})


class Body(Protocol):
    """What a request sends; it can be sent again from its beginning.

    Attributes:
        total: Its bytes.
        sent: How many of them were handed to the network.
    """

    total: int
    sent: int

    @property
    def content_type(self) -> str:
        """What it is."""

    @property
    def complete(self) -> bool:
        """Whether the server may have all of it."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield it."""


class ExchangeFailed(Exception):
    """No response arrived, or not all of it.

    Attributes:
        reason: For people; names the proxy if there is one.
        is_tls: The TLS connection could not be made, or failed.
        connection_lost: The other end closed the connection, so asking again may help even if `is_tls`.
        refused: Nothing listens there.
        timed_out: A limit of ours was reached.
    """

    def __init__(self, reason: str, cause: BaseException | None = None, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_tls = isinstance(cause, ssl.SSLError)
        self.connection_lost = isinstance(cause, ConnectionError | ssl.SSLEOFError | ssl.SSLZeroReturnError)
        self.refused = isinstance(cause, ConnectionRefusedError)
        self.timed_out = timed_out


def read_body(response: Response, pieces: Iterator[bytes]) -> Response:
    """Return the response with its decoded body, up to `MAX_BODY_BYTES`, and why that is incomplete if it is."""
    content, problem = bytearray(), None
    try:
        for piece in pieces:
            content += piece
            if len(content) > MAX_BODY_BYTES:
                problem = "it is larger than 1 MiB"
                break
    except ExchangeFailed as failure:
        problem = failure.reason
    return replace(response, body=bytes(content[:MAX_BODY_BYTES]), problem=problem)


def decode(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Yield a body without the compression that a server may add although it was asked not to."""
    encodings = [name for part in encoding.lower().split(",") if (name := part.strip()) not in {"", "identity"}]
    if not _COMPRESSIONS.issuperset(encodings):
        raise ExchangeFailed("its encoding is unknown")
    for _ in encodings:
        pieces = _inflate(pieces)
    try:
        yield from pieces
    except (*FAILURES, zlib.error) as error:
        raise ExchangeFailed("it is incomplete or damaged", error) from error


def _inflate(pieces: Iterator[bytes]) -> Iterator[bytes]:
    engine = zlib.decompressobj(_GZIP_OR_ZLIB)
    for piece in pieces:
        rest = piece
        while rest and not engine.eof:
            yield engine.decompress(rest, _PIECE_BYTES)
            rest = engine.unconsumed_tail
    yield engine.flush()
    if not engine.eof:
        raise zlib.error("the compressed data ends early")
