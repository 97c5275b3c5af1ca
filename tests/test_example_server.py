"""The example server, started as its users start it and asked over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[1] / "examples" / "agent-server"
KEY = {"X-Session-API-Key": "a secret"}


@dataclass
class Running:
    """The process, and where it listens."""

    process: subprocess.Popen[str]
    port: int
    workspace: Path
    banner: str

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        status, content = self.ask_raw(method, path, body, **headers)
        return status, json.loads(content)

    def ask_raw(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def execute(self, command: str, **fields: object) -> tuple[int, Any]:
        return self.ask("POST", "/api/bash/execute", json.dumps({"command": command, **fields}).encode(), **KEY)


def start(workspace: Path, **environment: str) -> Running:
    process = subprocess.Popen(
        [sys.executable, "-m", "openhands.agent_server", "--port", "0"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(EXAMPLE),
            "OH_WORKSPACE_PATH": str(workspace),
            **environment,
        },
        cwd=workspace.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    banner = "".join(process.stdout.readline() for _ in range(4))
    found = re.search(r"http://127\.0\.0\.1:(\d+)", banner)
    assert found, banner
    return Running(process, int(found[1]), workspace, banner)


def stop(running: Running) -> int:
    running.process.send_signal(signal.SIGTERM)
    try:
        return running.process.wait(20)
    finally:
        running.process.kill()
        running.process.wait()
        assert running.process.stdout
        running.process.stdout.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    running = start(
        tmp_path / "workspace",
        SESSION_API_KEY=KEY["X-Session-API-Key"],
        OPENHANDS_BUILD_GIT_SHA="0506352",
        OPENHANDS_BUILD_GIT_REF="main",
    )
    yield running
    stop(running)


def test_shows_that_it_lives(server: Running) -> None:
    assert server.ask("GET", "/health") == (200, "OK")
    assert server.ask("GET", "/alive") == (200, {"status": "ok"})
    assert server.ask("GET", "/ready") == (200, {"status": "ready"})
    assert server.ask_raw("HEAD", "/health") == (200, b"")


def test_shows_what_it_was_built_from(server: Running) -> None:
    status, info = server.ask("GET", "/server_info")
    assert status == 200
    assert (info["git_sha"], info["git_ref"]) == ("0506352", "main")
    assert info["version"] == tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["version"]
    assert info["python_version"] == ".".join(map(str, sys.version_info[:3]))
    assert info["uptime"] >= 0


def test_serves_its_data_files(server: Running) -> None:
    status, page = server.ask_raw("GET", "/")
    assert (status, page) == (200, (EXAMPLE / "openhands/agent_server/static/index.html").read_bytes())
    assert "listening on" in server.banner
    assert "a secret" not in server.banner


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("POST", "/health", 405), ("GET", "/api/nothing", 401), ("DELETE", "/api/file/a", 401)],
)
def test_refuses_what_it_does_not_serve(server: Running, method: str, path: str, status: int) -> None:
    assert server.ask(method, path)[0] == status


@pytest.mark.parametrize("headers", [{}, {"X-Session-API-Key": ""}, {"X-Session-API-Key": "A secret"}])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/bash/execute"), ("GET", "/api/file/a"), ("PUT", "/api/file/a")]
)
def test_needs_the_session_key(server: Running, headers: dict[str, str], method: str, path: str) -> None:
    assert server.ask(method, path, b"{}" if method != "GET" else None, **headers)[0] == 401
    assert not (server.workspace / "a").exists()


def test_without_a_key_the_api_is_switched_off(tmp_path: Path) -> None:
    running = start(tmp_path / "workspace", SESSION_API_KEY="")
    try:
        assert running.ask("GET", "/health") == (200, "OK")
        assert running.ask("GET", "/api/file/a")[0] == 403
        assert running.ask("GET", "/api/file/a", None, **{"X-Session-API-Key": ""})[0] == 403
        assert running.execute("echo hello")[0] == 403
    finally:
        assert stop(running) == 0


def test_runs_a_command_in_the_workspace(server: Running) -> None:
    status, result = server.execute("pwd; echo oops >&2; exit 3")
    assert status == 200
    assert result == {
        "exit_code": 3,
        "stdout": f"{server.workspace}\n",
        "stderr": "oops\n",
        "timed_out": False,
        "truncated": False,
    }


def test_a_command_does_not_see_the_key(server: Running) -> None:
    assert "a secret" not in server.execute("env")[1]["stdout"]


def test_a_command_is_bounded_in_time(server: Running) -> None:
    result = server.execute("echo begun; sleep 600", timeout=0.5)[1]
    assert (result["timed_out"], result["exit_code"], result["stdout"]) == (True, -signal.SIGKILL, "begun\n")


def test_a_command_is_bounded_in_output(server: Running) -> None:
    result = server.execute("head -c 3000000 /dev/zero | tr '\\0' x")[1]
    assert (result["exit_code"], result["truncated"]) == (0, True)
    assert result["stdout"] == "x" * (1 << 20)


def test_what_a_command_leaves_behind_ends_with_it(server: Running) -> None:
    pid = int(server.execute("sleep 600 >/dev/null 2>&1 & echo $!")[1]["stdout"])
    assert (
        server.execute(f"kill -0 {pid}")[1]["exit_code"] != 0
        or "Z" in server.execute(f"ps -o stat= {pid}")[1]["stdout"]
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 50_000, 400),
        (b"\xff", 400),
        (b"[]", 422),
        (b'{"command": 1}', 422),
        (b'{"command": ""}', 422),
        (b'{"command": "a\\u0000b"}', 422),
        (b'{"command": "\\ud800"}', 422),
        (b'{"command": "true", "timeout": 0}', 422),
        (b'{"command": "true", "timeout": true}', 422),
        (b'{"command": "true", "timeout": NaN}', 422),
        (b'{"command": "true", "timeout": 601}', 422),
    ],
)
def test_refuses_a_bad_command(server: Running, body: bytes, status: int) -> None:
    assert server.ask("POST", "/api/bash/execute", body, **KEY)[0] == status
    assert server.ask("GET", "/health") == (200, "OK")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": "100001"}, 413),
        ({"Content-Length": "9" * 5000}, 413),
        ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "²"}, 400),
        ({"Transfer-Encoding": "chunked"}, 411),
        ({}, 411),
    ],
)
def test_takes_no_body_without_a_bound(server: Running, headers: dict[str, str], status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.putrequest("POST", "/api/bash/execute")
        for name, value in (KEY | headers).items():
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == status
    finally:
        connection.close()


def test_keeps_files(server: Running) -> None:
    content = bytes(range(256)) * 1000
    assert server.ask("PUT", "/api/file/a%20b/%C3%BC.bin", content, **KEY) == (201, {"size": len(content)})
    assert (server.workspace / "a b" / "ü.bin").read_bytes() == content
    assert server.ask_raw("GET", "/api/file/a%20b/%C3%BC.bin", None, **KEY) == (200, content)
    assert server.ask("PUT", "/api/file/a%20b/%C3%BC.bin", b"", **KEY) == (201, {"size": 0})
    assert [path.name for path in (server.workspace / "a b").iterdir()] == ["ü.bin"]


def test_files_stay_in_the_workspace(server: Running) -> None:
    outside = server.workspace.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("not yours")
    (server.workspace / "link").symlink_to(outside)
    (server.workspace / "loop").symlink_to("loop")
    for path in (
        "../outside/file",
        "%2e%2e/outside/file",
        f"/{outside}/file",
        f"{outside}/file",
        "link/file",
        "a/../../x",
    ):
        assert server.ask("GET", f"/api/file/{path}", None, **KEY)[0] == 403, path
        assert server.ask("PUT", f"/api/file/{path}", b"mine", **KEY)[0] == 403, path
    for path in ("", ".", "a/..", "%00"):
        assert server.ask("PUT", f"/api/file/{path}", b"mine", **KEY)[0] == 403, path
    assert server.ask("GET", "/api/file/loop", None, **KEY)[0] in {403, 404, 500}
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "not yours"


def test_says_what_is_wrong_with_a_file(server: Running) -> None:
    (server.workspace / "folder").mkdir()
    (server.workspace / "file").touch()
    assert server.ask("GET", "/api/file/missing", None, **KEY)[0] == 404
    assert server.ask("GET", "/api/file/folder", None, **KEY)[0] == 404
    assert server.ask("PUT", "/api/file/folder", b"", **KEY)[0] == 409
    assert server.ask("PUT", "/api/file/file/below", b"", **KEY)[0] == 409
    assert server.ask("PUT", f"/api/file/{'x' * 300}", b"", **KEY)[0] == 500
    os.mkfifo(server.workspace / "pipe")
    assert server.ask("GET", "/api/file/pipe", None, **KEY)[0] == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_stops_at_once_and_takes_its_commands_along(server: Running, number: signal.Signals) -> None:
    results: list[tuple[int, Any]] = []
    caller = threading.Thread(target=lambda: results.append(server.execute("touch begun; sleep 600; touch ended")))
    caller.start()
    while not (server.workspace / "begun").exists():
        caller.join(0.01)
        assert caller.is_alive()
    server.process.send_signal(number)
    assert server.process.wait(20) == 0
    caller.join(20)
    assert [(status, result["exit_code"]) for status, result in results] == [(200, -signal.SIGKILL)]


def test_says_that_a_port_is_taken(server: Running, tmp_path: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "openhands.agent_server", "--port", str(server.port)],
        env={"PYTHONPATH": str(EXAMPLE)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{server.port}" in second.stderr
    assert "Traceback" not in second.stderr


def test_lock_file_names_no_registry() -> None:
    assert "://" not in (EXAMPLE / "uv.lock").read_text()
