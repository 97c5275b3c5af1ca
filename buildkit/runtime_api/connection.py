"""Connections that watch the clock, in the places where requests and urllib3 provide for one's own."""

from __future__ import annotations

import errno
import functools
import http.client
import io
import select
import time
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    import socket

_MAX_INTERIM_ANSWERS = 100


class WatchedAdapter(HTTPAdapter):
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
                # urllib3 would log lines that are no headers, with a traceback and whatever the server wrote there.
                self.headers.defects.clear()
                self.headers.set_payload("")
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
