"""Reading a build's log: any shape, made safe, and never the judge of a build."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from buildkit.runtime_api.client import RuntimeApi
from buildkit.runtime_api.policy import RequestFailed
from buildkit.secret import ApiKey
from buildkit.steps.logs import format_line, read_logs, read_tail
from tests.misbehaviour import answer, reset_after, send
from tests.runtime_api import KEY, RuntimeApiServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def api(runtime_api: RuntimeApiServer) -> Iterator[RuntimeApi]:
    with RuntimeApi(runtime_api.url, ApiKey(KEY)) as client:
        yield client


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
def test_text_and_json_lines_read_alike(api: RuntimeApi, runtime_api: RuntimeApiServer, log: bytes) -> None:
    runtime_api.log = log
    assert list(read_logs(api, "b") or ()) == ["step 1", "step 2"]
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
def test_server_without_logs_has_none(api: RuntimeApi, runtime_api: RuntimeApiServer, status: int) -> None:
    runtime_api.always("GET /build_logs", answer(status))
    assert read_logs(api, "b") is None
    assert read_tail(api, "b", warn=pytest.fail) == []


def test_refused_log_says_why(api: RuntimeApi, runtime_api: RuntimeApiServer) -> None:
    runtime_api.always("GET /build_logs", answer(403, {"detail": "not yours"}))
    with pytest.raises(RequestFailed, match="not yours"):
        read_logs(api, "b")


def test_log_that_breaks_off_shows_what_came(api: RuntimeApi, runtime_api: RuntimeApiServer) -> None:
    runtime_api.always("GET /build_logs", send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nstep 1\nstep 2"))
    assert list(read_logs(api, "b") or ()) == ["step 1", "step 2", "(the log breaks off here)"]


def test_tail_is_the_end_of_the_log(api: RuntimeApi, runtime_api: RuntimeApiServer) -> None:
    runtime_api.log = b"".join(b"line %d\n" % number for number in range(100_000))
    assert read_tail(api, "b", warn=pytest.fail, line_limit=2) == ["line 99998", "line 99999"]


def test_tail_that_cannot_be_read_is_only_a_warning(api: RuntimeApi, runtime_api: RuntimeApiServer) -> None:
    runtime_api.always("GET /build_logs", reset_after(0))
    warnings: list[str] = []
    assert read_tail(api, "b", warn=warnings.append) == []
    assert "the log cannot be read" in warnings[0]


def test_key_in_a_log_is_masked(api: RuntimeApi, runtime_api: RuntimeApiServer) -> None:
    runtime_api.log = f"key is {KEY}\n".encode()
    assert list(read_logs(api, "b") or ()) == ["key is ***"]


def test_log_without_line_breaks_does_not_fill_the_memory(api: RuntimeApi, runtime_api: RuntimeApiServer) -> None:
    runtime_api.log = b"x" * 5_000_000
    lines = list(read_logs(api, "b") or ())
    assert sum(map(len, lines)) == 5_000_000
    assert max(map(len, lines)) < 1_100_000
