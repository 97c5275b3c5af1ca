"""The server's socket: an address, TLS, and an orderly end on SIGTERM."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from buildkit.errors import LocalError, SettingError
from buildkit.server.connections import BoundedProtocol, Config
from buildkit.signals import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp

    from buildkit.server.server import Server

_KEEP_ALIVE_S = 15
_MAX_HEADER_BYTES = 32_768
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
        BoundedProtocol.close_waiting()
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
    config = Config(
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
    )
    config.tls = _load_certificate(address)
    with suppress(Interrupted):  # uvicorn repeats the signal after it has stopped
        _Listener(config, server, on_listening).run(sockets=[bound])


def _load_certificate(address: Address) -> ssl.SSLContext | None:
    if address.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(address.certificate, address.key)
    except OSError as error:
        raise LocalError(
            f"cannot use the TLS certificate {address.certificate}: {error.strerror or error}",
            "give --tls-cert and --tls-key the paths of PEM files that belong together",
        ) from error
    return context
