"""One HTTP exchange with limits that a slow, huge or lying server cannot stretch."""

from __future__ import annotations

import http
import ssl
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import requests
from requests.utils import select_proxy
from urllib3.exceptions import HTTPError

from buildkit.runtime_api.answer import MAX_BODY_BYTES, Answer
from buildkit.runtime_api.connection import WatchedAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PIECE_BYTES = 16 * 1024


class Body(Protocol):
    """What is sent: a body of known length that is read piece by piece."""

    content_type: str

    def __len__(self) -> int: ...
    def read(self, size: int = -1, /) -> bytes: ...  # noqa: D102 - as of any file


class NoAnswer(Exception):
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
        # `identity`: nothing to unpack, nothing to explode. `close`: see `connection`.
        self._session.headers.update({"Connection": "close", "Accept-Encoding": "identity", **headers})
        self._session.mount("http://", WatchedAdapter(stall_timeout_s))
        self._session.mount("https://", WatchedAdapter(stall_timeout_s))

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
