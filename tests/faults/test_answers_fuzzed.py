"""Answers mutated at random: whatever comes, the steps end in time, with an error of ours or with a result."""

from __future__ import annotations

import random
import unicodedata
from typing import TYPE_CHECKING

import pytest

from buildkit.errors import RuntimeBuildError
from buildkit.runtime_api.following import read_tail
from tests.misbehaviour import send
from tests.runtime_api import KEY
from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    from pathlib import Path

    from tests.runtime_api import RuntimeApiServer
    from tests.steps import Steps

pytestmark = pytest.mark.fault

CASES_PER_SEED = 150
ANSWERS = [
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{"status":"SUCCESS"}',
    b'HTTP/1.1 201 Created\r\nContent-Length: 16\r\n\r\n{"build_id":"b"}',
    b"HTTP/1.1 429 X\r\nRetry-After: Tue, 24 Nov 2026 06:00:00 GMT\r\nDate: Tue, 24 Nov 2026 06:00:00 GMT\r\n\r\n{}",
    b"HTTP/1.1 307 X\r\nLocation: http://[::1]:80/x\r\nSet-Cookie: a=b; Max-Age=1\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip, deflate\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    b'HTTP/1.1 400 Bad\r\nContent-Length: 28\r\n\r\n{"detail":[{"loc":[1],"m":1}]}',
]
PIECES = [
    *(b"\r\n", b"\n", b"\0", b"\xff", b": ", b";", b"=", b"//", b"[::1", b"\x1b[31m", b"\xc2\x9b", b"\xe2\x80\xae"),
    *(b"HTTP/1.1", b"103", b"304", b"-1", b"99999999999999999999", b"1e400", b"Content-Length", b"chunked", b"gzip"),
    *(b"{", b"[", b'"', b"<", b"\\ud800", b"&#x0;", b"&#99999999999;", KEY.encode()),
]
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def mutate(data: bytes, draw: random.Random) -> bytes:
    mutated = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(mutated) + 1)
        kind = draw.random()
        if kind < 0.4:
            mutated[at:at] = draw.choice(PIECES)
        elif kind < 0.7:
            del mutated[at : at + draw.randint(0, 8)]
        elif kind < 0.9:
            mutated[at : at + 1] = bytes([draw.randrange(256)])
        else:
            mutated[at:at] = mutated[max(0, at - draw.randint(0, 60)) :]
    return bytes(mutated)


@pytest.mark.parametrize("seed", rest_is_slow(range(4), 1))
def test_mutated_answers_end_in_errors_of_ours_or_in_results(
    runtime_api: RuntimeApiServer, steps: Steps, tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(b"x" * 100)
    steps.limits = {"read_timeout_s": 0.5, "answer_timeout_s": 0.5}
    draw = random.Random(seed)
    said: list[str] = []
    for _ in range(CASES_PER_SEED):
        name = draw.choice(["GET /build_status", "POST /build", "GET /registry_prefix", "GET /build_logs"])
        runtime_api.script(name, send(mutate(draw.choice(ANSWERS), draw)))
        try:
            if name == "GET /build_status":
                said.append(repr(steps.poll(timeout_s=3)))
            elif name == "GET /build_logs":
                said += read_tail(steps.open_api(), "b", steps.ui)
            else:
                said.append(repr(steps.submit(archive, force=True)))
        except RuntimeBuildError as error:
            said.append(f"{error.message} {error.fix}")
    text = "".join([*said, *steps.reports, *steps.warnings])
    assert len(runtime_api.requests) >= CASES_PER_SEED
    assert KEY not in text + caplog.text
    assert "Traceback" not in caplog.text
    assert not {char for char in text if unicodedata.category(char) in UNSAFE and char != "\t"}
