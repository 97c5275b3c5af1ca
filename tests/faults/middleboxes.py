"""Real middleboxes in front of the scripted server: nginx, haproxy and tinyproxy, configured by each test.

`tests/install.sh` installs them. Each listens on loopback, keeps its files in a folder of the test, and is gone when
the block ends.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_START_S = 10.0
_SBIN = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

_NGINX = """
daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 100m;
    {http}
    server {{
        listen 127.0.0.1:{port} {tls};
        {server}
    }}
}}
"""
_HAPROXY = """
defaults
    mode http
    timeout connect 2s
    timeout client 5s
    timeout server 5s
    {defaults}
frontend clients
    bind 127.0.0.1:{port}
    {frontend}
    default_backend runtime_api
backend runtime_api
    server scripted 127.0.0.1:{upstream}
"""
_TINYPROXY = """
Listen 127.0.0.1
Port {port}
Timeout 10
MaxClients 10
{lines}
"""


@contextmanager
def run_nginx(folder: Path, server: str, *, http: str = "", tls: bool = False) -> Iterator[int]:
    """Give the port of an nginx.

    Args:
        server: Directives of its only server.
        http: Directives around that.
        tls: Whether it speaks TLS; the certificate and the key are among the directives of the server.
    """
    port = _find_port()
    user = "" if os.geteuid() else "user root;"  # its workers must reach the test's folder
    text = _NGINX.format(folder=folder, port=port, server=server, http=http, tls="ssl" if tls else "", user=user)
    path = _write(folder / "nginx.conf", text)
    yield from _run([_find_program("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(path)], folder, port)


@contextmanager
def run_haproxy(folder: Path, upstream: int, *, defaults: str = "", frontend: str = "") -> Iterator[int]:
    """Give the port of a haproxy in front of a port, with more lines for two of its sections."""
    port = _find_port()
    text = _HAPROXY.format(port=port, upstream=upstream, defaults=defaults, frontend=frontend)
    path = _write(folder / "haproxy.cfg", text)
    yield from _run([_find_program("haproxy"), "-db", "-f", str(path)], folder, port)


@contextmanager
def run_tinyproxy(folder: Path, *lines: str) -> Iterator[int]:
    """Give the port of a tinyproxy, with more lines for its configuration."""
    port = _find_port()
    path = _write(folder / "tinyproxy.conf", _TINYPROXY.format(port=port, lines="\n".join(lines)))
    yield from _run([_find_program("tinyproxy"), "-d", "-c", str(path)], folder, port)


def _find_program(name: str) -> str:
    program = shutil.which(name, path=_SBIN)
    if program is None:
        reason = f"{name} is not installed; tests/install.sh installs it"
        if os.environ.get("RUNTIME_BUILD_REQUIRE_ENGINE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return program


def _find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _run(command: Sequence[str], folder: Path, port: int) -> Iterator[int]:
    log = folder / "middlebox.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            _wait_until_listening(process, port, log)
            yield port
        finally:
            process.terminate()
            process.wait(_START_S)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"{process.args!r} does not start: {log.read_text(errors='replace')}")
