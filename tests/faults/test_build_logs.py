"""Row 71: logs of failed builds that trickle, never end or have no lines: the command still ends, small and in time."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.misbehaviour import send
from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.commands import Command, Ended
    from tests.runtime_api import Exchange, RuntimeApiServer

    Behaviour = Callable[[Exchange], None]

pytestmark = pytest.mark.fault

LOGS = "GET /build_logs"
LIMIT_S, LIMIT_BYTES, LIMIT_KIB = 10.0, 64 * 1024, 48 * 1024
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
MEBIBYTE = 1 << 20
# The command, which writes the most memory that it ever had, in KiB, to the file named by its first argument.
MEASURE = """
import atexit, pathlib, resource, sys
from buildkit.__main__ import main
path = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: path.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)))
main()
"""


def stream(piece: bytes, total_bytes: int = 64 * MEBIBYTE, pause_s: float = 0) -> Behaviour:
    """Send a log of that size, made of one piece over and over."""
    return send(HEAD, *[piece] * (total_bytes // len(piece)), pause_s=pause_s)


LOG_FAULTS = {
    "NULs": stream(bytes(MEBIBYTE)),
    "escapes": stream(b"\x1b" * MEBIBYTE),
    "half a mebibyte a line": stream(b"x" * (MEBIBYTE // 2) + b"\n"),
    "carriage returns": stream(b"x\r" * (MEBIBYTE // 2)),
    "empty lines": stream(b"\n" * MEBIBYTE),
    "brackets": stream(b"[" * MEBIBYTE),
    "unfinished window titles": stream(b"\x1b]0;x" * (MEBIBYTE // 5)),
    "characters of four bytes": stream("\U0001f389".encode() * (MEBIBYTE // 4)),
    "deep JSON lines": stream(b'{"message":' * 40_000 + b"1" + b"}" * 40_000 + b"\n", 8 * MEBIBYTE),
    "JSON with everything in it": stream(b'{"logs": [' + b'"line",' * 200_000 + b'"end"]}\n', 8 * MEBIBYTE),
    "trickle": stream(b".", 10_000, pause_s=0.05),
    "trickle of lines": stream(b"line\n", 10_000, pause_s=0.05),
    "silence": send(HEAD, pause_s=30),
    "no head": lambda exchange: exchange.wait_for_end(),
    "head that trickles": send(*(bytes([byte]) for byte in HEAD * 100), pause_s=0.1),
}
ENDLESS = {"trickle", "trickle of lines", "silence", "no head", "head that trickles"}
SLOW = ENDLESS | {"empty lines", "unfinished window titles", "escapes", "half a mebibyte a line"}


def measure(command: Command, task: str, **options: Any) -> tuple[Ended, int]:
    """Run a task in a process of its own; return how it ended and the most memory that it had, in KiB."""
    path = command.world / "memory"
    program = (sys.executable, "-c", MEASURE, str(path))
    ended = command.run(task, program=program, changing=("memory",), **options)
    return ended, int(path.read_text())


@pytest.fixture
def failed(command: Command, server: RuntimeApiServer) -> Command:
    """The command, with a build on record that has failed."""
    command.use(server)
    command.run("all", "--no-wait").succeed()
    server.statuses[0] = "FAILURE"
    return command


def fail_with(command: Command, server: RuntimeApiServer, fault: str, **settings: str) -> float:
    """Wait for the failed build and return the seconds from its final status to the end of the command."""
    told: list[float] = []

    def behave(exchange: Exchange) -> None:
        told.append(time.monotonic())
        LOG_FAULTS[fault](exchange)

    server.always(LOGS, behave)
    ended = command.run("wait", **settings).expect(6, "FAILURE", "logs --build-id build-1")
    seconds = time.monotonic() - told[0]
    assert len(ended.stderr) <= LIMIT_BYTES
    assert command.read_state("wait")["status"] == "FAILURE"
    return seconds


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in LOG_FAULTS]
)
def test_71_log_of_a_failed_build_is_read_in_bounds(failed: Command, server: RuntimeApiServer, fault: str) -> None:
    assert fail_with(failed, server, fault) < LIMIT_S


@pytest.mark.parametrize("fault", rest_is_slow(sorted(ENDLESS), 2))
def test_71_time_for_the_log_is_part_of_the_timeout(failed: Command, server: RuntimeApiServer, fault: str) -> None:
    # Two seconds, and the end of the process, which takes time on a busy machine.
    assert fail_with(failed, server, fault, BUILD_TIMEOUT="2") < LIMIT_S / 2


def test_71_end_of_the_log_is_what_is_shown(failed: Command, server: RuntimeApiServer) -> None:
    lines = [f"line {number} {'x' * 5000}" for number in range(2000)]
    server.log = "\n".join(lines).encode()
    ended = failed.run("wait").expect(6)
    assert "line 1999 x" in ended.err
    assert "line 1900 x" not in ended.err
    assert len(ended.stderr) <= LIMIT_BYTES


@pytest.mark.parametrize(
    "fault", ["NULs", *(pytest.param(name, marks=pytest.mark.slow) for name in ("half a mebibyte a line", "brackets"))]
)
def test_71_memory_does_not_grow_with_the_log(failed: Command, server: RuntimeApiServer, fault: str) -> None:
    _, small = measure(failed, "wait")
    server.always(LOGS, LOG_FAULTS[fault])
    ended, large = measure(failed, "wait")
    ended.expect(6)
    assert large - small < LIMIT_KIB


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["half a mebibyte a line", "NULs"])
def test_71_logs_are_streamed_in_constant_memory(failed: Command, server: RuntimeApiServer, fault: str) -> None:
    _, small = measure(failed, "logs")
    server.always(LOGS, LOG_FAULTS[fault])
    with tempfile.TemporaryFile() as shown:
        ended, large = measure(failed, "logs", stdout=shown.fileno())
        ended.succeed()
        assert shown.seek(0, os.SEEK_END) >= 60 * MEBIBYTE
    assert large - small < LIMIT_KIB


def test_71_logs_show_lines_as_they_come(failed: Command, server: RuntimeApiServer) -> None:
    server.always(LOGS, stream(b"one more line\n", 10_000, pause_s=0.1))
    running = failed.start("logs")
    deadline = time.monotonic() + LIMIT_S
    while not running.read_out() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "one more line" in running.read_out()
    server.closing.set()
    running.wait()
