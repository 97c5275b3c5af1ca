"""The HTTP side: connections, and what requests share."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from openhands.agent_server import __version__
from openhands.agent_server.bash_service import BashService
from openhands.agent_server.dependencies import RequestRefused
from openhands.agent_server.file_service import FileService
from openhands.agent_server.routes import Answer, Request, answer_request, format_json

if TYPE_CHECKING:
    from openhands.agent_server.config import Config


class AgentServer(ThreadingHTTPServer):
    """The server; it listens as soon as it is made."""

    daemon_threads = True  # a stalled caller must not hold up the end of the process
    block_on_close = False
    request_queue_size = 128

    def __init__(self, host: str, port: int, config: Config) -> None:
        """Listen on `host`; port 0 takes a free one."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.config = config
        self.bash = BashService(config.workspace)
        self.files = FileService(config.workspace)
        self.started = time.monotonic()
        self.stopping = threading.Event()
        self._busy = 0
        self._idle = threading.Condition()
        super().__init__((host, port), Handler)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if self.address_family == socket.AF_INET6 else f"http://{host!s}:{port}"

    def server_bind(self) -> None:
        """Bind without asking a name server for our own name, as the standard library's does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def begin_request(self) -> None:
        """Count a request that is being answered."""
        with self._idle:
            self._busy += 1

    def end_request(self) -> None:
        """Count it as answered."""
        with self._idle:
            self._busy -= 1
            self._idle.notify_all()

    def stop(self) -> None:
        """Take no more connections and kill what runs; called from another thread than the one that serves."""
        self.stopping.set()
        self.bash.stop()
        self.shutdown()

    def wait_idle(self, timeout_s: float) -> bool:
        """Return whether every request was answered in time."""
        with self._idle:
            return self._idle.wait_for(lambda: self._busy == 0, timeout_s)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: AgentServer
    protocol_version = "HTTP/1.1"
    server_version = f"openhands-agent-server/{__version__}"
    sys_version = ""
    timeout = 30  # seconds without a byte from the caller

    def do_GET(self) -> None:
        """Answer any method; the name is what the standard library calls."""
        request = Request(self.command, unquote(urlsplit(self.path).path), self.headers, self.rfile)
        self.server.begin_request()
        try:
            self._send(answer_request(self.server, request))
        except RequestRefused as refusal:
            self.close_connection = True  # the body may lie unread
            self._send(format_json({"detail": refusal.detail}, refusal.status))
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the caller went away
        finally:
            self.server.end_request()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815 - the names that http.server calls

    def _send(self, answer: Answer) -> None:
        self.close_connection |= self.server.stopping.is_set()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
