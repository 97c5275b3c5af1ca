"""Rows 47 to 50 and 52 to 57: what can go wrong while a build is watched, and what a server may say."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from buildkit.errors import BuildFailed, RuntimeBuildError, StoppedWatching
from buildkit.models import BuildResult
from buildkit.workspace import Workspace
from tests.misbehaviour import (
    answer,
    answer_gzip_bomb,
    close_at_once,
    drip,
    reset_after,
    send,
    stay_silent,
)
from tests.runtime_api import KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.runtime_api import Exchange, RuntimeApiServer
    from tests.steps import Steps

pytestmark = pytest.mark.fault

STATUS = "GET /build_status"


def poll_in_vain(steps: Steps, **changes: Any) -> StoppedWatching:
    with pytest.raises(StoppedWatching) as caught:
        steps.poll(**changes)
    assert caught.value.exit_code == 7
    assert "runtime-build wait --build-id abc123" in caught.value.fix
    return caught.value


@pytest.mark.parametrize(
    "trouble",
    [
        *(answer(status, {"detail": "later"}) for status in (408, 425, 429, 500, 502, 503, 504, 599)),
        answer(429, headers={"Retry-After": "3"}),
        reset_after(0),
        close_at_once,
        stay_silent,
    ],
)
def test_47_poll_that_fails_is_made_again(
    runtime_api: RuntimeApiServer, steps: Steps, trouble: Callable[[Exchange], None]
) -> None:
    steps.limits["read_timeout_s"] = 0.2
    runtime_api.script(STATUS, *[trouble] * 3)
    assert steps.poll().status == "SUCCESS"
    assert runtime_api.count(STATUS) == 4
    assert len(steps.warnings) == 1
    first, _, third = steps.clock.pauses
    assert first >= 0.5
    assert third >= 2


def test_47_polls_that_keep_failing_end_at_the_deadline_with_growing_pauses(
    runtime_api: RuntimeApiServer, steps: Steps
) -> None:
    runtime_api.always(STATUS, answer(502, b"<h1>bad gateway</h1>"))
    error = poll_in_vain(steps)
    assert "the last poll failed: GET" in error.message
    assert "bad gateway" in error.message
    assert sum(steps.clock.pauses) == pytest.approx(1800, abs=0.05)
    assert runtime_api.count(STATUS) < 150


@pytest.mark.parametrize("status", [400, 401, 403, 405, 410, 422])
def test_48_refused_poll_ends_the_watching_at_once(runtime_api: RuntimeApiServer, steps: Steps, status: int) -> None:
    runtime_api.always(STATUS, answer(status, {"detail": "go away"}))
    assert "go away" in poll_in_vain(steps).message
    assert runtime_api.count(STATUS) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_48_redirected_poll_is_not_followed(runtime_api: RuntimeApiServer, steps: Steps, status: int) -> None:
    runtime_api.always(STATUS, answer(status, headers={"Location": f"{runtime_api.url}/elsewhere"}))
    poll_in_vain(steps)
    assert runtime_api.connections == 1


def test_48_unknown_id_has_a_minute_to_become_known(runtime_api: RuntimeApiServer, steps: Steps) -> None:
    runtime_api.script(STATUS, *[answer(404)] * 3)
    assert steps.poll().status == "SUCCESS"


def test_48_id_that_stays_unknown_ends_the_watching(runtime_api: RuntimeApiServer, steps: Steps) -> None:
    runtime_api.always(STATUS, answer(404, {"detail": "no such build"}))
    assert "does not know the build" in poll_in_vain(steps).message
    assert 60 <= sum(steps.clock.pauses) < 100


ODD_BODIES = [
    b"",
    b"<html><body>welcome</body></html>",
    b"[]",
    b"null",
    b'"SUCCESS"',
    b'{"status": "SUCCESS"',
    b'{"status": "SUCCESS", "image": NaN}',
    b'{"status": "SUCCESS", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b"\xef\xbb\xbf" + b'{"status": "SUCCESS"}',
    b'{"status": "SUCCESS", "x": ' + b"9" * 5000 + b"}",
    b'{"status": "\xff"}',
    b"\x00" * 100,
]


@pytest.mark.parametrize("body", ODD_BODIES, ids=range(len(ODD_BODIES)))
def test_49_answer_that_makes_no_sense_passes_or_ends_at_the_deadline(
    runtime_api: RuntimeApiServer, steps: Steps, body: bytes
) -> None:
    runtime_api.script(STATUS, answer(200, body))
    assert steps.poll().status == "SUCCESS"
    runtime_api.always(STATUS, answer(200, body))
    error = poll_in_vain(steps, timeout_s=20)
    assert "HTTP 200 OK, but it is not" in error.message


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\xff\xfe: \x00\r\nno colon\r\n\r\n[]",
    ],
)
def test_49_answer_that_is_not_even_http_passes(runtime_api: RuntimeApiServer, steps: Steps, sent: bytes) -> None:
    runtime_api.script(STATUS, send(sent))
    assert steps.poll().status == "SUCCESS"
    assert runtime_api.count(STATUS) == 2


def test_50_huge_answers_are_cut_off(runtime_api: RuntimeApiServer, steps: Steps) -> None:
    huge = b'{"status": "SUCCESS", "x": "' + b"x" * 20_000_000 + b'"}'
    runtime_api.script(
        STATUS,
        answer(200, huge),
        answer_gzip_bomb(50_000_000),
        answer(200, gzip.compress(gzip.compress(b" " * 50_000_000)), {"Content-Encoding": "gzip, gzip"}),
        answer_gzip_bomb(50_000_000, status=500),
    )
    tracemalloc.start()
    try:
        result = steps.poll()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.status == "SUCCESS"
    assert peak_bytes < 8_000_000
    assert "larger than 1 MiB" in steps.warnings[0]


DRIPPED = b"HTTP/1.1 200 OK\r\nX-Slow: " + b"y" * 200 + b'\r\nContent-Length: 200\r\n\r\n{"status": "SUCCESS", "x": "'


@pytest.mark.parametrize(
    "slow",
    [
        drip(DRIPPED, 0.05),
        send(DRIPPED, *[b"x"] * 200, pause_s=0.05),
        send(*[b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 50, pause_s=0.05),
        send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 200, pause_s=0.05),
    ],
    ids=["head", "body", "interim", "chunks"],
)
def test_50_drips_do_not_stretch_the_deadline_of_a_request(
    runtime_api: RuntimeApiServer, steps: Steps, slow: Callable[[Exchange], None]
) -> None:
    steps.limits["read_timeout_s"] = 0.4
    runtime_api.script(STATUS, slow)
    assert steps.poll().status == "SUCCESS"
    assert runtime_api.count(STATUS) == 2


def test_50_last_poll_does_not_overrun_the_limit(runtime_api: RuntimeApiServer, steps: Steps) -> None:
    runtime_api.always(STATUS, stay_silent)
    error = poll_in_vain(steps, timeout_s=0.3, clock=time.monotonic, sleep=time.sleep)
    assert "did not end within 0.3 s" in error.message


@pytest.mark.parametrize("body", [{"status": "WAITING"}, {"status": None}, {"status": 3}, {}, {"status": ["SUCCESS"]}])
def test_52_unknown_status_goes_on_and_is_told_once(runtime_api: RuntimeApiServer, steps: Steps, body: Any) -> None:
    runtime_api.script(STATUS, *[answer(200, body)] * 5)
    assert steps.poll().status == "SUCCESS"
    assert len(steps.warnings) == 1


@pytest.mark.parametrize("status", ["FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED"])
@pytest.mark.parametrize("error", [None, "", "step 3 failed", {"step": 3}, ["x"]])
def test_53_failed_build_is_exit_6_with_its_result(
    runtime_api: RuntimeApiServer, steps: Steps, output_dir: Path, status: str, error: Any
) -> None:
    runtime_api.always(STATUS, answer(200, {"status": status, "error": error}))
    with pytest.raises(BuildFailed) as caught:
        steps.wait(Workspace(output_dir))
    assert caught.value.exit_code == 6
    result = Workspace(output_dir).load(BuildResult)
    assert result.status == status
    assert (result.error is None) is not bool(error)
    assert f"ended as {status}" in caught.value.message
    assert "None" not in caught.value.message


@pytest.mark.parametrize("image", [None, "", [], "two words", "x\ny", "x" * 5000])
def test_54_success_without_an_image_keeps_the_requested_name(
    runtime_api: RuntimeApiServer, steps: Steps, image: Any
) -> None:
    runtime_api.always(STATUS, answer(200, {"status": "SUCCESS", "image": image}))
    result = steps.poll(target_image="registry.example.com/agent-server:1")
    assert result.image == "registry.example.com/agent-server:1"
    assert len(steps.warnings) == 1


def test_55_limit_keeps_the_id_and_waiting_resumes(runtime_api: RuntimeApiServer, steps: Steps) -> None:
    runtime_api.always(STATUS, answer(200, {"status": "RUNNING"}))
    poll_in_vain(steps)
    assert sum(steps.clock.pauses) == pytest.approx(1800, abs=0.05)
    runtime_api.always(STATUS, answer(200, {"status": "SUCCESS", "image": "r/i:t"}))
    assert steps.poll().image == "r/i:t"


def test_56_wall_clock_that_jumps_changes_nothing(
    runtime_api: RuntimeApiServer, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = iter(range(0, 10**9, 10**5))
    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))
    runtime_api.script(STATUS, *[answer(200, {"status": "RUNNING"})] * 10)
    result = steps.poll()
    assert result.status == "SUCCESS"
    assert result.elapsed_s == round(sum(steps.clock.pauses), 3) < 60


@pytest.mark.parametrize("hour", ["00", "06", "23"])
def test_56_date_to_come_back_is_measured_by_the_servers_own_clock(
    runtime_api: RuntimeApiServer, steps: Steps, hour: str
) -> None:
    headers = {"Date": f"Tue, 24 Nov 1970 {hour}:00:00 GMT", "Retry-After": f"Tue, 24 Nov 1970 {hour}:01:10 GMT"}
    runtime_api.script(STATUS, answer(503, headers=headers))
    assert steps.poll().status == "SUCCESS"
    assert steps.clock.pauses == [70]


EVIL = "\x1b[2J\x1b]0;title\x07a\rb\u202ec\x9b\u2028\ud800"


@pytest.mark.parametrize(
    "body",
    [
        {"status": "FAILURE", "error": EVIL},
        {"status": EVIL, "error": EVIL},
        {"status": "SUCCESS", "image": EVIL},
        {"status": "FAILURE", "error": {EVIL: EVIL}},
    ],
)
def test_57_control_characters_from_the_server_reach_no_terminal(
    runtime_api: RuntimeApiServer, steps: Steps, body: Any
) -> None:
    runtime_api.always(STATUS, answer(200, body))
    said = ""
    try:
        said += repr(steps.poll(timeout_s=10))
    except RuntimeBuildError as error:
        said += error.message + error.fix + str(getattr(error, "result", ""))
    said += "".join(steps.reports + steps.warnings).replace("✅", "").replace("🎉", "")
    assert said
    assert said.isprintable()


@pytest.mark.parametrize("name", ["GET /registry_prefix", "POST /build"])
@pytest.mark.parametrize("status", [200, 307, 400, 500])
def test_57_control_characters_in_any_answer_reach_no_terminal(
    runtime_api: RuntimeApiServer, steps: Steps, tmp_path: Path, name: str, status: int
) -> None:
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(b"x")
    body = {"detail": EVIL, "build_id": EVIL, "url": f"https://{EVIL}", "registry_prefix": EVIL, "key": KEY}
    runtime_api.always(name, answer(status, body, {"Location": "https://\x1b[31m/\x9b"}))
    with pytest.raises(RuntimeBuildError) as caught:
        steps.submit(archive)
    said = caught.value.message + caught.value.fix + "".join(steps.reports + steps.warnings)
    assert said.isprintable()
    assert KEY not in said
