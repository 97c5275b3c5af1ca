"""One HTTP exchange with limits that a slow, huge or lying server cannot stretch.

requests does the work. What it lacks is added in its own places for extension: an adapter, a connection and the
response class of the connection.
"""

from __future__ import annotations

import errno
import functools
import http.client
import io
import select
import ssl
import time
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from buildkit.answer import MAX_BODY_BYTES, Answer

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping

_MAX_INTERIM_ANSWERS = 100
_PIECE_BYTES = 16 * 1024


class Body(Protocol):
    """What is sent: a body of known length that is read piece by piece."""

    content_type: str

    def __len__(self) -> int: ...
    def read(self, size: int = -1, /) -> bytes: ...  # noqa: D102 - as of any file


class NoAnswer(Exception):  # noqa: N818 - it is not yet an error of ours: the caller knows what it means
    """No complete head of an answer arrived.

    Attributes:
        reason: For people, with the proxy's name where there is one.
        is_tls: The secure connection could not be made or was broken.
        is_cut: The other end closed the connection, so that asking again may help even where `is_tls`.
        timed_out: A limit of ours was reached.
    """

    def __init__(self, reason: str, root: BaseException) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_tls = isinstance(root, ssl.SSLError | ssl.CertificateError)
        self.is_cut = isinstance(root, ConnectionError | ssl.SSLEOFError | ssl.SSLZeroReturnError)
        self.timed_out = isinstance(root, TimeoutError)


class Transport:
    """Sends one request on one fresh connection and returns its answer, whatever it is.

    Args:
        headers: Sent with every request.
        connect_timeout_s: For the name, the connection and the TLS handshake, each.
        stall_timeout_s: How long the server may stop reading.
    """

    def __init__(self, headers: Mapping[str, str], *, connect_timeout_s: float, stall_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._session = _Session()
        # `identity`: nothing to unpack, nothing to explode. `close`: see _FinalAnswer.
        self._session.headers.update({"Connection": "close", "Accept-Encoding": "identity", **headers})
        self._session.mount("http://", _Adapter(stall_timeout_s))
        self._session.mount("https://", _Adapter(stall_timeout_s))

    def close(self) -> None:
        """Close what is open."""
        self._session.close()

    def exchange(
        self,
        method: str,
        url: str,
        *,
        answer_timeout_s: float,
        params: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Answer:
        """Return the answer, with at most `MAX_BODY_BYTES` of its body.

        Args:
            answer_timeout_s: From the end of the request to the end of the answer, however it trickles.

        Raises:
            NoAnswer: No complete head of an answer arrived.
        """
        try:
            response = self._send(method, url, answer_timeout_s, params, body)
        except (requests.RequestException, HTTPError) as error:
            raise self._explain(error, url) from error
        with response:
            content, flaw = _read_body(response)
        return Answer(response.status_code, response.headers, content, flaw)

    def stream(self, url: str, *, answer_timeout_s: float, params: Mapping[str, str]) -> tuple[Answer, Iterator[bytes]]:
        """Return the head of an answer and its body piece by piece; an answer of another status than 200 as a whole.

        Raises:
            NoAnswer: No complete head of an answer arrived.
        """
        try:
            response = self._send("GET", url, answer_timeout_s, params, None)
        except (requests.RequestException, HTTPError) as error:
            raise self._explain(error, url) from error
        if response.status_code == http.HTTPStatus.OK:
            return Answer(response.status_code, response.headers, b"", None), _read_log(response)
        with response:
            content, flaw = _read_body(response)
        return Answer(response.status_code, response.headers, content, flaw), iter(())

    def _send(
        self, method: str, url: str, answer_timeout_s: float, params: Mapping[str, str] | None, body: Body | None
    ) -> requests.Response:
        return self._session.request(
            method,
            url,
            params=dict(params or {}),
            data=body,
            headers={"Content-Type": body.content_type} if body is not None else {},
            timeout=(self._connect_timeout_s, answer_timeout_s),
            allow_redirects=False,
            stream=True,
        )

    def _explain(self, error: BaseException, url: str) -> NoAnswer:
        root = error
        while root.__context__ is not None:
            root = root.__context__
        reason = getattr(root, "strerror", None) or str(root) or type(root).__name__
        proxy = select_proxy(url, self._session.merge_environment_settings(url, {}, None, None, None)["proxies"])
        return NoAnswer(f"{reason}, through the proxy {_name_proxy(proxy)}" if proxy else str(reason), root)


class _Session(requests.Session):
    """A session that takes proxies and certificates from the environment, but neither redirects nor `~/.netrc`."""

    def __init__(self) -> None:
        super().__init__()
        # With any `auth` set, requests does not look into ~/.netrc for the host.
        self.auth = _add_nothing

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002
        """Return None: even with redirects off, requests would read the whole body and prepare the next request."""
        return None


def _add_nothing(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


class _Adapter(HTTPAdapter):
    """An adapter without retries, over connections that watch the clock."""

    def __init__(self, stall_timeout_s: float) -> None:
        self._stall_timeout_s = stall_timeout_s
        super().__init__(max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Return requests' own pool, direct or through a proxy, with connections of ours."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        kind = _SecureConnection if pool.scheme == "https" else _PlainConnection
        pool.ConnectionCls = functools.partial(kind, stall_timeout_s=self._stall_timeout_s)
        return pool


class _TimedReader(io.RawIOBase):
    """Reads from a socket until a point in time. A socket's own timeout begins anew with each byte."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._timeout_s = sock.gettimeout() or 0.0
        self._deadline = time.monotonic() + self._timeout_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"the answer was not complete after {self._timeout_s:g} s")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _FinalAnswer(http.client.HTTPResponse):
    """An answer read against the clock from its first byte, never an interim one, and the last on its connection.

    http.client takes every 1xx but 100 for the final answer, so also 103 (early hints). And it keeps the connection
    where the server does not say that it closes it; but an idle connection may be closed just when the next request
    is on its way, and then nobody knows what became of that.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock))

    def begin(self) -> None:
        super().begin()
        for _ in range(_MAX_INTERIM_ANSWERS):
            if not 100 <= self.status < 200 or self.status == http.HTTPStatus.SWITCHING_PROTOCOLS:  # noqa: PLR2004
                self.will_close = True
                return
            self.headers = None  # type: ignore[assignment]  # as in a new response: begin() then reads the next head
            super().begin()
        raise http.client.HTTPException("more interim answers than anybody needs")


class _WatchedConnection(HTTPConnection):
    """A connection that gives up where the server stops reading, and then looks for an early answer."""

    response_class = _FinalAnswer

    def __init__(self, *args: Any, stall_timeout_s: float, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._stall_timeout_s = stall_timeout_s

    def connect(self) -> None:
        super().connect()
        # urllib3 leaves the connect timeout in force while the body is sent.
        self.sock.settimeout(self._stall_timeout_s)

    def send(self, data: Any) -> None:  # noqa: ANN401
        try:
            super().send(data)
        except TimeoutError as error:
            # A server that refuses early may stop reading and not close. After a broken pipe, urllib3 reads the answer.
            if self.sock is not None and select.select([self.sock], [], [], 0)[0]:
                raise BrokenPipeError(errno.EPIPE, "the server answered before it had read the body") from error
            raise


class _PlainConnection(_WatchedConnection):
    pass


class _SecureConnection(_WatchedConnection, HTTPSConnection):
    pass


def _read_log(response: requests.Response) -> Iterator[bytes]:
    with response:
        try:
            yield from _read_pieces(response)
        except HTTPError:
            yield b"\n(the log breaks off here)\n"


def _read_body(response: requests.Response) -> tuple[bytes, str | None]:
    """Return the decoded body up to the limit, and why it is not whole where it is not."""
    content = bytearray()
    try:
        for piece in _read_pieces(response):
            content += piece
            if len(content) > MAX_BODY_BYTES:
                return bytes(content[:MAX_BODY_BYTES]), "it is larger than 1 MiB"
    except HTTPError:
        return bytes(content), "it breaks off"
    return bytes(content), None


def _read_pieces(response: requests.Response) -> Iterator[bytes]:
    """Return the decoded body as it arrives. `iter_content` would wait for full pieces, and lose the last one."""
    return iter(lambda: response.raw.read1(_PIECE_BYTES, decode_content=True), b"")


def _name_proxy(proxy: str) -> str:
    """Return scheme, host and port of a proxy, without the user and the password."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
