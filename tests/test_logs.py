"""Reading a build's log: any shape, made safe, and never the judge of a build."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest

from buildkit.runtime_api.client import RuntimeApi
from buildkit.runtime_api.following import TAIL_LINES, read_tail
from buildkit.runtime_api.log import format_line
from buildkit.runtime_api.retry import RequestFailed
from buildkit.secret import ApiKey
from buildkit.tasks.logs import read_logs
from tests.misbehaviour import answer, drip, reset_after, send
from tests.runtime_api import KEY, RuntimeApiServer
from tests.steps import KeptUi


@pytest.fixture
def api(runtime_api: RuntimeApiServer) -> RuntimeApi:
    return RuntimeApi(runtime_api.url, ApiKey(KEY))


@pytest.fixture
def ui() -> KeptUi:
    return KeptUi()


@pytest.mark.parametrize(
    "log",
    [
        b"step 1\nstep 2\n",
        b"step 1\r\nstep 2",
        b'{"message": "step 1"}\n{"log": "step 2\\n"}\n',
        b'{"logs": ["step 1", {"text": "step 2"}]}',
        b'{"logs": "step 1\\nstep 2"}',
        b'["step 1", "step 2"]',
        b'"step 1\\nstep 2"',
    ],
)
def test_text_and_json_lines_read_alike(api: RuntimeApi, runtime_api: RuntimeApiServer, ui: KeptUi, log: bytes) -> None:
    runtime_api.log = log
    assert list(read_logs(api, "b", ui)) == ["step 1", "step 2"]
    assert runtime_api.requests[-1].query == {"build_id": "b"}


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b[1;32mgreen\x1b[0m", "green"),
        ("\x1b]0;title\x07after", "after"),
        ("10%\r50%\r100%\r", "100%"),
        ("\x1b[", "\\x1b["),
        ("a\u202eb\x9bc\td", "a\\u202eb\\x9bc\td"),
        ("{not json", "{not json"),
        ('{"step": 3}', '{"step": 3}'),
        ("[" * 100_000, "[" * 100_000),
        (json.dumps({"message": "\x1b[31mred\x1b[0m\x07"}), "red\\x07"),
    ],
)
def test_line_is_safe_for_a_terminal(line: str, shown: str) -> None:
    assert list(format_line(line)) == [shown]


@pytest.mark.parametrize("status", [204, 404, 405, 501])
def test_server_without_logs_has_none(api: RuntimeApi, runtime_api: RuntimeApiServer, ui: KeptUi, status: int) -> None:
    runtime_api.always("GET /build_logs", answer(status))
    assert list(read_logs(api, "b", ui)) == []
    assert ui.reports == ["this Runtime API has no build logs"]
    assert read_tail(api, "b", ui) == []
    assert not ui.warnings


def test_refused_log_says_why(api: RuntimeApi, runtime_api: RuntimeApiServer, ui: KeptUi) -> None:
    runtime_api.always("GET /build_logs", answer(403, {"detail": "not yours"}))
    with pytest.raises(RequestFailed, match="not yours"):
        list(read_logs(api, "b", ui))


def test_log_that_breaks_off_shows_what_came(api: RuntimeApi, runtime_api: RuntimeApiServer, ui: KeptUi) -> None:
    runtime_api.always("GET /build_logs", send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nstep 1\nstep 2"))
    assert list(read_logs(api, "b", ui)) == ["step 1", "step 2", "(the log breaks off here)"]


def test_tail_is_the_end_of_the_log(api: RuntimeApi, runtime_api: RuntimeApiServer, ui: KeptUi) -> None:
    runtime_api.log = b"".join(b"line %d\n" % number for number in range(100_000))
    tail = read_tail(api, "b", ui)
    assert len(tail) == TAIL_LINES
    assert tail[-2:] == ["line 99998", "line 99999"]
    assert not ui.warnings


def test_tail_that_cannot_be_read_is_only_a_warning(api: RuntimeApi, runtime_api: RuntimeApiServer, ui: KeptUi) -> None:
    runtime_api.always("GET /build_logs", reset_after(0))
    assert read_tail(api, "b", ui) == []
    assert "the log cannot be read" in ui.warnings[0]


def test_key_in_a_log_is_masked(api: RuntimeApi, runtime_api: RuntimeApiServer, ui: KeptUi) -> None:
    runtime_api.log = f"key is {KEY}\n".encode()
    assert list(read_logs(api, "b", ui)) == ["key is ***"]


def test_log_without_line_breaks_does_not_fill_the_memory(
    api: RuntimeApi, runtime_api: RuntimeApiServer, ui: KeptUi
) -> None:
    runtime_api.log = b"x" * 5_000_000
    lines = list(read_logs(api, "b", ui))
    assert sum(map(len, lines)) == 5_000_000
    assert max(map(len, lines)) < 1_100_000


def test_lines_are_shown_while_the_log_is_still_arriving(
    api: RuntimeApi, runtime_api: RuntimeApiServer, ui: KeptUi
) -> None:
    runtime_api.always("GET /build_logs", send(b"HTTP/1.1 200 OK\r\n\r\n", *[b"step\n"] * 60, pause_s=0.1))
    started = time.monotonic()
    lines = read_logs(api, "b", ui)
    assert next(lines) == "step"
    del lines
    assert time.monotonic() - started < 3


def test_71_log_that_trickles_in_takes_no_longer_than_is_left(
    api: RuntimeApi, runtime_api: RuntimeApiServer, ui: KeptUi
) -> None:
    runtime_api.always("GET /build_logs", drip(b"HTTP/1.1 200 OK\r\n\r\nstep 1\n" + b"x" * 200, 0.02))
    started = time.monotonic()
    tail = read_tail(api, "b", ui, within_s=1)
    assert time.monotonic() - started < 2
    assert tail[0] == "step 1"
    assert tail[-1] == "(the log breaks off here)"


@pytest.mark.parametrize("within_s", [0, -5])
def test_71_log_is_not_fetched_when_no_time_is_left(
    api: RuntimeApi, runtime_api: RuntimeApiServer, ui: KeptUi, within_s: float
) -> None:
    assert read_tail(api, "b", ui, within_s=within_s) == []
    assert not runtime_api.connections


@pytest.mark.parametrize(
    "piece",
    [b"\0" * 524_288, b"x" * 524_287 + b"\n", pytest.param(b"\0" * 99 + b"\n", marks=pytest.mark.slow)],
    ids=["nul", "long", "short"],
)
def test_71_huge_log_is_cut_to_64_kib_in_flat_memory(
    api: RuntimeApi, runtime_api: RuntimeApiServer, ui: KeptUi, piece: bytes
) -> None:
    size_bytes = 64_000_000
    block = piece * (1_048_576 // len(piece))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(block) * (size_bytes // len(block)))
    runtime_api.always("GET /build_logs", send(head, *[block] * (size_bytes // len(block))))
    started = time.monotonic()
    tracemalloc.start()
    try:
        tail = read_tail(api, "b", ui)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < 12
    assert 0 < sum(len(line.encode()) + 1 for line in tail) <= 65_536
    assert peak_bytes < 24_000_000
