"""One HTTP exchange: a fresh connection, one request, one response, within limits that no server can stretch."""

from __future__ import annotations

import logging
import math
import os
import ssl
import zlib
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlencode, urlsplit

import httpcore

from buildkit.runtime_api.proxy import choose_proxy, find_ca_file, is_usable, name_proxy
from buildkit.runtime_api.response import MAX_BODY_BYTES, Response
from buildkit.runtime_api.stream import ExchangeNetwork

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

_PIECE_BYTES = 64 * 1024
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate"})
_FAILURES = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)
BAD_BODY = (*_FAILURES, zlib.error)


class Limits(NamedTuple):
    """How long a server may take, in seconds.

    Attributes:
        connect_s: For the connection, and again for the TLS handshake.
        stall_s: An upload may go without any progress.
        response_s: From the end of an upload to the end of the response; also for a log.
        read_s: From the end of any other request to the end of the response.
    """

    connect_s: float = 10
    stall_s: float = 60
    response_s: float = 300
    read_s: float = 30


class Network(NamedTuple):
    """How requests leave this machine.

    Attributes:
        environment: Variables that name proxies and certificate authorities.
    """

    limits: Limits = Limits()
    environment: Mapping[str, str] = {}


class Request(NamedTuple):
    """A request.

    Attributes:
        response_s: Seconds for the response, from the end of the request.
        body: Yields exactly as many bytes as the header `Content-Length` says.
        total_s: Seconds for everything, beginning with the connection.
    """

    url: str
    response_s: float
    parameters: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: Iterable[bytes] | None = None
    total_s: float = math.inf


class ResponseMissing(Exception):
    """No complete head of a response arrived.

    Attributes:
        reason: For people; names the proxy if there is one.
        is_tls: The TLS connection could not be made, or failed.
        connection_lost: The other end closed the connection, so asking again may help even if `is_tls`.
        timed_out: A limit of ours was reached.
    """

    def __init__(self, reason: str, cause: BaseException, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_tls = isinstance(cause, ssl.SSLError)
        self.connection_lost = isinstance(cause, ConnectionError | ssl.SSLEOFError | ssl.SSLZeroReturnError)
        self.timed_out = timed_out


class HttpClient:
    """Sends requests, each on a connection of its own: an idle connection may be closed just as a request is sent.

    Args:
        headers: Sent with every request.
    """

    def __init__(self, headers: Mapping[str, str], network: Network) -> None:
        self._headers = {"Connection": "close", "Accept-Encoding": "identity", **headers}
        self._network = network
        # At the level DEBUG, httpcore logs the headers of responses, whatever a server has put there.
        logging.getLogger("httpcore").setLevel(logging.INFO)

    def fetch(self, request: Request) -> Response:
        """Return the response, with at most `MAX_BODY_BYTES` of its body. A request with a body is a POST.

        Raises:
            ResponseMissing: No complete head of a response arrived.
        """
        with self.open(request) as (response, pieces):
            return read_body(response, pieces)

    @contextmanager
    def open(self, request: Request) -> Iterator[tuple[Response, Iterator[bytes]]]:
        """Give the head of the response, and its decoded body as it arrives; reading that may raise one of `BAD_BODY`.

        Raises:
            ResponseMissing: As in `fetch`.
        """
        network = ExchangeNetwork(request.total_s)
        proxy = choose_proxy(request.url, self._network.environment)
        with self._open_pool(request.url, proxy, network) as pool, ExitStack() as stack:
            try:
                received = stack.enter_context(self._send(pool, request))
            except (*_FAILURES, UnicodeError) as error:
                raise _explain(error, network.cause, proxy) from error
            headers = {name.decode("latin-1").title(): text.decode("latin-1") for name, text in received.headers}
            head = Response(received.status, headers, b"", None)
            yield head, _decode(received.iter_stream(), headers.get("Content-Encoding", ""))

    def _send(self, pool: httpcore.ConnectionPool, request: Request) -> AbstractContextManager[httpcore.Response]:
        limits = self._network.limits
        query = f"?{urlencode(request.parameters)}" if request.parameters else ""
        texts = {"Host": urlsplit(request.url).netloc, **self._headers, **request.headers}
        headers = [(name.encode("ascii"), text.encode("latin-1")) for name, text in texts.items()]
        timeouts = {"connect": limits.connect_s, "write": limits.stall_s, "read": request.response_s}
        return pool.stream(
            "GET" if request.body is None else "POST",
            request.url + query,
            headers=headers,
            content=None if request.body is None else iter(request.body),
            extensions={"timeout": timeouts},
        )

    def _open_pool(self, url: str, proxy: str | None, network: ExchangeNetwork) -> httpcore.ConnectionPool:
        tls = self._tls if url.startswith("https:") else None
        if proxy is None:
            return httpcore.ConnectionPool(ssl_context=tls, network_backend=network)
        if not is_usable(proxy):
            reason = f"the proxy {name_proxy(proxy)} cannot be used: it is not an http(s) URL"
            raise ResponseMissing(reason, ValueError())
        parts = urlsplit(proxy)
        return httpcore.HTTPProxy(
            httpcore.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target="/"),
            (unquote(parts.username), unquote(parts.password or "")) if parts.username else None,
            ssl_context=tls,
            proxy_ssl_context=self._tls if parts.scheme == "https" else None,
            network_backend=network,
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        path = find_ca_file(self._network.environment)
        if path is None:
            return httpcore.default_ssl_context()
        try:
            if os.path.isdir(path):
                return ssl.create_default_context(capath=path)
            return ssl.create_default_context(cafile=path)
        except OSError as error:
            reason = f"the certificate authorities in {path} cannot be read: {error.strerror or error}"
            raise ResponseMissing(reason, ssl.SSLError()) from error


def read_body(response: Response, pieces: Iterator[bytes]) -> Response:
    """Return the response with its decoded body, up to `MAX_BODY_BYTES`, and why that is incomplete if it is."""
    content, problem = bytearray(), None
    try:
        for piece in pieces:
            content += piece
            if len(content) > MAX_BODY_BYTES:
                problem = "it is larger than 1 MiB"
                break
    except BAD_BODY:
        problem = "it is incomplete or damaged"
    return Response(response.status, response.headers, bytes(content[:MAX_BODY_BYTES]), problem)


def _explain(error: Exception, cause: BaseException | None, proxy: str | None) -> ResponseMissing:
    root = cause or error
    reason = getattr(root, "strerror", None) or str(root) or type(root).__name__
    reason = f"{reason}, through the proxy {name_proxy(proxy)}" if proxy else str(reason)
    return ResponseMissing(reason, root, timed_out=isinstance(error, httpcore.TimeoutException))


def _decode(pieces: Iterator[bytes], encodings: str) -> Iterator[bytes]:
    """Return a body without the compressions that a server may add although it was asked not to."""
    names = [name for part in encodings.lower().split(",") if (name := part.strip()) not in {"", "identity"}]
    for name in reversed(names):
        if name not in _COMPRESSIONS:
            raise zlib.error(f"unknown encoding {name}")
        pieces = _inflate(pieces)
    yield from pieces


def _inflate(pieces: Iterator[bytes]) -> Iterator[bytes]:
    engine = zlib.decompressobj(_GZIP_OR_ZLIB)
    for piece in pieces:
        rest, full = piece, True
        while (rest or full) and not engine.eof:
            data = engine.decompress(rest, _PIECE_BYTES)
            rest, full = engine.unconsumed_tail, len(data) == _PIECE_BYTES
            yield data
    if not engine.eof:
        raise zlib.error("the compressed data ends early")
