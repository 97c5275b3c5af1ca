"""How much memory the server takes: for a large context in either form, and for many readers of many logs."""

from __future__ import annotations

import base64
import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from benchmarks.serving import format_request, make_archive
from tests.serving import DOCKERFILE, Served

if TYPE_CHECKING:
    from http.client import HTTPConnection

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc"),
]

# A context whose peak depends on its size would need far more than this; the benchmark has 1 GB.
CONTEXT_MB = 200
MAX_OVER_IDLE, MAX_FOLLOWED = 64 << 20, 300 << 20
BUILDS, STREAMS, LINES = 50, 200, 500
EVENTS = {"Accept": "text/event-stream"}


def read_peak(server: Served) -> int:
    """Return the largest size that the server's process has had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize("form", ["json", "multipart"])
def test_a_large_context_takes_little_memory(form: str, tmp_path: Path) -> None:
    archive = base64.b64encode(b"".join(make_archive(CONTEXT_MB, is_text=False)))
    server = Served(tmp_path)
    server.install_engine()
    (server.engine / "down").touch()  # nothing is built
    server.start()
    try:
        idle = read_peak(server)
        parts = urlsplit(server.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
            for piece in format_request(form, archive, server.key):
                connection.sendall(piece)
            response = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b'{"build_id":"' in response
        [stored] = (server.data / "contexts").iterdir()
        assert stored.stat().st_size == len(base64.b64decode(archive))
        assert read_peak(server) - idle < MAX_OVER_IDLE
    finally:
        server.stop()


def test_many_readers_of_many_logs_take_little_memory(tmp_path: Path) -> None:
    with Served(tmp_path, settings={"SERVE_WORKERS": "4"}) as server:
        builds = [server.build(f"{DOCKERFILE}RUN print {LINES}\n", f"app:{number}") for number in range(BUILDS)]
        logs: list[bytes] = []
        streams = [server.connect() for _ in range(STREAMS)]
        for number, stream in enumerate(streams):
            build_id = builds[number % BUILDS]
            stream.request("GET", f"/build_logs?build_id={build_id}", headers={"X-API-Key": server.key, **EVENTS})
        readers = [threading.Thread(target=lambda it=it: logs.append(read_all(it))) for it in streams]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert len(logs) == STREAMS
        assert all(b"event: end" in log and f"row {LINES - 1}\n".encode() in log for log in logs)
        assert read_peak(server) < MAX_FOLLOWED


def read_all(stream: HTTPConnection) -> bytes:
    with closing(stream), stream.getresponse() as response:
        return response.read()
