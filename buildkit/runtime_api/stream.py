"""The network below one HTTP exchange: it keeps every limit and remembers why the connection failed."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpcore

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator

_PIECE_BYTES = 64 * 1024


class ExchangeNetwork(httpcore.NetworkBackend):
    """The network as one exchange sees it, which may take `total_s` seconds from now on.

    Args:
        is_stream: The timeout of a read is that of each pause, not of the whole response.

    Attributes:
        cause: The last failure of the network, as Python raised it; None if there was none.
    """

    def __init__(self, total_s: float = math.inf, *, is_stream: bool = False) -> None:
        self.is_stream = is_stream
        self.cause: BaseException | None = None
        self._network = httpcore.SyncBackend()
        self._ends = time.monotonic() + total_s

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Return a connection."""
        with self.operation(timeout, httpcore.ConnectTimeout) as left_s:
            return _LimitedStream(self, self._network.connect_tcp(host, port, left_s, local_address, socket_options))

    @contextmanager
    def operation(self, timeout: float | None, expired: type[httpcore.TimeoutException]) -> Iterator[float]:
        """Give the seconds that one operation may take, and remember why it fails: httpcore drops the cause.

        Args:
            expired: Raised if there is no time left.
        """
        try:
            left_s = min(math.inf if timeout is None else timeout, self._ends - time.monotonic())
            if left_s <= 0:
                raise expired("timed out")
            yield left_s
        except (httpcore.NetworkError, httpcore.TimeoutException) as error:
            self.cause = error.__cause__ or error
            raise


class _LimitedStream(httpcore.NetworkStream):
    """A connection whose reads share one deadline, and whose writes fail only after a time without any progress."""

    def __init__(self, network: ExchangeNetwork, stream: httpcore.NetworkStream) -> None:
        self._network = network
        self._stream = stream
        self._deadline: float | None = None
        self._early = b""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what has arrived. `timeout` counts from the first read, however slowly the response trickles in."""
        if self._early:
            early, self._early = self._early[:max_bytes], self._early[max_bytes:]
            return early
        with self._network.operation(timeout, httpcore.ReadTimeout) as left_s:
            now = time.monotonic()
            if self._deadline is None or self._network.is_stream:
                self._deadline = now + left_s
            if self._deadline <= now:
                raise httpcore.ReadTimeout("the response was not complete in time")
            return self._stream.read(max_bytes, min(left_s, self._deadline - now))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send everything. `timeout` is the time without progress; a response that came early ends the request."""
        with self._network.operation(timeout, httpcore.WriteTimeout) as left_s:
            try:
                self._stream.write(buffer, left_s)
            except httpcore.WriteTimeout as stalled:
                # TLS session tickets also make a socket readable, so only what can be read counts as a response.
                try:
                    self._early = self._stream.read(_PIECE_BYTES, 0)
                except httpcore.ReadError:
                    raise stalled from stalled.__cause__
                raise httpcore.WriteError("the server responded before it had read the request") from stalled

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Return the connection with TLS on top."""
        with self._network.operation(timeout, httpcore.ConnectTimeout) as left_s:
            return _LimitedStream(self._network, self._stream.start_tls(ssl_context, server_hostname, left_s))

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def get_extra_info(self, info: str) -> object:
        """Return what httpcore asks for, such as the TLS object."""
        return self._stream.get_extra_info(info)
