"""One HTTP exchange: a fresh connection, one request, one response, within limits that no server can stretch."""

from __future__ import annotations

import logging
import math
import os
import ssl
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlencode, urlsplit

import httpcore

from buildkit.runtime_api.exchange import FAILURES, ExchangeFailed, decode, read_body
from buildkit.runtime_api.proxy import choose_proxy, find_ca_file, is_usable, name_proxy
from buildkit.runtime_api.response import Response
from buildkit.runtime_api.stream import ExchangeNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from buildkit.runtime_api.exchange import Body


class Network(NamedTuple):
    """How requests leave this machine, and how long a server may take, in seconds.

    Attributes:
        environment: Variables that name proxies and certificate authorities.
        connect_s: For the connection, and again for the TLS handshake.
        stall_s: An upload may go without any progress.
        response_s: From the end of an upload to the end of the response; also for a log.
        read_s: From the end of any other request to the end of the response.
        idle_s: A stream may bring nothing, not even the comment that servers send when there is no news.
    """

    environment: Mapping[str, str] = {}
    connect_s: float = 10
    stall_s: float = 60
    response_s: float = 300
    read_s: float = 30
    idle_s: float = 45


class Request(NamedTuple):
    """A GET unless it says otherwise; `str()` names it in messages.

    Attributes:
        response_s: Seconds for the response, from the end of the request.
        total_s: Seconds for everything, beginning with the connection.
        is_stream: The response may last for ever: `response_s` limits each pause in it.
        headers: In addition to those of the client.
    """

    url: str
    response_s: float
    parameters: Mapping[str, str] = {}
    body: Body | None = None
    total_s: float = math.inf
    headers: Mapping[str, str] = {}
    method: str = "GET"
    is_stream: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.url}"


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
        """Return the response, with at most `MAX_BODY_BYTES` of its body.

        Raises:
            ExchangeFailed: No complete head of a response arrived.
        """
        with self.open(request) as (response, pieces):
            return read_body(response, pieces)

    @contextmanager
    def open(self, request: Request) -> Iterator[tuple[Response, Iterator[bytes]]]:
        """Give the head of the response, and its decoded body as it arrives; either may raise `ExchangeFailed`."""
        if request.body:
            request.body.sent = 0  # each try begins with a connection, which may fail
        network = ExchangeNetwork(request.total_s, is_stream=request.is_stream)
        proxy = choose_proxy(request.url, self._network.environment)
        with self._open_pool(request.url, proxy, network) as pool, ExitStack() as stack:
            try:
                received = stack.enter_context(self._send(pool, request))
            except (*FAILURES, UnicodeError) as error:
                raise _explain(error, network.cause, proxy) from error
            headers = {name.decode("latin-1").title(): text.decode("latin-1") for name, text in received.headers}
            pieces = decode(received.iter_stream(), headers.get("Content-Encoding", ""))
            yield Response(received.status, headers, b"", None), pieces

    def _send(self, pool: httpcore.ConnectionPool, request: Request) -> AbstractContextManager[httpcore.Response]:
        network, body = self._network, request.body
        texts = {"Host": urlsplit(request.url).netloc, **self._headers, **request.headers}
        if body:
            texts |= {"Content-Type": body.content_type, "Content-Length": str(body.total)}
        elif request.method == "POST":
            texts["Content-Length"] = "0"
        return pool.stream(
            request.method,
            f"{request.url}?{urlencode(request.parameters)}" if request.parameters else request.url,
            headers=[(name.encode("ascii"), text.encode("latin-1")) for name, text in texts.items()],
            content=iter(body) if body else None,
            extensions={
                "timeout": {"connect": network.connect_s, "write": network.stall_s, "read": request.response_s}
            },
        )

    def _open_pool(self, url: str, proxy: str | None, network: ExchangeNetwork) -> httpcore.ConnectionPool:
        tls = self._tls if url.startswith("https:") else None
        if proxy is None:
            return httpcore.ConnectionPool(ssl_context=tls, network_backend=network)
        if not is_usable(proxy):
            raise ExchangeFailed(f"the proxy {name_proxy(proxy)} cannot be used: it is not an http(s) URL")
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
            raise ExchangeFailed(reason, ssl.SSLError()) from error


def _explain(error: Exception, cause: BaseException | None, proxy: str | None) -> ExchangeFailed:
    root = cause or error
    reason = getattr(root, "strerror", None) or str(root) or type(root).__name__
    reason = f"{reason}, through the proxy {name_proxy(proxy)}" if proxy else str(reason)
    return ExchangeFailed(reason, root, timed_out=isinstance(error, httpcore.TimeoutException))
