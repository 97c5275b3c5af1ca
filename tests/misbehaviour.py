"""What servers and networks do to a request, for the scripts of `tests.runtime_api`."""

from __future__ import annotations

import gzip
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.runtime_api import Exchange


def answer(status: int, body: Any = b"", headers: dict[str, str] | None = None) -> Callable[[Exchange], None]:
    """Read the whole request, then answer."""

    def behave(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.answer(status, body, headers)

    return behave


def send(*pieces: bytes, pause_s: float = 0) -> Callable[[Exchange], None]:
    """Read the whole request, then send these bytes as they are, piece by piece."""

    def behave(exchange: Exchange) -> None:
        exchange.read_body()
        for piece in pieces:
            exchange.connection.sendall(piece)
            if pause_s and exchange.server.closing.wait(pause_s):
                return

    return behave


def drip(data: bytes, pause_s: float) -> Callable[[Exchange], None]:
    """Send an answer byte by byte."""
    return send(*(bytes([byte]) for byte in data), pause_s=pause_s)


def reset_after(size_bytes: int) -> Callable[[Exchange], None]:
    """Read that much of the body, then reset the connection."""

    def behave(exchange: Exchange) -> None:
        exchange.read_body(size_bytes)
        reset(exchange.connection)

    return behave


def close_after_body(exchange: Exchange) -> None:
    """Take the whole request, start the build, and close without an answer."""
    exchange.read_body()
    exchange.server.start_build(exchange.request)
    exchange.connection.close()


def reset_after_body(exchange: Exchange) -> None:
    """Take the whole request, start the build, and reset the connection."""
    exchange.read_body()
    exchange.server.start_build(exchange.request)
    reset(exchange.connection)


def close_at_once(exchange: Exchange) -> None:
    """Close without an answer."""
    exchange.connection.close()


def stay_silent(exchange: Exchange) -> None:
    """Take the whole request and never answer."""
    exchange.read_body()
    exchange.wait_for_end()


def stop_reading(exchange: Exchange) -> None:
    """Read nothing of the body and keep the connection."""
    exchange.wait_for_end()


def refuse_early(status: int, *, then: str, headers: dict[str, str] | None = None) -> Callable[[Exchange], None]:
    """Answer before the body is read; then `reset` the connection, or keep it and read `nothing`."""

    def behave(exchange: Exchange) -> None:
        exchange.connection.recv(64 * 1024)
        exchange.answer(status, {"detail": "too large"}, {"Connection": "close", **(headers or {})})
        if then == "reset":
            # Closing with unread bytes makes the kernel send a reset; the pause lets the answer get there first.
            time.sleep(0.2)
            exchange.connection.close()
        else:
            exchange.wait_for_end()

    return behave


def answer_gzip_bomb(size_bytes: int, status: int = 200) -> Callable[[Exchange], None]:
    """Answer with a few bytes that unpack to very many."""
    packed = gzip.compress(b" " * size_bytes, 9)
    return answer(status, packed, {"Content-Encoding": "gzip"})


def tunnel_to(port: int) -> Callable[[Exchange], None]:
    """Do what a proxy does on CONNECT, towards a server on this machine: pass bytes both ways until an end closes."""

    def behave(exchange: Exchange) -> None:
        with socket.create_connection(("127.0.0.1", port)) as target:
            exchange.connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ends = {exchange.connection: target, target: exchange.connection}
            while True:
                for end in select.select(list(ends), [], [], 10)[0]:
                    data = end.recv(64 * 1024)
                    if not data:
                        return
                    ends[end].sendall(data)

    return behave


def reset(connection: socket.socket) -> None:
    """Close a connection so that the other end sees a reset at once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
