"""Rows 33 to 46 and 51: what can go wrong from finding the server to having its build ID.

After each: the exit code, what is left of the intent, and how many builds the server has.
"""

from __future__ import annotations

import http
import json
import os
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from buildkit.errors import NotStarted, OutcomeUnknown, RuntimeBuildError
from buildkit.models import Submission
from tests.misbehaviour import (
    answer,
    close_after_body,
    refuse_early,
    reset_after,
    reset_after_body,
    send,
    stay_silent,
    stop_reading,
    tunnel_to,
)
from tests.runtime_api import KEY, RuntimeApiServer
from tests.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.runtime_api import Exchange

pytestmark = pytest.mark.fault

IMAGE = "registry.example.com/agent-server:1"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(os.urandom(300_000))
    return path


@pytest.fixture
def large_archive(tmp_path: Path) -> Path:
    """More than the kernel holds for a connection, so that a client can be stopped in the middle of it."""
    path = tmp_path / "large.tar.gz"
    path.write_bytes(os.urandom(1_000_000) * 12)
    return path


def submit_in_vain(steps: Steps, archive: Path) -> RuntimeBuildError:
    """Return the error of an upload that asks for nothing but the build."""
    with pytest.raises(RuntimeBuildError) as caught:
        steps.submit(archive, target_image=IMAGE)
    error = caught.value
    assert error.fix
    assert KEY not in f"{error.message} {error.fix}"
    return error


def assert_not_started(error: RuntimeBuildError, steps: Steps, server: RuntimeApiServer | None = None) -> None:
    assert isinstance(error, NotStarted)
    assert error.exit_code == 4
    assert steps.upload_state is None
    assert server is None or not server.builds


def assert_unknown(error: RuntimeBuildError, steps: Steps, server: RuntimeApiServer) -> None:
    assert isinstance(error, OutcomeUnknown)
    assert error.exit_code == 5
    assert steps.upload_state == "intent"
    assert server.count("POST /build") == 1


@contextmanager
def full_listener() -> Iterator[int]:
    """A port where connecting neither succeeds nor fails."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        port: int = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        yield port
        for one in waiting:
            one.close()


def test_33_refused_connection_is_tried_three_times(archive: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    steps = Steps(f"http://127.0.0.1:{port}")
    error = submit_in_vain(steps, archive)
    assert_not_started(error, steps)
    assert "Connection refused" in error.message
    first, second = steps.clock.pauses
    assert 0.5 <= first <= 1 <= second <= 2


def test_33_unknown_host_is_tried_three_times(archive: Path) -> None:
    steps = Steps("http://no-such-host.invalid")
    error = submit_in_vain(steps, archive)
    assert_not_started(error, steps)
    assert len(steps.clock.pauses) == 2


def test_33_connecting_has_a_limit_and_is_tried_three_times(archive: Path) -> None:
    with full_listener() as port:
        steps = Steps(f"http://127.0.0.1:{port}", limits={"connect_timeout_s": 0.2})
        error = submit_in_vain(steps, archive)
    assert_not_started(error, steps)
    assert "timed out" in error.message
    assert len(steps.clock.pauses) == 2


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_server(authority: trustme.CA) -> Callable[[str], RuntimeApiServer]:
    def serve(name: str) -> RuntimeApiServer:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        return RuntimeApiServer(tls=context)

    return serve


@pytest.mark.parametrize(("name", "is_trusted"), [("127.0.0.1", False), ("other.example.com", True)])
def test_34_certificate_that_is_wrong_means_one_handshake_and_no_request(
    tls_server: Callable[[str], RuntimeApiServer],
    authority: trustme.CA,
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    is_trusted: bool,
) -> None:
    with tls_server(name) as server, authority.cert_pem.tempfile() as bundle:
        if is_trusted:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
        steps = Steps(server.url)
        error = submit_in_vain(steps, archive)
        assert_not_started(error, steps, server)
        assert (server.connections, server.requests) == (1, [])
    assert "REQUESTS_CA_BUNDLE" in error.fix
    assert not steps.clock.pauses


def test_34_authority_from_the_environment_is_trusted(
    tls_server: Callable[[str], RuntimeApiServer],
    authority: trustme.CA,
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tls_server("127.0.0.1") as server, authority.cert_pem.tempfile() as bundle:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
        assert Steps(server.url).submit(archive).build_id == "build-1"


def test_34_server_without_tls_means_one_handshake(runtime_api: RuntimeApiServer, archive: Path) -> None:
    steps = Steps(runtime_api.url.replace("http:", "https:"))
    assert_not_started(submit_in_vain(steps, archive), steps, runtime_api)
    assert runtime_api.connections == 1


def test_35_proxy_that_is_down_is_named_without_its_password(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://me:pa55word@127.0.0.1:{port}")
    monkeypatch.setenv("http_proxy", f"http://me:pa55word@127.0.0.1:{port}")
    steps = Steps("http://runtime-api.example.com")
    error = submit_in_vain(steps, archive)
    assert_not_started(error, steps)
    assert f"through the proxy http://127.0.0.1:{port}" in error.message
    assert "pa55word" not in error.message


def test_35_proxy_from_the_environment_is_used(
    runtime_api: RuntimeApiServer, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", runtime_api.url)
    assert Steps("http://runtime-api.example.com").submit(archive).build_id == "build-1"
    assert {request.headers["host"] for request in runtime_api.requests} == {"runtime-api.example.com"}


def test_35_tunnel_through_a_proxy_is_used(
    runtime_api: RuntimeApiServer,
    tls_server: Callable[[str], RuntimeApiServer],
    authority: trustme.CA,
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tls_server("runtime-api.example.com") as server, authority.cert_pem.tempfile() as bundle:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
        monkeypatch.setenv("https_proxy", runtime_api.url.replace("//", "//me:pa55word@"))
        runtime_api.always("CONNECT runtime-api.example.com:443", tunnel_to(server.port))
        assert Steps("https://runtime-api.example.com").submit(archive).build_id == "build-1"
    assert {request.method for request in runtime_api.requests} == {"CONNECT"}
    assert not any("x-api-key" in request.headers for request in runtime_api.requests)


@pytest.mark.parametrize("status", [403, 407, 502])
def test_35_proxy_that_refuses_is_named_without_its_password(
    runtime_api: RuntimeApiServer, archive: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("https_proxy", runtime_api.url.replace("//", "//me:pa55word@"))
    runtime_api.always("CONNECT runtime-api.example.com:443", answer(status))
    steps = Steps("https://runtime-api.example.com")
    error = submit_in_vain(steps, archive)
    assert_not_started(error, steps)
    assert f"through the proxy {runtime_api.url}" in error.message
    assert f"{status}" in error.message
    assert "pa55word" not in error.message


def test_36_netrc_is_not_looked_at(
    runtime_api: RuntimeApiServer, steps: Steps, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password pa55word\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    steps.submit(archive)
    steps.poll()
    assert len(runtime_api.requests) == 3
    assert not any("authorization" in request.headers for request in runtime_api.requests)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_37_redirect_is_not_followed(runtime_api: RuntimeApiServer, steps: Steps, archive: Path, status: int) -> None:
    with RuntimeApiServer() as target:
        location = f"http://me:pa55word@localhost:{target.port}/build?token=t0ken"
        runtime_api.script("POST /build", answer(status, headers={"Location": location}))
        error = submit_in_vain(steps, archive)
        assert target.connections == 0
    assert_not_started(error, steps, runtime_api)
    assert runtime_api.connections == 1
    assert f"http://localhost:{target.port}" in error.message
    assert "pa55word" not in error.message
    assert "t0ken" not in error.message


@pytest.mark.parametrize("location", ["/login", "//[", "", "\x1b[31m", "javascript:alert(1)"])
def test_37_redirect_to_anywhere_odd_is_not_followed(
    runtime_api: RuntimeApiServer, steps: Steps, archive: Path, location: str
) -> None:
    runtime_api.script("POST /build", answer(307, headers={"Location": location}))
    assert_not_started(submit_in_vain(steps, archive), steps, runtime_api)
    assert runtime_api.connections == 1


@pytest.mark.parametrize("status", [203, 204, 206, 299, 302, 304, 307, 399, 418, 500, 502, 504, 508, 599, 999])
def test_38_status_that_says_nothing_leaves_the_outcome_unknown(
    runtime_api: RuntimeApiServer, steps: Steps, archive: Path, status: int
) -> None:
    runtime_api.script("POST /build", answer(status))
    assert_unknown(submit_in_vain(steps, archive), steps, runtime_api)


EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
ACCEPTED = b'HTTP/1.1 202 Accepted\r\nContent-Length: 16\r\n\r\n{"build_id":"b"}'


@pytest.mark.parametrize("interim", [EARLY_HINTS, b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"])
def test_38_interim_answer_is_not_the_answer(
    runtime_api: RuntimeApiServer, steps: Steps, archive: Path, interim: bytes
) -> None:
    runtime_api.script("POST /build", send(interim, interim, ACCEPTED))
    assert steps.submit(archive).build_id == "b"


@pytest.mark.parametrize("sent", [EARLY_HINTS, EARLY_HINTS * 500, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"])
def test_38_only_interim_answers_leave_the_outcome_unknown(
    runtime_api: RuntimeApiServer, steps: Steps, archive: Path, sent: bytes
) -> None:
    runtime_api.script("POST /build", send(sent))
    assert_unknown(submit_in_vain(steps, archive), steps, runtime_api)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_39_refusal_is_final_and_its_reason_is_shown(
    runtime_api: RuntimeApiServer, steps: Steps, archive: Path, status: int
) -> None:
    runtime_api.script("POST /build", answer(status, {"detail": f"because \x1b[31m {KEY} " + "x" * 100_000}))
    error = submit_in_vain(steps, archive)
    assert_not_started(error, steps, runtime_api)
    assert f"HTTP {status} {http.HTTPStatus(status).phrase}" in error.message
    assert "because \\x1b[31m ***" in error.message
    assert 2048 <= len(error.message.encode()) < 2048 + 300
    assert runtime_api.count("POST /build") == 1


def test_40_busy_server_is_asked_again_when_it_says(runtime_api: RuntimeApiServer, steps: Steps, archive: Path) -> None:
    date = {"Date": "Tue, 24 Nov 2026 06:00:00 GMT", "Retry-After": "Tue, 24 Nov 2026 06:01:30 GMT"}
    runtime_api.script("POST /build", answer(429, headers={"Retry-After": "7"}), answer(429, headers=date))
    assert steps.submit(archive).build_id == "build-1"
    assert steps.clock.pauses == [7, 90]
    assert len(runtime_api.builds) == 1


def test_40_too_long_a_pause_is_not_waited_for(runtime_api: RuntimeApiServer, steps: Steps, archive: Path) -> None:
    runtime_api.always("POST /build", answer(429, headers={"Retry-After": "86400"}))
    error = submit_in_vain(steps, archive)
    assert_not_started(error, steps, runtime_api)
    assert "86400 s" in error.message
    assert (runtime_api.count("POST /build"), steps.clock.pauses) == (1, [])


@pytest.mark.parametrize("headers", [{"Retry-After": "soon"}, {"Retry-After": "-1"}, {"Retry-After": "9" * 400}])
def test_40_pause_that_makes_no_sense_gives_way_to_our_own(
    runtime_api: RuntimeApiServer, steps: Steps, archive: Path, headers: dict[str, str]
) -> None:
    runtime_api.always("POST /build", answer(429, headers=headers))
    assert_not_started(submit_in_vain(steps, archive), steps, runtime_api)
    assert runtime_api.count("POST /build") == 6
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(steps.clock.pauses, [1, 2, 4, 8, 16], strict=True))


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_41_bad_gateway_on_post_is_not_repeated(
    runtime_api: RuntimeApiServer, steps: Steps, archive: Path, status: int
) -> None:
    def start_and_fail(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.server.start_build(exchange.request)
        exchange.answer(status, b"<html><h1>upstream</h1></html>")

    runtime_api.always("POST /build", start_and_fail)
    error = submit_in_vain(steps, archive)
    assert_unknown(error, steps, runtime_api)
    assert error.message.endswith(": upstream")
    assert len(runtime_api.builds) == 1


def test_42_reset_within_the_body_is_tried_again(
    runtime_api: RuntimeApiServer, steps: Steps, large_archive: Path
) -> None:
    runtime_api.script("POST /build", reset_after(0), reset_after(1_000_000))
    assert steps.submit(large_archive).build_id == "build-1"
    assert (len(runtime_api.builds), runtime_api.whole_bodies) == (1, 1)
    assert len(steps.clock.pauses) == 2


def test_42_reset_within_the_body_each_time_starts_nothing(
    runtime_api: RuntimeApiServer, steps: Steps, large_archive: Path
) -> None:
    runtime_api.always("POST /build", reset_after(500_000))
    assert_not_started(submit_in_vain(steps, large_archive), steps, runtime_api)
    assert (runtime_api.count("POST /build"), runtime_api.whole_bodies) == (3, 0)


@pytest.mark.parametrize("loss", [close_after_body, reset_after_body])
def test_43_answer_lost_after_the_body_is_unknown_and_not_repeated(
    runtime_api: RuntimeApiServer, steps: Steps, archive: Path, loss: Callable[[Exchange], None]
) -> None:
    runtime_api.always("POST /build", loss)
    assert_unknown(submit_in_vain(steps, archive), steps, runtime_api)
    with pytest.raises(OutcomeUnknown, match="its ID never arrived"):
        steps.submit(archive, target_image=IMAGE, previous=steps.saved[-1])
    assert len(runtime_api.builds) == 1


def test_43_silence_after_the_body_has_a_limit(runtime_api: RuntimeApiServer, steps: Steps, archive: Path) -> None:
    runtime_api.always("POST /build", stay_silent)
    steps.limits["answer_timeout_s"] = 0.3
    assert_unknown(submit_in_vain(steps, archive), steps, runtime_api)


@pytest.mark.parametrize("then", ["reset", "nothing"])
def test_44_early_refusal_is_seen_although_the_upload_breaks(
    runtime_api: RuntimeApiServer, steps: Steps, large_archive: Path, then: str
) -> None:
    runtime_api.always("POST /build", refuse_early(413, then=then))
    steps.limits["stall_timeout_s"] = 0.5
    error = submit_in_vain(steps, large_archive)
    assert_not_started(error, steps, runtime_api)
    assert "HTTP 413" in error.message
    assert "too large" in error.message
    assert "EXCLUDE" in error.fix
    assert runtime_api.count("POST /build") == 1


def test_45_server_that_stops_reading_is_given_up(
    runtime_api: RuntimeApiServer, steps: Steps, large_archive: Path
) -> None:
    runtime_api.always("POST /build", stop_reading)
    steps.limits["stall_timeout_s"] = 0.3
    error = submit_in_vain(steps, large_archive)
    assert_not_started(error, steps, runtime_api)
    assert "stopped reading after" in error.message
    assert "run `runtime-build upload` again" in error.fix
    assert runtime_api.count("POST /build") == 1


KILLED_WHILE_SAVING = """
import json, os, signal, sys
from dataclasses import asdict
from pathlib import Path
from tests.steps import Steps

url, large_archive, state = sys.argv[1:]

def save(submission):
    if submission.build_id:
        os.kill(os.getpid(), signal.SIGKILL)
    Path(state).write_text(json.dumps(asdict(submission)))

Steps(url).submit(Path(large_archive), save=save)
"""


def test_46_killed_before_the_id_is_saved_leaves_the_intent_which_blocks(
    runtime_api: RuntimeApiServer, steps: Steps, archive: Path, tmp_path: Path
) -> None:
    state = tmp_path / "upload.json"
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, runtime_api.url, str(archive), str(state)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    assert done.returncode == -9
    left = Submission(**json.loads(state.read_text()))
    assert (left.state, left.build_id) == ("intent", None)
    with pytest.raises(OutcomeUnknown):
        steps.submit(archive, previous=left)
    assert len(runtime_api.builds) == 1


@pytest.mark.parametrize(
    "build_id",
    [
        None,
        "",
        [],
        ["b"],
        {},
        {"id": "b"},
        True,
        1.5,
        "a b",
        "a\n",
        "\x1b[31m",
        "b" * 257,
        "\u0661",
        "\u202eb",
        "a?b",
        "\ud800",
        int("9" * 300),
        KEY,
    ],
)
def test_51_build_id_that_is_none_leaves_the_outcome_unknown(
    runtime_api: RuntimeApiServer, steps: Steps, archive: Path, build_id: Any
) -> None:
    runtime_api.script("POST /build", answer(200, {"build_id": build_id}))
    error = submit_in_vain(steps, archive)
    assert_unknown(error, steps, runtime_api)
    assert "without a usable build ID" in error.message


@pytest.mark.parametrize("build_id", ["abc123", 0, 42, "b" * 256, "projects/p/builds/1:2_3.4-5"])
def test_51_build_id_is_a_text_or_a_number(
    runtime_api: RuntimeApiServer, steps: Steps, archive: Path, build_id: str | int
) -> None:
    runtime_api.script("POST /build", answer(201, {"build_id": build_id}))
    assert steps.submit(archive).build_id == str(build_id)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b'{"build_id": NaN}', b"<html>", b'{"build_id": "b"'])
def test_51_acceptance_without_json_leaves_the_outcome_unknown(
    runtime_api: RuntimeApiServer, steps: Steps, archive: Path, body: bytes
) -> None:
    runtime_api.script("POST /build", answer(200, body))
    assert_unknown(submit_in_vain(steps, archive), steps, runtime_api)
