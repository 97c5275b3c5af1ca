"""The server as a process: its limits, its connections, and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
import ssl
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import trustme

from buildkit.server.bodies import RefusalResponse, note_end_of_body
from buildkit.server.refusals import Refused
from tests.serving import DOCKERFILE, SLOW, Served, format_json, format_multipart, pack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import Message, Scope


def talk(server: Served, *pieces: bytes, pause_s: float = 0.0, timeout_s: float = 20.0) -> bytes:
    """Send bytes as they are, and return what comes back until the connection is closed."""
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout_s) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause_s)
        received = b""
        while data := connection.recv(65536):
            received += data
        return received


def wait_for_log(server: Served, build_id: str, text: str) -> None:
    """Wait until the log of a build holds the text."""
    deadline = time.monotonic() + 20
    while text.encode() not in server.call("GET", "/build_logs", build_id=build_id).body:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with Served(tmp_path, ("--max-bytes", "100000")) as server:
        head = f"POST /build HTTP/1.1\r\nHost: a\r\nX-API-Key: {server.key}\r\nContent-Type: application/json\r\n"
        response = talk(server, f"{head}Content-Length: 900000000\r\n\r\n".encode())
        assert response.startswith(b"HTTP/1.1 413 ")
        assert server.post(format_json(pack({"a": os.urandom(150_000)}))).status == 413
        assert server.list_stored() == []
        assert server.post(format_json(pack())).status == 200


def test_a_full_queue_is_429_and_keeps_nothing(tmp_path: Path) -> None:
    with Served(tmp_path, settings={"SERVE_QUEUE": "1", "SERVE_WORKERS": "1"}) as server:
        running = server.build(SLOW)
        server.wait(running, "RUNNING")
        queued = server.build(f"{SLOW}RUN print 1\n")
        stored = server.list_stored()
        answer = server.post(format_json(pack({"other": "context"})))
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) > 0
        assert server.list_stored() == stored
        assert server.status(queued)["queue_position"] == 1
        for build_id in (queued, running):
            server.call("POST", f"/builds/{build_id}/cancel")
        assert server.wait(running)["status"] == "CANCELLED"


def test_builds_time_out_and_expire(tmp_path: Path) -> None:
    flags = ("--build-timeout", "3", "--queue-timeout", "1")
    with Served(tmp_path, flags, {"SERVE_WORKERS": "1"}) as server:
        running = server.build(SLOW)
        wait_for_log(server, running, "RUN sleep")
        (server.engine / "down").touch()  # whatever waits goes on waiting
        waiting = server.build()
        assert server.wait(running)["status"] == "TIMEOUT"
        assert server.wait(waiting)["status"] == "EXPIRED"


def test_without_room_on_the_disk_no_build_is_accepted(tmp_path: Path) -> None:
    with Served(tmp_path, ("--keep-free", "900000000000000")) as server:
        answer = server.post(format_json(pack()))
        assert answer.status == 507
        assert "disk" in answer.record["detail"]


def test_names_outside_the_prefix_are_refused(tmp_path: Path) -> None:
    with Served(tmp_path, settings={"REGISTRY_PREFIX": "localhost:1/team"}) as server:
        assert server.call("GET", "/registry_prefix").record == {"registry_prefix": "localhost:1/team"}
        for name in ("app:1", "localhost:1/team2/app:1", "localhost:2/team/app", "localhost:1/team"):
            answer = server.post(format_multipart(pack(), name))
            assert (answer.status, "localhost:1/team/" in answer.record["detail"]) == (422, True)
        assert server.post(format_multipart(pack(), "localhost:1/team/app:1", "elsewhere:1")).status == 422
        accepted = server.post(format_multipart(pack(), "localhost:1/team/app:1"))
        assert server.wait(accepted.record["build_id"])["status"] == "SUCCESS"
        assert (server.engine / "pushed").read_text() == "localhost:1/team/app:1\n"
        assert server.call("GET", "/image_exists", image="localhost:1/team/app:1").status == 503


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate, its key, and the authority that vouches for it."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return folder


@pytest.fixture(params=["http", "https"])
def listening(request: pytest.FixtureRequest, certificate: Path, tmp_path: Path) -> Iterator[Served]:
    """A server with and without TLS."""
    if request.param == "http":
        flags: tuple[str, ...] = ()
    else:
        pem = str(certificate / "server.pem")
        flags = ("--tls-cert", pem, "--tls-key", pem)
    with Served(tmp_path, flags, authority=certificate / "authority.pem") as server:
        assert server.url.startswith(f"{request.param}://")
        yield server


def test_connections_that_send_no_request_do_not_keep_others_out(listening: Served) -> None:
    parts = urlsplit(listening.url)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    beginnings = (b"", b"P", b"POST /build HTTP/1.1\r\nHost: a\r\n", b"\x16\x03\x01\x02\x00\x01")
    with contextlib.ExitStack() as idle:
        for number in range(1500):
            connection = idle.enter_context(socket.create_connection((parts.hostname, parts.port), 5))
            with contextlib.suppress(ConnectionError):
                connection.sendall(beginnings[number % len(beginnings)])
        assert listening.call("GET", "/health").status == 200
        assert len(os.listdir(f"/proc/{listening.process.pid}/fd")) < 400


def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered(certificate: Path, tmp_path: Path) -> None:
    pem = str(certificate / "server.pem")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.create_default_context(cafile=certificate / "authority.pem")
    tls = trusting.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with Served(tmp_path, ("--tls-cert", pem, "--tls-key", pem)) as server:
        parts = urlsplit(server.url)
        with socket.create_connection((parts.hostname, parts.port), 20) as connection:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    incoming.write(connection.recv(65536))
            tls.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            connection.sendall(outgoing.read())
            answer = b""
            while b"\r\n\r\n" not in answer:
                incoming.write(connection.recv(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    answer += tls.read()
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_server_with_idle_connections_stops_at_once(listening: Served) -> None:
    parts = urlsplit(listening.url)
    with contextlib.ExitStack() as idle:
        for beginning in (b"", b"P", b"\x16\x03\x01\x02\x00\x01"):
            idle.enter_context(socket.create_connection((parts.hostname, parts.port), 5)).sendall(beginning)
        assert listening.call("GET", "/health").status == 200
        listening.process.terminate()
        assert listening.process.wait(10) == 0


def test_a_context_is_uploaded_and_its_log_followed_over_either_scheme(listening: Served) -> None:
    build_id = listening.post(format_json(pack({"a": os.urandom(3_000_000)}))).record["build_id"]
    assert listening.wait(build_id)["status"] == "SUCCESS"
    headers = {"Accept": "text/event-stream"}
    assert b"event: end" in listening.call("GET", "/build_logs", headers=headers, build_id=build_id).body


@pytest.mark.slow
def test_a_body_that_never_ends_is_given_up(tmp_path: Path) -> None:
    with Served(tmp_path) as server:
        head = f"POST /build HTTP/1.1\r\nHost: a\r\nX-API-Key: {server.key}\r\nContent-Type: application/json\r\n"
        response = talk(server, f"{head}Content-Length: 5000\r\n\r\n".encode(), *[b" "] * 65, pause_s=1.0)
        assert response.startswith(b"HTTP/1.1 408 ")


# --- life ------------------------------------------------------------------------------------------------------------


def test_sigterm_puts_running_builds_back_and_is_quick(tmp_path: Path) -> None:
    with Served(tmp_path) as server:
        build_id = server.build(f"{DOCKERFILE}RUN sleep 3\n")
        server.wait(build_id, "RUNNING")
        stream = threading.Thread(
            target=lambda: server.call("GET", "/build_logs", headers={"Accept": "text/event-stream"}, build_id=build_id)
        )
        stream.start()
        time.sleep(0.3)
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10
        stream.join()
        server.start()
        assert server.wait(build_id)["status"] == "SUCCESS"


def test_a_killed_server_loses_and_repeats_nothing(tmp_path: Path) -> None:
    with Served(tmp_path) as server:
        answer = server.post(format_json(pack(dockerfile=f"{DOCKERFILE}RUN sleep 2\n")), Idempotency_Key="k")
        build_id = answer.record["build_id"]
        server.wait(build_id, "RUNNING")
        server.stop(signal.SIGKILL)
        server.start()
        assert server.post(format_json(pack()), Idempotency_Key="k").record["build_id"] == build_id
        assert server.wait(build_id)["status"] == "SUCCESS"
        log = server.call("GET", "/build_logs", build_id=build_id).body
        assert b"the server was killed" in log


def test_an_engine_that_is_missing_at_start_up_is_waited_for(tmp_path: Path) -> None:
    server = Served(tmp_path)
    server.install_engine()
    (server.engine / "down").touch()
    server.start()
    try:
        build_id = server.build()
        assert server.status(build_id)["status"] == "QUEUED"
        (builder,) = server.call("GET", "/health").record["builders"]
        assert "Cannot connect" in builder["problem"] or "responded" in builder["problem"]
        assert server.call("GET", "/image_exists", image="a").status == 503
        (server.engine / "down").unlink()
        assert server.wait(build_id)["status"] == "SUCCESS"
    finally:
        server.stop()


def test_more_keys_can_be_created_while_it_runs(tmp_path: Path) -> None:
    with Served(tmp_path) as server:
        ended = server.run("--new-key", "second")
        assert ended.returncode == 0
        key = ended.stdout.strip()
        assert server.call("GET", "/builds", headers={"X-API-Key": key}).status == 200
        build_id = server.post(format_json(pack()), X_API_Key=key).record["build_id"]
        (build,) = server.call("GET", "/builds").record["builds"]
        assert (build["build_id"], build["owner"]) == (build_id, "second")


def test_a_server_needs_no_url_with_its_key(tmp_path: Path) -> None:
    key = "only-the-server-knows-this-key"
    with Served(tmp_path, settings={"RUNTIME_API_KEY": key}) as server:
        assert "created a key" not in server.read_err()
        assert server.call("GET", "/builds").status == 200


def test_two_servers_do_not_share_a_directory(tmp_path: Path) -> None:
    with Served(tmp_path) as server:
        ended = server.run()
        assert ended.returncode == 3
        assert "SERVE_DATA" in ended.stderr


@pytest.mark.parametrize(
    ("settings", "flags", "text"),
    [
        ({"SERVE_HOST": "0.0.0.0"}, (), "without TLS"),
        ({}, ("--tls-cert", "a.pem"), "--tls-key"),
        ({}, ("--tls-cert", "a.pem", "--tls-key", "b.pem"), "TLS certificate"),
        ({"SERVE_HOST": "192.0.2.1"}, ("--behind-proxy",), "cannot listen on 192.0.2.1"),
        ({"REGISTRY_PREFIX": "Not A Registry"}, (), "REGISTRY_PREFIX"),
        ({"SERVE_DATA": "."}, (), "SERVE_DATA"),
        ({}, ("--max-bytes", "many"), "set --max-bytes to a whole number from 0 to 1000000000000000"),
        ({}, ("--keep-days", "-1"), "set --keep-days to a number from 0 to 100000"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(
    tmp_path: Path, settings: dict[str, str], flags: tuple[str, ...], text: str
) -> None:
    server = Served(tmp_path, settings=settings)
    server.install_engine()
    ended = server.run(*flags)
    assert ended.returncode in {2, 3}
    assert text in ended.stderr
    assert ended.stdout == ""
    assert re.search(r"^error: .+\nfix:   .+$", ended.stderr, re.MULTILINE)


def test_a_refusal_waits_for_the_rest_of_a_body_only_if_there_is_one() -> None:
    sent: list[Message] = []
    scope: Scope = {"type": "http", "method": "POST", "path": "/build", "headers": []}
    pieces = [{"type": "http.request", "body": b"a", "more_body": more} for more in (True, True, False)]

    async def receive() -> Message:
        return pieces.pop(0)  # a fourth piece would be an error

    async def send(message: Message) -> None:
        sent.append(message)

    async def refuse_twice() -> None:
        refusal, noted = RefusalResponse(Refused(HTTPStatus.CONFLICT, "no")), note_end_of_body(scope, receive)
        await noted()
        await refusal(scope, noted, send)
        await RefusalResponse(Refused(HTTPStatus.CONFLICT, "no"))(scope, noted, send)

    asyncio.run(refuse_twice())
    assert not pieces
    assert [message["status"] for message in sent if "status" in message] == [409, 409]
