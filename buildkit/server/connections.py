"""Connections of uvicorn with bounds: those on which nothing is requested are limited in number and in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio
    import ssl

_REQUEST_TIMEOUT_S = 15.0
_MAX_WAITING = 256


class Config(uvicorn.Config):
    """uvicorn's configuration; with `tls`, each connection begins with a handshake."""

    tls: ssl.SSLContext | None = None


class BoundedProtocol(H11Protocol):
    """A connection that must send the header of a request in time.

    uvicorn itself waits for ever, and asyncio does not count TLS handshakes. Of all connections that have no request
    in progress, only the youngest ones stay open, so those that never send one do not keep others out.
    """

    config: Config
    _is_made = False
    _waiting: ClassVar[dict[BoundedProtocol, asyncio.TimerHandle]] = {}
    _accepted: asyncio.Transport
    _handshake: asyncio.Task[None] | None = None
    _early_data = b""

    @classmethod
    def close_waiting(cls) -> None:
        """Close every connection that has no request in progress."""
        for connection in list(cls._waiting):
            connection.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request."""
        self._accepted = transport
        self._wait()
        if self.config.tls is None:
            self._begin(transport)
        else:
            self._handshake = self.loop.create_task(self._secure(transport, self.config.tls))

    def data_received(self, data: bytes) -> None:
        """Take data; wait for the rest unless it completes the header of a request."""
        if not self._is_made:  # asyncio reports data that came with the handshake before its end
            self._early_data += data
            return
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        if self._is_made:
            super().connection_lost(exc)

    def close(self) -> None:
        """Close the connection, whatever state it is in."""
        self._stop_waiting()
        self._accepted.abort()

    async def _secure(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        try:
            secured = await self.loop.start_tls(
                transport, self, tls, server_side=True, ssl_handshake_timeout=_REQUEST_TIMEOUT_S
            )
        except OSError:  # the connection is closed
            return
        if secured is not None and not transport.is_closing():
            self._begin(secured)
            if self._early_data:
                self.data_received(self._early_data)

    def _begin(self, transport: asyncio.Transport) -> None:
        self._is_made = True
        super().connection_made(transport)

    def _wait(self) -> None:
        if self in self._waiting or self._accepted.is_closing():
            return
        if len(self._waiting) >= _MAX_WAITING:
            next(iter(self._waiting)).close()
        self._waiting[self] = self.loop.call_later(_REQUEST_TIMEOUT_S, self.close)

    def _stop_waiting(self) -> None:
        timer = self._waiting.pop(self, None)
        if timer is not None:
            timer.cancel()
