"""The server through its socket: the wire protocol, its limits, and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import resource
import signal
import socket
import ssl
import tarfile
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import trustme

from buildkit.server.bodies import RefusalResponse, note_end_of_body
from buildkit.server.refusals import Refused
from tests.serving import DOCKERFILE, Served, format_json, format_multipart, pack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import Message, Scope

SLOW = f"{DOCKERFILE}RUN sleep 30\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that leave it as it is."""
    with Served(tmp_path_factory.mktemp("served")) as server:
        yield server


def list_stored(server: Served) -> list[str]:
    """Return the files of contexts, whole or not."""
    return sorted(path.name for path in (server.data / "contexts").rglob("*") if path.is_file())


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


def list_ids(server: Served) -> list[str]:
    return [build["build_id"] for build in server.call("GET", "/builds", limit="500").record["builds"]]


def wait_for_log(server: Served, build_id: str, text: str) -> None:
    """Wait until the log of a build holds the text."""
    deadline = time.monotonic() + 20
    while text.encode() not in server.call("GET", "/build_logs", build_id=build_id).body:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- the protocol ----------------------------------------------------------------------------------------------------


def test_json_is_answered_with_200_and_compact_json(served: Served) -> None:
    answer = served.post(format_json(pack()))
    assert answer.status == 200
    assert re.fullmatch(rb'{"build_id":"[^"]+"}', answer.body)
    state = served.wait(answer.record["build_id"])
    assert state["status"] == "SUCCESS"
    assert state["image"] == "app:1"
    assert "error" not in state


def test_multipart_is_answered_with_202_and_gives_every_tag(served: Served) -> None:
    answer = served.post(format_multipart(pack({"a": "1"}), "team/app:1", "team/app:2", "team/app:3"))
    assert answer.status == 202
    assert served.wait(answer.record["build_id"])["image"] == "team/app:1"
    for tag in ("1", "2", "3"):
        assert served.call("GET", "/image_exists", image=f"team/app:{tag}").record["exists"] is True


def test_doubled_slashes_are_tolerated_and_nothing_is_redirected(served: Served) -> None:
    body, content_type = format_json(pack())
    assert served.call("POST", "//build", body, {"Content-Type": content_type}).status == 200
    for path in ("//", "//health", "/health/", "/nothing/", "//builds//"):
        assert served.call("GET", path).status in {200, 404}


def test_an_image_exists_only_if_the_engine_says_so(served: Served) -> None:
    served.wait(served.build(target_image="known:1"))
    image = served.call("GET", "/image_exists", image="known:1").record["image"]
    assert isinstance(image["image_size_bytes"], int)
    assert image["upload_time"]
    assert served.call("GET", "/image_exists", image="unknown:1").record == {"exists": False}


def test_images_that_stay_in_the_engine_have_no_prefix(served: Served) -> None:
    assert served.call("GET", "/registry_prefix").status == 404


def test_a_failed_build_says_why(served: Served) -> None:
    state = served.wait(served.build(f"{DOCKERFILE}RUN fail\n"))
    assert state["status"] == "FAILURE"
    assert "it does not work" in state["error"]


def test_a_lost_engine_is_not_a_failed_build(served: Served) -> None:
    build_id = served.build(f"{DOCKERFILE}RUN lose\n")
    assert served.wait(build_id)["status"] == "SUCCESS"
    assert b"queued again" in served.call("GET", "/build_logs", build_id=build_id).body


def test_programs_get_the_features_without_a_key(served: Served) -> None:
    answer = served.call("GET", "/", headers={"X-API-Key": ""})
    assert answer.record["name"] == "runtime-build"
    assert {"idempotency", "contexts", "follow", "cancel"} <= set(answer.record["features"])


def test_health_and_metrics_need_no_key(served: Served) -> None:
    assert served.call("GET", "/health", headers={"X-API-Key": ""}).record["status"] == "ok"
    metrics = served.call("GET", "/metrics", headers={"X-API-Key": ""}).body.decode()
    assert re.search(r"^runtime_build_queued_builds \d+$", metrics, re.MULTILINE)


def test_builds_are_listed_newest_first_page_by_page(served: Served) -> None:
    made = [served.build(target_image=f"listed:{number}") for number in range(3)]
    first = served.call("GET", "/builds", image="listed", limit="2").record["builds"]
    assert [build["build_id"] for build in first] == made[:0:-1]
    rest = served.call("GET", "/builds", image="listed", before=made[1]).record["builds"]
    assert [build["build_id"] for build in rest] == made[:1]
    assert first[0]["owner"]
    assert "idempotency_key" not in first[0]
    assert served.call("GET", "/builds", limit="0").status == 422
    for build_id in made:
        served.wait(build_id)


def test_a_build_is_cancelled_and_built_again(served: Served) -> None:
    build_id = served.build(SLOW)
    served.wait(build_id, "RUNNING")
    assert served.call("POST", f"/builds/{build_id}/retry").status == 409
    assert served.call("POST", f"/builds/{build_id}/cancel").status == 200
    assert served.wait(build_id)["status"] == "CANCELLED"
    again = served.call("POST", f"/builds/{build_id}/retry").record["build_id"]
    assert again != build_id
    served.call("POST", f"/builds/{again}/cancel")
    assert served.wait(again)["status"] == "CANCELLED"


def test_one_idempotency_key_is_one_build(served: Served) -> None:
    answers = [served.post(format_json(pack()), Idempotency_Key="once") for _ in range(3)]
    assert len({answer.record["build_id"] for answer in answers}) == 1
    assert served.post(format_json(pack()), Idempotency_Key="two words").status == 422
    assert served.post(format_json(pack()), Idempotency_Key="another").record != answers[0].record


def test_a_source_is_sent_once_and_continued_by_the_context(served: Served) -> None:
    whole = pack({"src/main.py": "print(1)\n" * 100})
    source = split_source(whole)
    sha256 = hashlib.sha256(source).hexdigest()
    assert served.call("HEAD", f"/contexts/{sha256}").status == 404
    missing = served.post(format_json(pack(), context_sha256=sha256))
    assert missing.status == 409
    assert served.call("PUT", f"/contexts/{sha256}", b"not it").status == 422
    assert served.call("PUT", f"/contexts/{sha256}", source).status in {200, 201}
    assert served.call("HEAD", f"/contexts/{sha256}").status == 200
    answer = served.post(format_json(pack(), context_sha256=sha256))
    assert answer.status == 200
    assert served.wait(answer.record["build_id"])["status"] == "SUCCESS"


def split_source(archive: bytes) -> bytes:
    """Return a gzip member whose contents are the files of a tar, without the blocks that end one."""
    unpacked = gzip.decompress(archive)
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
        members = [member for member in tar if member.name != "Dockerfile"]
        pieces = [unpacked[m.offset : m.offset_data + -(-m.size // 512) * 512] for m in members]
    return gzip.compress(b"".join(pieces))


# --- logs ------------------------------------------------------------------------------------------------------------


def test_a_log_is_resumed_at_a_byte(served: Served) -> None:
    build_id = served.build(f"{DOCKERFILE}RUN print 100\n")
    served.wait(build_id)
    whole = served.call("GET", "/build_logs", build_id=build_id)
    assert whole.status == 200
    size = len(whole.body)
    part = served.call("GET", "/build_logs", headers={"Range": "bytes=100-"}, build_id=build_id)
    assert (part.status, part.body) == (206, whole.body[100:])
    assert part.headers["content-range"] == f"bytes 100-{size - 1}/{size}"
    few = served.call("GET", "/build_logs", headers={"Range": "bytes=5-9"}, build_id=build_id)
    assert few.body == whole.body[5:10]
    beyond = served.call("GET", "/build_logs", headers={"Range": f"bytes={size}-"}, build_id=build_id)
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size}")


def test_a_log_is_followed_to_its_end_and_resumed_after_an_event(served: Served) -> None:
    build_id = served.build(f"{DOCKERFILE}RUN print 2000\nRUN sleep 1\nRUN print 3\n")
    headers = {"Accept": "text/event-stream"}
    followed = served.call("GET", "/build_logs", headers=headers, build_id=build_id)
    assert followed.headers["content-type"].startswith("text/event-stream")
    text = served.call("GET", "/build_logs", build_id=build_id).body.decode()
    events = read_events(followed.body.decode())
    assert "\n".join(data for kind, _, data in events if kind != "end") + "\n" == text
    assert events[-1][0] == "end"
    assert json.loads(events[-1][2]) == {"status": "SUCCESS"}
    offset = events[0][1]
    rest = served.call("GET", "/build_logs", headers={**headers, "Last-Event-ID": str(offset)}, build_id=build_id)
    resumed = "\n".join(data for kind, _, data in read_events(rest.body.decode()) if kind != "end") + "\n"
    assert resumed.encode() == text.encode()[offset:]


def read_events(stream: str) -> list[tuple[str, int, str]]:
    """Return name, ID and data of each event."""
    events = []
    for block in stream.split("\n\n"):
        fields = [line.partition(": ")[::2] for line in block.split("\n")]
        data = [value for name, value in fields if name == "data"]
        if data:
            named = dict(fields)
            events.append((named.get("event", ""), int(named["id"]), "\n".join(data)))
    return events


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "target_image", "detail"),
    [
        (b"not gzip", "app:1", "gzip"),
        (gzip.compress(b"not a tar" * 200, mtime=0), "app:1", "tar"),
        (pack()[:-20], "app:1", ""),
        (pack({"../evil": "x"}), "app:1", "evil"),
        (pack(), "UPPER:1", "repository"),
        (pack(), "", ""),
        (pack(), f"app@sha256:{'0' * 64}", "digest"),
    ],
)
@pytest.mark.parametrize("form", [format_json, format_multipart])
def test_bad_input_is_refused_and_nothing_is_kept(
    served: Served, form: type, context: bytes, target_image: str, detail: str
) -> None:
    stored, builds = list_stored(served), list_ids(served)
    answer = served.post(form(context, target_image))
    assert answer.status == 422, answer
    assert detail in answer.record["detail"]
    assert list_stored(served) == stored
    assert list_ids(served) == builds


def test_a_context_without_a_dockerfile_is_refused(served: Served) -> None:
    archive = pack({"src/Dockerfile": "FROM a\n"}, dockerfile="")
    buffer = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as old,
        tarfile.open(fileobj=buffer, mode="w:gz") as new,
    ):
        for member in old:
            if member.name != "Dockerfile":
                new.addfile(member, old.extractfile(member))
    answer = served.post(format_json(buffer.getvalue()))
    assert answer.status == 422
    assert "Dockerfile" in answer.record["detail"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"[]", "application/json", 422),
        (b"", "application/json", 422),
        (b'{"target_image":"a"}', "application/json", 422),
        (b'{"context":1,"target_image":"a"}', "application/json", 422),
        (b"a=b", "application/x-www-form-urlencoded", 422),
        (b"--B--\r\n", "multipart/form-data; boundary=B", 422),
        (b"x", "multipart/form-data", 422),
        (b"x", "", 422),
    ],
)
def test_a_body_of_the_wrong_shape_is_refused(served: Served, body: bytes, content_type: str, status: int) -> None:
    answer = served.call("POST", "/build", body, {"Content-Type": content_type})
    assert answer.status == status
    assert answer.record["detail"]


@pytest.mark.parametrize("key", ["", "wrong", "\xff" * 20])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/build"), ("GET", "/build_status?build_id=a"), ("GET", "/builds"), ("PUT", f"/contexts/{'0' * 64}")],
)
def test_without_a_key_nothing_is_done(served: Served, method: str, path: str, key: str) -> None:
    body, content_type = format_json(pack({"big": bytes(300_000)}))
    answer = served.call(method, path, body, {"X-API-Key": key, "Content-Type": content_type})
    assert answer.status == 401
    assert "key" in answer.record["detail"].lower()


def test_unknown_builds_and_calls_are_404(served: Served) -> None:
    for path in ("/build_status?build_id=none", "/build_logs?build_id=none", "/nothing", "/contexts/short"):
        assert served.call("GET", path).status in {404, 405}
    assert served.call("POST", "/builds/none/cancel").status == 404
    assert served.call("POST", "/builds/none/retry").status == 404
    assert served.call("GET", "/build_status").status == 422
    assert served.call("GET", "/build").status == 405


def test_only_the_server_s_user_can_read_its_directory(served: Served) -> None:
    assert served.data.stat().st_mode & 0o777 == 0o700
    assert (served.data / ".gitignore").read_text().startswith("# Created by runtime-build")


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with Served(tmp_path, ("--max-bytes", "100000")) as server:
        head = f"POST /build HTTP/1.1\r\nHost: a\r\nX-API-Key: {server.key}\r\nContent-Type: application/json\r\n"
        response = talk(server, f"{head}Content-Length: 900000000\r\n\r\n".encode())
        assert response.startswith(b"HTTP/1.1 413 ")
        assert server.post(format_json(pack({"a": os.urandom(150_000)}))).status == 413
        assert list_stored(server) == []
        assert server.post(format_json(pack())).status == 200


def test_a_full_queue_is_429_and_keeps_nothing(tmp_path: Path) -> None:
    with Served(tmp_path, settings={"SERVE_QUEUE": "1", "SERVE_WORKERS": "1"}) as server:
        running = server.build(SLOW)
        server.wait(running, "RUNNING")
        queued = server.build(f"{SLOW}RUN print 1\n")
        stored = list_stored(server)
        answer = server.post(format_json(pack({"other": "context"})))
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) > 0
        assert list_stored(server) == stored
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
