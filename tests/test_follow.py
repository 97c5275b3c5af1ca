"""`--follow`: the log of a build as it grows, and nothing that a log does changes how the wait ends."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit.errors import BuildFailed
from buildkit.runtime_api import events as events_module
from buildkit.runtime_api.events import Event, read_events
from buildkit.runtime_api.log import MAX_LOG_BYTES, TOO_LONG
from buildkit.runtime_api.response import InvalidResponse
from buildkit.signals import Interrupted
from buildkit.workspace import Workspace
from tests.misbehaviour import answer, send, stay_silent
from tests.runtime_api import KEY, RuntimeApiServer
from tests.serving import DOCKERFILE, Served, format_json, pack
from tests.steps import KeptUi, Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.commands import Command, Running
    from tests.runtime_api import Exchange

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
END = b'event: end\nid: 99\ndata: {"status": "SUCCESS"}\n\n'
LOGS = "GET /build_logs"


class Building:
    """A scripted server whose build is running until it is told to end, while a wait follows its log."""

    def __init__(self, server: RuntimeApiServer, steps: Steps, folder: Path) -> None:
        self.server = server
        self.steps = steps
        self.folder = folder
        self.status = "RUNNING"
        steps.clock.on_sleep = lambda: time.sleep(0.02)
        server.always("GET /", answer(200, {"features": ["follow"]}))
        server.always("GET /build_status", lambda exchange: exchange.answer(200, {"status": self.status}))

    def ending(self, behaviour: Callable[[Exchange], None], status: str = "SUCCESS") -> Callable[[Exchange], None]:
        """Return a behaviour after which the build ends."""

        def behave(exchange: Exchange) -> None:
            try:
                behaviour(exchange)
            finally:
                self.status = status

        return behave

    def wait(self) -> list[str]:
        """Return what was reported by a wait for the end of the build, without the lines of the polling."""
        self.steps.wait(Workspace(self.folder), follow=True, timeout_s=10**6)
        return [line for line in self.steps.reports if not line.startswith(("Build status", "✅", "🎉"))]

    def list_last_ids(self) -> list[str | None]:
        return [request.headers.get("last-event-id") for request in self.server.requests if request.name == LOGS]


@pytest.fixture
def building(runtime_api: RuntimeApiServer, steps: Steps, tmp_path: Path) -> Building:
    return Building(runtime_api, steps, tmp_path / "out")


def test_lines_are_shown_before_the_build_has_ended(building: Building) -> None:
    def tell(exchange: Exchange) -> None:
        exchange.connection.sendall(HEAD + b"id: 7\ndata: step 1\ndata: step 2\n\n")
        deadline = time.monotonic() + 10
        while "step 2" not in building.steps.reports and time.monotonic() < deadline:
            time.sleep(0.01)
        assert building.status == "RUNNING"
        building.status = "SUCCESS"
        exchange.connection.sendall(b"id: 9\ndata: step 3\n\n" + END)

    building.server.always(LOGS, tell)
    assert building.wait() == ["step 1", "step 2", "step 3"]
    assert building.steps.reports[-1].startswith(("✅", "🎉"))


def test_stream_that_is_cut_within_an_event_goes_on_after_the_last_whole_one(building: Building) -> None:
    building.server.script(
        LOGS,
        answer(404),
        send(HEAD, b"id: 7\ndata: one\n\nid: 14\ndata: two\ndata: thr"),
        answer(503, {"detail": "busy"}),
        building.ending(send(HEAD, b"id: 14\ndata: two\ndata: three\n\n", END)),
    )
    assert building.wait() == ["one", "two", "three"]
    assert building.list_last_ids() == [None, None, "7", "7"]


def test_log_is_complete_even_if_the_server_asked_for_a_pause_that_outlasts_the_build(building: Building) -> None:
    building.server.script(LOGS, building.ending(answer(503, {"detail": "busy"}, {"Retry-After": "60"})))
    building.server.always(LOGS, send(HEAD, b"id: 7\ndata: one\n\n", END))
    assert building.wait() == ["one"]


def test_silent_stream_is_opened_again(building: Building) -> None:
    building.steps.limits["idle_timeout_s"] = 0.3
    building.server.script(
        LOGS,
        stay_silent,
        send(HEAD + b"id: 7\ndata: one\n\n", *[b": nothing new\n\n"] * 8, b"id: 8\ndata: two\n\n", b"", pause_s=0.1),
        building.ending(send(HEAD, END)),
    )
    assert building.wait() == ["one", "two"]
    assert building.list_last_ids() == [None, None, "8"]


def test_server_without_the_feature_is_polled_and_not_asked_for_a_stream(building: Building) -> None:
    building.server.always("GET /", building.ending(answer(200, {"features": ["cancel"]})))
    (line,) = building.wait()
    assert "does not list `follow`" in line
    assert building.server.count(LOGS) == 0


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (answer(401, {"detail": "not yours"}), "not yours"),
        (answer(200, b"<html>", {"Content-Type": "text/html"}), "did not return a stream of events"),
        (answer(302, b"", {"Location": "http://127.0.0.1:1/x"}), "is not followed"),
        (send(HEAD, b"data: x\n" * 600_000), "an event is larger than 4 MiB"),
        (send(HEAD, b"x" * 5_000_000), "an event is larger than 4 MiB"),
    ],
)
def test_stream_that_cannot_be_read_is_given_up_in_one_line(
    building: Building, behaviour: Callable[[Exchange], None], said: str
) -> None:
    def end_later(exchange: Exchange) -> None:
        threading.Timer(0.3, lambda: setattr(building, "status", "SUCCESS")).start()
        behaviour(exchange)

    building.server.always(LOGS, end_later)
    (line,) = building.wait()
    assert line.startswith("the log cannot be followed: ")
    assert said in line
    assert building.server.count(LOGS) == 1


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        (stay_silent, "FAILURE"),
        (send(HEAD, b"id: 1\ndata: one\n\n", *[b": \n\n"] * 900, pause_s=0.05), "SUCCESS"),
    ],
)
def test_stream_that_hangs_changes_nothing(
    building: Building, behaviour: Callable[[Exchange], None], status: str
) -> None:
    def hang(exchange: Exchange) -> None:
        if "accept" not in exchange.request.headers:
            exchange.answer(200, b"the tail\n", {"Content-Type": "text/plain"})
            return
        threading.Timer(0.1, lambda: setattr(building, "status", status)).start()
        behaviour(exchange)

    building.server.always(LOGS, hang)
    if status == "FAILURE":
        with pytest.raises(BuildFailed, match="ended as FAILURE"):
            building.wait()
        assert building.steps.reports[-1] == "the tail"
    else:
        building.wait()
    assert any("the log may not be complete; `runtime-build logs" in line for line in building.steps.reports)


def test_end_of_a_failed_build_is_not_shown_twice(building: Building) -> None:
    building.server.always(LOGS, building.ending(send(HEAD, b"id: 1\ndata: broken\n\n", END), "FAILURE"))
    with pytest.raises(BuildFailed):
        building.wait()
    assert building.steps.reports.count("broken") == 1
    assert building.server.count(LOGS) == 1


def test_hostile_bytes_are_made_safe(building: Building) -> None:
    lines = [
        b"id: 1\r\ndata: \x1b[31mred\x1b[0m\x07",
        b"data: \xff\xfe\x00 \xe2\x80\xae",
        b"data: key " + KEY.encode(),
        b'data: {"message": "from\\u001b json"}',
        b"data: 10%\r100%",
        b"id: " + b"9" * 300,
        b"id: a\x00b",
        b"unknown: field\nretry: 1\ndata",
    ]
    building.server.script(LOGS, send(HEAD, b"\n".join(lines), b"\r\n\r\n"))
    building.server.always(LOGS, building.ending(send(HEAD, END)))
    shown = ["red\\x07", "\ufffd\ufffd\\x00 \\u202e", "key ***", "from\\x1b json", "100%", ""]
    assert building.wait() == shown
    assert building.list_last_ids() == [None, "1"]


def test_interrupt_is_that_of_a_wait_without_follow(building: Building) -> None:
    def interrupt() -> None:
        deadline = time.monotonic() + 10
        while "one" not in building.steps.reports and time.monotonic() < deadline:
            time.sleep(0.01)
        raise Interrupted(2)

    building.server.always(LOGS, send(HEAD, b"id: 1\ndata: one\n\n", *[b"data: more\n\n"] * 2000, pause_s=0.01))
    building.steps.clock.on_sleep = interrupt
    with pytest.raises(Interrupted) as caught:
        building.wait()
    assert "is still running" in caught.value.fix
    count = len(building.steps.reports)
    time.sleep(0.2)
    assert len(building.steps.reports) == count


class LastLine(KeptUi):
    """Keeps only the last line."""

    def report(self, line: str) -> None:
        self.reports[:] = [line]


@pytest.mark.slow
def test_long_log_is_cut_in_flat_memory(building: Building) -> None:
    building.steps.ui = LastLine()
    block = b"id: 5\n" + b"data: %s\n" % (b"x" * 16_000) * 4 + b"\n"
    seen: list[str] = []

    def flood(exchange: Exchange) -> None:
        exchange.connection.sendall(HEAD)
        with contextlib.suppress(OSError):  # the client has closed the connection
            for _ in range(MAX_LOG_BYTES // len(block) + 100):
                exchange.connection.sendall(block)
        seen.extend(building.steps.reports)

    building.server.always(LOGS, building.ending(flood))
    tracemalloc.start()
    try:
        building.wait()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == [TOO_LONG]
    assert peak_bytes < 8_000_000


EVENTS = st.lists(
    st.builds(
        Event,
        st.sampled_from(["", "end", "x y"]),
        st.none() | st.sampled_from(["1", "a-b", "~" * 256]),
        st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20), min_size=1),
    ),
    max_size=5,
)


@settings(max_examples=100, deadline=None)
@given(EVENTS, st.sampled_from(["\n", "\r\n"]), st.integers(1, 9), st.integers(0, 8))
def test_events_are_the_same_however_they_are_cut(events: list[Event], line_end: str, size: int, lost: int) -> None:
    def format_event(event: Event) -> bytes:
        lines = [f"event: {event.name}"] * bool(event.name) + [f"id: {event.event_id}"] * (event.event_id is not None)
        return "".join(
            f"{line}{line_end}" for line in [*lines, *(f"data: {line}" for line in event.lines), ""]
        ).encode()

    data = b": hello\n\n" + b"".join(map(format_event, events))
    assert list(read_events(data[at : at + size] for at in range(0, len(data), size))) == events
    cut = data[: len(data) - lost]
    ends = itertools.accumulate(map(len, map(format_event, events)), initial=len(b": hello\n\n"))
    assert list(read_events([cut])) == events[: sum(end <= len(cut) for end in ends) - 1]


def test_event_without_end_is_refused_early() -> None:
    taken = 0

    def drip() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 65_536
            yield b"data: x\n" * 8192

    with pytest.raises(InvalidResponse, match="4 MiB"):
        list(read_events(drip()))
    assert taken <= events_module.MAX_EVENT_BYTES + 2 * 65_536


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = {"RUNTIME_API_KEY": KEY, "RUNTIME_API_URL": "http://127.0.0.1"}
    with Served(tmp_path_factory.mktemp("server"), settings=settings) as server:
        yield server


def follow(command: Command, served: Served, dockerfile: str) -> tuple[str, Running]:
    command.environment |= {"RUNTIME_API_URL": served.url, "RUNTIME_API_KEY": KEY}
    build_id = served.post(format_json(pack(dockerfile=dockerfile))).record["build_id"]
    return build_id, command.start("wait", "--build-id", build_id, "--follow")


def list_shown(err: str) -> list[str]:
    lines = [line.removeprefix("[runtime-build] ") for line in err.splitlines() if line.startswith("[runtime-build] ")]
    return [line for line in lines if not line.startswith(("Build status: ", "✅", "🎉", "warning: "))]


def test_ten_thousand_lines_of_our_own_server_come_once_and_in_order(command: Command, served: Served) -> None:
    build_id, running = follow(command, served, f"{DOCKERFILE}RUN print 10000\n")
    ended = running.wait().succeed()
    log = command.run("logs", "--build-id", build_id).succeed().out.splitlines()
    assert len(log) > 10_000
    assert list_shown(ended.err) == log


def test_log_goes_on_after_the_server_was_killed_and_started_again(command: Command, served: Served) -> None:
    served.settings["SERVE_PORT"] = served.url.rpartition(":")[2]
    build_id, running = follow(command, served, f"{DOCKERFILE}RUN print 100\nRUN sleep 2\n")
    running.wait_for("row 99")
    served.stop(signal.SIGKILL)
    served.start()
    ended = running.wait().succeed()
    assert list_shown(ended.err) == command.run("logs", "--build-id", build_id).succeed().out.splitlines()


def test_ctrl_c_ends_at_once_and_leaves_the_build_alone(command: Command, served: Served) -> None:
    build_id, running = follow(command, served, f"{DOCKERFILE}RUN print 3\nRUN sleep 20\n")
    running.wait_for("row 2")
    running.signal(signal.SIGINT)
    running.wait(10).fail(130, "is still running", build_id)
    assert served.status(build_id)["status"] == "RUNNING"
    assert served.call("POST", f"/builds/{build_id}/cancel").status == 200


def test_all_follows_too(command: Command, served: Served) -> None:
    command.environment |= {"RUNTIME_API_URL": served.url, "RUNTIME_API_KEY": KEY}
    ended = command.run("all", "--follow").succeed()
    log = command.run("logs", "--build-id", command.read_state("upload")["build_id"]).succeed().out.splitlines()
    assert len(log) > 1
    assert set(log) <= set(list_shown(ended.err))
    assert ended.result
