"""A Runtime API on loopback: real sockets, real HTTP, a scripted build, and a count of all that arrived.

`python -m tests.runtime_api` serves one by hand. How it can misbehave is in `tests/misbehaviour.py`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import email
import email.policy
import hashlib
import json
import re
import socket
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

KEY = "k3y+with/odd=chars&of-its-own"
PREFIX = "registry.example.com/team"


@dataclass
class Request:
    """What one request was, and how much of its body was read."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Build:
    """A build that was started."""

    build_id: str
    target_image: str
    tags: list[str]
    archive_sha256: str


class Exchange:
    """One request on one connection, and the means to answer it, well or badly."""

    def __init__(self, server: RuntimeApiServer, connection: socket.socket, request: Request, rest: bytes) -> None:
        self.server = server
        self.connection = connection
        self.request = request
        self._rest = rest

    def read_body(self, limit: int | None = None) -> bytes:
        """Read the body, or its first `limit` bytes."""
        length = int(self.request.headers.get("content-length", 0))
        wanted = length if limit is None else min(limit, length)
        parts = [self._rest]
        got = len(self._rest)
        while got < wanted:
            piece = self.connection.recv(256 * 1024)
            if not piece:
                break
            parts.append(piece)
            got += len(piece)
        self._rest = b""
        self.request.body += b"".join(parts)
        with self.server.lock:
            self.server.bytes_received += got
            self.server.whole_bodies += got >= length > 0
        return self.request.body

    def answer(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        """Answer; a `body` other than bytes is sent as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.connection.sendall(f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode("latin-1"))
        self.connection.sendall(content)

    def wait_for_end(self) -> None:
        """Do nothing until the server is closed."""
        self.server.closing.wait(120)  # longer than any limit of the client, but for the one of a response


class RuntimeApiServer:
    """A Runtime API whose answers can be scripted, request by request.

    Attributes:
        statuses: What `build_status` says, one after the other; the last one for ever.
        requests: Every request whose head arrived.
        connections: Connections made, also those without a request.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, statuses: Iterable[str] = ("SUCCESS",)) -> None:
        self.statuses = deque(statuses)
        self.prefix: str | None = PREFIX
        self.error: Any = None
        self.log: bytes | None = b"step 1\nstep 2\n"
        self.started_status = 200
        self.requests: list[Request] = []
        self.builds: list[Build] = []
        self.connections = 0
        self.bytes_received = 0
        self.whole_bodies = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._tls = tls
        self._scripts: dict[str, deque[Callable[[Exchange], None]]] = {}
        self._rules: dict[str, Callable[[Exchange], None]] = {
            "POST /build": self._start_build,
            "GET /build_status": self._tell_status,
            "GET /build_logs": self._tell_log,
            "GET /registry_prefix": self._tell_prefix,
            "GET /image_exists": lambda exchange: exchange.answer(200, {"exists": True}),
        }
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def script(self, name: str, *behaviours: Callable[[Exchange], None]) -> None:
        """Let the next requests of that name (`POST /build`) be answered so; later ones as usual."""
        self._scripts.setdefault(name, deque()).extend(behaviours)

    def always(self, name: str, behaviour: Callable[[Exchange], None]) -> None:
        """Let every request of that name be answered so."""
        self._rules[name] = behaviour

    def count(self, name: str) -> int:
        """Return how many requests of that name arrived."""
        return sum(request.name == name for request in self.requests)

    def start_build(self, request: Request) -> Build:
        """Start the build that a request asks for."""
        with self.lock:
            build = _parse_build(request.body, request.headers["content-type"], f"build-{len(self.builds) + 1}")
            self.builds.append(build)
        return build

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        # Whatever the client does to the connection is the client's business; the counts are what a test looks at.
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            connection.settimeout(30)
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
                stack.callback(connection.close)
            request, rest = _read_head(connection)
            with self.lock:
                self.requests.append(request)
                queue = self._scripts.get(request.name)
                behaviour = queue.popleft() if queue else self._rules.get(request.name, _not_found)
            behaviour(Exchange(self, connection, request, rest))

    def _start_build(self, exchange: Exchange) -> None:
        body = exchange.read_body()
        if len(body) == int(exchange.request.headers["content-length"]):
            exchange.answer(self.started_status, {"build_id": self.start_build(exchange.request).build_id})

    def _tell_status(self, exchange: Exchange) -> None:
        status = self.statuses.popleft() if len(self.statuses) > 1 else self.statuses[0]
        answer: dict[str, Any] = {"status": status}
        if status == "SUCCESS":
            answer["image"] = (
                self.builds[-1].target_image if self.builds else "registry.example.com/agent-server:abc123"
            )
        elif self.error is not None:
            answer["error"] = self.error
        exchange.answer(200, answer)

    def _tell_prefix(self, exchange: Exchange) -> None:
        exchange.answer(200, {"registry_prefix": self.prefix})

    def _tell_log(self, exchange: Exchange) -> None:
        if self.log is None:
            _not_found(exchange)
        else:
            exchange.answer(200, self.log, {"Content-Type": "text/plain"})


def _not_found(exchange: Exchange) -> None:
    exchange.answer(404, {"detail": "Not Found"})


def _read_head(connection: socket.socket) -> tuple[Request, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(64 * 1024)
        if not piece:
            raise ValueError("the client closed the connection before its request was complete")
        data += piece
        if not data[:1].isalpha():
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            raise ValueError("that is not HTTP")
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    parts = urlsplit(target)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return Request(method, target if method == "CONNECT" else parts.path, query, headers), rest


def _parse_build(body: bytes, content_type: str, build_id: str) -> Build:
    """Read a body as a server would; raises ValueError where it is not what the contract says."""
    if content_type == "application/json":
        fields = json.loads(body)
        encoded, image, tags = fields["context"], fields["target_image"], fields.get("tags", [])
    else:
        head = f"Content-Type: {content_type}\r\n\r\n".encode()
        message: Any = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        parts = [(part.get_param("name", header="content-disposition"), part) for part in message.iter_parts()]
        values = [(name, part.get_payload(decode=True).decode()) for name, part in parts]
        (context,) = [part for name, part in parts if name == "context"]
        if context.get_filename() != "context.tar.gz":
            raise ValueError("the file part must be named context.tar.gz")
        by_name = dict(values)
        encoded, image = by_name["context"], by_name["target_image"]
        tags = [value for name, value in values if name == "tags"]
    archive = base64.b64decode(re.sub(r"\s", "", encoded), validate=True)
    return Build(build_id, image, tags, hashlib.sha256(archive).hexdigest())


def main() -> None:
    """Serve until interrupted, then say what arrived."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--statuses", default="PENDING,RUNNING,SUCCESS", help="what build_status says, in turn")
    options = parser.parse_args()
    with RuntimeApiServer(statuses=options.statuses.split(",")) as server:
        print(f"RUNTIME_API_URL={server.url} RUNTIME_API_KEY=anything", flush=True)  # noqa: T201 - a program for people
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        print(f"{len(server.requests)} requests, {server.bytes_received} bytes, builds: {server.builds}")  # noqa: T201 - a program for people


if __name__ == "__main__":
    main()
