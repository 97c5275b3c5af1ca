"""The server's socket: uvicorn with bounds on connections that send no request, and an orderly end on SIGTERM."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from buildkit.errors import LocalError, SettingError
from buildkit.signals import Interrupted

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from starlette.types import ASGIApp

    from buildkit.server.server import Server

_HEADER_TIMEOUT_S = 15.0
_KEEP_ALIVE_S = 15
_MAX_HEADER_BYTES = 32_768
_MAX_WAITING = 256
_BACKLOG = 512
# Together with the time that builds get to be put back into the queue, less than the promised 10 s.
_STOP_TIMEOUT_S = 3


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        port: 0 picks a free one.
        certificate, key: Paths of PEM files for TLS; None for plain http.
        is_behind_proxy: Whether every connection comes from a proxy, which says what its clients used.
    """

    host: str
    port: int
    certificate: str | None = None
    key: str | None = None
    is_behind_proxy: bool = False


class BoundedProtocol(H11Protocol):
    """A connection of uvicorn that must send the header of a request in time.

    uvicorn itself waits for ever. Of all connections that have no request in progress, only the youngest ones stay
    open, so those that never send one do not keep others out.
    """

    _waiting: ClassVar[dict[BoundedProtocol, asyncio.TimerHandle]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take data; wait for the rest unless it completes the header of a request."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self in self._waiting or self.transport.is_closing():
            return
        if len(self._waiting) >= _MAX_WAITING:
            next(iter(self._waiting))._close()  # noqa: SLF001 - another connection of this class
        self._waiting[self] = self.loop.call_later(_HEADER_TIMEOUT_S, self._close)

    def _stop_waiting(self) -> None:
        timer = self._waiting.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _close(self) -> None:
        self._stop_waiting()
        self.transport.abort()


class _Listener(uvicorn.Server):
    """uvicorn's server, which says when it listens and when it is about to stop."""

    def __init__(self, config: uvicorn.Config, server: Server, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._runtime_api = server
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._runtime_api.is_stopping = True
        await super().shutdown(sockets)


def bind(address: Address) -> socket.socket:
    """Return the socket, which does not listen yet.

    Raises:
        SettingError: The address is not one of this machine's, or is in use.
    """
    host, port = address.host, address.port
    fix = "set SERVE_HOST to an address of this machine and SERVE_PORT to a free port, or to 0"
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind)
    except OSError as error:
        raise SettingError(f"cannot listen on {host}: {error.strerror}", fix) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
    except OSError as error:
        bound.close()
        raise SettingError(f"cannot listen on {host}, port {port}: {error.strerror}", fix) from error
    return bound


def format_url(bound: socket.socket, address: Address) -> str:
    """Return the base URL under which a bound socket is reached.

    A socket that listens on every address is reached on this machine by its name for itself.
    """
    host, port = bound.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = "localhost"
    shown = f"[{host}]" if ":" in host else host
    return f"{'http' if address.certificate is None else 'https'}://{shown}:{port}"


def serve(
    server: Server, app: ASGIApp, bound: socket.socket, address: Address, on_listening: Callable[[], None]
) -> None:
    """Serve requests until a signal asks the process to stop.

    Raises:
        LocalError: The certificate or its key cannot be used.
    """
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=address.is_behind_proxy,
        forwarded_allow_ips="*" if address.is_behind_proxy else "",
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_TIMEOUT_S,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
    )
    try:
        config.load()
    except OSError as error:
        raise LocalError(
            f"cannot use the TLS certificate {address.certificate}: {error.strerror or error}",
            "give --tls-cert and --tls-key the paths of PEM files that belong together",
        ) from error
    with suppress(Interrupted):  # uvicorn repeats the signal after it has stopped
        _Listener(config, server, on_listening).run(sockets=[bound])
