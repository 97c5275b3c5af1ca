"""Rows 33 to 56 through the real command: exit code, message, files left, builds started. Time is virtual here."""

from __future__ import annotations

import json
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.faults.conftest import count_builds
from tests.ledger import LEDGER
from tests.misbehaviour import (
    answer,
    answer_gzip_bomb,
    close_after_body,
    drip,
    refuse_early,
    reset,
    reset_after,
    reset_after_body,
    send,
    stop_reading,
)
from tests.runtime_api import KEY, RuntimeApiServer
from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.commands import Command, Ended
    from tests.runtime_api import Exchange

    Behaviour = Callable[[Exchange], None]

pytestmark = pytest.mark.fault

POST, STATUS = "POST /build", "GET /build_status"
VIRTUAL = {"virtual_time": True}
NOT_STARTED, UNKNOWN = 4, 5


def fail_upload(
    command: Command, server: RuntimeApiServer, code: int, *texts: str, started: int = 0, **settings: str
) -> Ended:
    """Run everything up to an upload that fails; the intent stays only where the outcome is not known."""
    command.use(server)
    run = command.run("all", order=VIRTUAL, **settings).expect(code, *texts)
    assert len(server.builds) == started
    assert (command.output / "upload.json").exists() == (code == UNKNOWN)
    if code == UNKNOWN:
        assert command.read_state("upload")["state"] == "intent"
        seen = len(server.requests)
        for task in ("upload", "all"):
            command.run(task, order=VIRTUAL).expect(UNKNOWN, "upload")
        # A question about the server's features is allowed: this server lists none.
        names = [request.name for request in server.requests[seen:] if request.name != "GET /"]
        assert not names, "what may have been started is not asked for again"
        command.run("upload", "--force", order=VIRTUAL).expect(0)
        count_builds(server, forced=started)
        server.builds.clear()
    else:
        command.run("upload", order=VIRTUAL).expect(0)
        assert len(server.builds) == 1
    return run


@pytest.mark.parametrize("first", ["prefix", "build"])
def test_33_refused_connection_starts_nothing(command: Command, first: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    more = {"TARGET_IMAGE": "a/b:c"} if first == "build" else {}
    address = {"RUNTIME_API_URL": f"http://127.0.0.1:{port}", "RUNTIME_API_KEY": KEY, **more}
    command.run("all", order=VIRTUAL, **address).expect(NOT_STARTED, "refused", f"127.0.0.1:{port}")
    assert not (command.output / "upload.json").exists()


def test_33_unknown_host_starts_nothing(command: Command) -> None:
    address = {"RUNTIME_API_URL": "https://no-such-host.invalid", "RUNTIME_API_KEY": KEY, "TARGET_IMAGE": "a/b:c"}
    command.run("all", order=VIRTUAL, **address).expect(NOT_STARTED, "no-such-host.invalid")
    assert not (command.output / "upload.json").exists()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("flaw", ["unknown authority", "other name"])
def test_34_wrong_certificate_means_one_handshake(command: Command, authority: trustme.CA, flaw: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1" if flaw == "unknown authority" else "other.example").configure_cert(context)
    bundle = command.world / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    trust = {"REQUESTS_CA_BUNDLE": str(bundle)} if flaw == "other name" else {}
    with RuntimeApiServer(tls=context) as server:
        command.use(server, TARGET_IMAGE="a/b:c", **trust)
        command.run("all", order=VIRTUAL).expect(NOT_STARTED, "ertificate", "REQUESTS_CA_BUNDLE")
        assert (server.connections, len(server.requests)) == (1, 0)
    assert not (command.output / "upload.json").exists()


def test_35_proxy_is_named_without_its_password(command: Command, server: RuntimeApiServer) -> None:
    command.use(server, RUNTIME_API_URL="http://runtime-api.example.com", ALLOW_HTTP="true")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    run = command.run("all", order=VIRTUAL, http_proxy=f"http://me:pass-of-proxy@127.0.0.1:{port}")
    run.expect(NOT_STARTED, "proxy", f"127.0.0.1:{port}")
    assert "pass-of-proxy" not in run.err
    assert not server.requests


def test_36_netrc_adds_no_authorization(command: Command, server: RuntimeApiServer) -> None:
    path = command.world / "home" / ".netrc"
    path.write_text("machine 127.0.0.1 login me password mine\ndefault login me password mine\n")
    path.chmod(0o600)
    command.use(server)
    command.run("all").expect(0)
    assert server.requests
    assert not [request for request in server.requests if "authorization" in request.headers]


@pytest.mark.parametrize("status", rest_is_slow([302, 307, 301, 303, 308], 2))
@pytest.mark.parametrize("name", [POST, STATUS, "GET /registry_prefix"])
def test_37_redirect_is_not_followed_and_its_target_scrubbed(
    command: Command, server: RuntimeApiServer, name: str, status: int
) -> None:
    with RuntimeApiServer() as other:
        location = f"http://me:secret-of-mine@localhost:{other.port}/path?token=secret-of-mine"
        server.script(name, answer(status, b"", {"Location": location}))
        command.use(server)
        run = command.run("all", order=VIRTUAL)
        LEDGER.foreign_requests += len(other.requests)
        assert not other.connections
    run.expect(7 if name == STATUS else NOT_STARTED, f"localhost:{other.port}")
    assert "secret-of-mine" not in run.err


@pytest.mark.parametrize(("status", "headers"), [(301, {}), (307, {}), (204, {}), (206, {}), (299, {}), (304, {})])
def test_38_status_that_says_nothing_is_unknown(
    command: Command, server: RuntimeApiServer, status: int, headers: dict[str, str]
) -> None:
    server.script(POST, answer(status, b"", headers))
    fail_upload(command, server, UNKNOWN, str(status))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_39_refusal_shows_the_detail_in_bounds(command: Command, server: RuntimeApiServer, status: int) -> None:
    server.script(POST, answer(status, {"detail": "the reason " + "x" * 100_000}))
    run = fail_upload(command, server, NOT_STARTED, f"HTTP {status}", "the reason")
    assert len(run.err) < 5000
    assert server.count(POST) == 2


@pytest.mark.parametrize(
    ("headers", "posts"),
    [({"Retry-After": "7"}, 6), ({"Retry-After": "4000"}, 1), ({"Retry-After": "soon"}, 6), ({}, 6)],
)
def test_40_busy_server_is_asked_again_within_reason(
    command: Command, server: RuntimeApiServer, headers: dict[str, str], posts: int
) -> None:
    server.script(POST, *[answer(429, {"detail": "busy"}, headers)] * posts)
    fail_upload(command, server, NOT_STARTED, "429")
    assert server.count(POST) == posts + 1


def test_40_unavailable_without_a_time_is_unknown(command: Command, server: RuntimeApiServer) -> None:
    server.script(POST, answer(503, b""))
    fail_upload(command, server, UNKNOWN, "503")


@pytest.mark.parametrize("status", [500, 502, 504])
def test_41_bad_gateway_on_post_is_not_repeated(command: Command, server: RuntimeApiServer, status: int) -> None:
    server.script(POST, answer(status, b"<html><h1>Bad Gateway</h1></html>"))
    fail_upload(command, server, UNKNOWN, str(status), "Bad Gateway")


def test_42_reset_within_the_body_is_tried_again(command: Command, server: RuntimeApiServer) -> None:
    (command.checkout / "openhands-sdk/openhands/sdk/big.bin").write_bytes(os.urandom(6_000_000))
    server.script(POST, reset_after(1000), reset_after(100_000))
    command.use(server)
    command.run("all", order=VIRTUAL).expect(0)
    assert (len(server.builds), server.whole_bodies) == (1, 1)


@pytest.mark.parametrize("behaviour", [close_after_body, reset_after_body], ids=["close", "reset"])
def test_43_answer_lost_after_the_body_is_unknown(
    command: Command, server: RuntimeApiServer, behaviour: Behaviour
) -> None:
    server.script(POST, behaviour)
    fail_upload(command, server, UNKNOWN, started=1)


@pytest.mark.parametrize("then", ["reset", pytest.param("nothing", marks=pytest.mark.slow)])
def test_44_early_refusal_is_seen(command: Command, server: RuntimeApiServer, then: str) -> None:
    (command.checkout / "openhands-sdk/openhands/sdk/big.bin").write_bytes(os.urandom(6_000_000))
    server.script(POST, refuse_early(413, then=then))
    run = fail_upload(command, server, NOT_STARTED, "413", "EXCLUDE")
    assert "roken pipe" not in run.err


@pytest.mark.slow
def test_45_server_that_stops_reading_is_given_up(command: Command, server: RuntimeApiServer) -> None:
    (command.checkout / "openhands-sdk/openhands/sdk/big.bin").write_bytes(os.urandom(20_000_000))
    server.script(POST, stop_reading)
    fail_upload(command, server, NOT_STARTED, "stopped reading", "runtime-build upload")


POLL_FAULTS = {
    "429": answer(429, b"", {"Retry-After": "3"}),
    "500": answer(500, b"x"),
    "502": answer(502, b"<html>"),
    "reset": lambda exchange: reset(exchange.connection),
    "html": answer(200, b"<html>maintenance</html>"),
    "array": answer(200, b"[]"),
    "null": answer(200, b"null"),
    "nan": answer(200, b'{"status": NaN}'),
    "deep": answer(200, b'{"a":' * 50_000),
    "bom": answer(200, b'\xef\xbb\xbf{"status": "SUCCESS"}'),
    "digits": answer(200, b'{"status": ' + b"9" * 5000 + b"}"),
    "truncated": answer(200, b'{"status": "SUC', {"Content-Length": "40"}),
    "surrogate": answer(200, b'{"status": "\\ud800"}'),
    "empty": answer(200, b""),
    "huge": answer(200, b'{"status": "' + b"x" * 3_000_000 + b'"}'),
    "bomb": answer_gzip_bomb(50_000_000),
    "no status": answer(200, {}),
    "odd status": answer(200, {"status": ["SUCCESS"]}),
    "unknown status": answer(200, {"status": "DREAMING"}),
    "garbage": send(b"\x00\x01\x02\r\n\r\n"),
    "404": answer(404, b"{}"),
}


NEVER_SENSIBLE = [name for name in POLL_FAULTS if name not in {"404", "huge", "bomb", "429"}]


@pytest.mark.parametrize("fault", rest_is_slow(POLL_FAULTS, 6))
def test_47_poll_that_fails_does_not_end_the_watch(command: Command, server: RuntimeApiServer, fault: str) -> None:
    server.script(STATUS, *[POLL_FAULTS[fault]] * 4)
    command.use(server)
    run = command.run("all", order=VIRTUAL).expect(0)
    assert run.err.count("warning: ") <= 1
    assert len(server.builds) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_48_refused_key_ends_the_watch_at_once(command: Command, server: RuntimeApiServer, status: int) -> None:
    server.always(STATUS, answer(status, b"{}"))
    command.use(server)
    command.run("all", order=VIRTUAL).expect(7, str(status), "wait --build-id build-1")
    assert server.count(STATUS) == 1
    assert command.read_state("upload")["build_id"] == "build-1"


def test_48_missing_build_has_a_minute(command: Command, server: RuntimeApiServer) -> None:
    server.always(STATUS, answer(404, b"{}"))
    command.use(server)
    command.run("all", order=VIRTUAL).expect(7, "does not know the build")
    assert server.count(STATUS) > 5


@pytest.mark.parametrize("fault", rest_is_slow(NEVER_SENSIBLE, 4))
def test_49_server_that_never_makes_sense_is_left_at_the_deadline(
    command: Command, server: RuntimeApiServer, fault: str
) -> None:
    server.always(STATUS, POLL_FAULTS[fault])
    command.use(server)
    command.run("all", order=VIRTUAL, BUILD_TIMEOUT="120").expect(7, "120 s", "wait --build-id build-1")
    assert len(server.builds) == 1


def test_50_drip_is_cut_at_the_limit_of_the_request(command: Command, server: RuntimeApiServer) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
    server.always(STATUS, drip(head + b" " * 5000, 0.05))
    command.use(server)
    run = command.run("all", BUILD_TIMEOUT="2").expect(7, "wait --build-id build-1")
    assert run.seconds < 20


BAD_IDS: list[Any] = [
    None,
    [],
    {},
    True,
    False,
    "",
    " ",
    "a b",
    "a\n",
    "\x1b",
    "x" * 257,
    1.5,
    "\u0661",
    "a?b",
    "a&b=c",
    [1],
    "\ud800",
]


@pytest.mark.parametrize("build_id", rest_is_slow(BAD_IDS, 6), ids=range(len(BAD_IDS)))
def test_51_unusable_build_id_is_unknown(command: Command, server: RuntimeApiServer, build_id: Any) -> None:
    server.script(POST, answer(200, {"build_id": build_id}))
    fail_upload(command, server, UNKNOWN, "build ID")


@pytest.mark.parametrize("build_id", [0, 17, "a-b_c.d:e/f", "x" * 256, 10**30])
def test_51_usable_build_id_is_kept_as_text(command: Command, server: RuntimeApiServer, build_id: Any) -> None:
    server.script(POST, answer(202, {"build_id": build_id}))
    command.use(server)
    command.run("all", order=VIRTUAL).expect(0)
    assert command.read_state("upload")["build_id"] == str(build_id)
    assert [request.query["build_id"] for request in server.requests if request.name == STATUS] == [str(build_id)]


def test_52_unknown_status_is_warned_of_once(command: Command, server: RuntimeApiServer) -> None:
    server.statuses.clear()
    server.statuses.extend(["DREAMING", "DREAMING", "WORKING", "DREAMING", "SUCCESS"])
    command.use(server)
    run = command.run("all", order=VIRTUAL).expect(0)
    assert run.err.count("warning: ") == 1


@pytest.mark.parametrize("status", ["FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED"])
@pytest.mark.parametrize("error", rest_is_slow(["out of memory", None, {"code": 1}, 0], 2))
def test_53_failed_build_is_recorded(command: Command, server: RuntimeApiServer, status: str, error: Any) -> None:
    server.statuses[0] = status
    server.error = error
    command.use(server)
    run = command.run("all", "--json").expect(6, status)
    state = command.read_state("wait")
    assert (state["status"], state["build_id"], state["image"]) == (status, "build-1", None)
    assert "None" not in run.err
    assert json.loads(run.out)["exit_code"] == 6
    assert "step 2" in run.err


def test_53_failed_build_may_be_asked_for_again(command: Command, server: RuntimeApiServer) -> None:
    server.statuses[0] = "FAILURE"
    command.use(server)
    command.run("all").expect(6)
    server.statuses[0] = "SUCCESS"
    command.run("all").expect(0)
    assert len(server.builds) == 2
    server.builds.pop()  # the first one had ended


@pytest.mark.parametrize("image", [None, "", 5, [], "a b", "\x1b"])
def test_54_success_without_an_image_keeps_the_requested_name(
    command: Command, server: RuntimeApiServer, image: Any
) -> None:
    server.always(STATUS, answer(200, {"status": "SUCCESS", "image": image}))
    command.use(server)
    run = command.run("all").expect(0, "warning: ")
    assert run.out.strip() == command.read_state("upload")["target_image"]


def test_55_half_an_hour_is_the_limit_and_wait_resumes(command: Command, server: RuntimeApiServer) -> None:
    server.statuses.clear()
    server.statuses.append("RUNNING")
    command.use(server)
    elapsed = command.world / "elapsed"
    run = command.run("all", order={**VIRTUAL, "elapsed": str(elapsed)}, changing=("elapsed",))
    run.expect(7, "1800 s", "RUNNING", "wait --build-id build-1")
    LEDGER.overrun_s = float(elapsed.read_text()) - 1800  # with the packing before it
    assert LEDGER.overrun_s < 30
    server.statuses.append("SUCCESS")
    LEDGER.resumable += 1
    assert command.run("wait", order=VIRTUAL).expect(0).out.strip()
    LEDGER.resumed += 1
    assert len(server.builds) == 1


@pytest.mark.parametrize("date", ["Wed, 01 Jan 2070 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_56_clock_of_the_server_does_not_matter(command: Command, server: RuntimeApiServer, date: str) -> None:
    after = date.replace("00:00:00", "00:00:05")
    server.script(POST, answer(429, b"{}", {"Date": date, "Retry-After": after}))
    server.script(STATUS, answer(429, b"{}", {"Date": date, "Retry-After": after}))
    command.use(server)
    elapsed = command.world / "elapsed"
    command.run("all", order={**VIRTUAL, "elapsed": str(elapsed)}, changing=("elapsed",)).expect(0)
    assert 10 <= float(elapsed.read_text()) < 60
