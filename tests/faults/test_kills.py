"""Rows 16, 30, 31 and 46: SIGKILL anywhere, and the other signals at every step."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import HANG_S, Command, Ended
from tests.faults.conftest import MEMORY, count_builds
from tests.ledger import LEDGER
from tests.misbehaviour import answer, stay_silent, stop_reading
from tests.runtime_api import RuntimeApiServer
from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.fault

KILLS = 168
BATCHES = 12
# What a run writes from its settings and the source alone, and so always with the same bytes.
FIXED = {"version.json", "dockerfile.json", "Dockerfile", "BUILD_INSTRUCTIONS.md", "context.json", ".gitignore"}
FIXED |= {"agents.sh", "check_server.py", "copy_python.py", "health.sh"}
CHANGING = ("upload.json", "wait.json", ".context-cache")
INSIDE = "openhands-sdk/openhands/sdk"


def read_all(folder: Path) -> dict[str, bytes]:
    """Return the files of an output directory."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


class KillSweep:
    """One world for many kills: the output directory and the server are new each time.

    Attributes:
        old: What an earlier run with other settings left.
        new: What the run leaves that is not killed.
        points: Calls into the operating system in that run.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        with RuntimeApiServer() as server:
            command.use(server)
            command.run("all", TARGET="source-minimal", CUSTOM_TAGS="old").expect(0)
        self._old_copy = command.world / "old"
        shutil.copytree(command.output, self._old_copy)
        self.old = read_all(command.output)
        counted = command.world / "counted"
        with RuntimeApiServer() as server:
            command.use(server)
            command.run("all", order={"count_points": str(counted)}, changing=("counted",)).expect(0)
        self.points = int(counted.read_text())
        self.new = read_all(command.output)

    def kill(self, *, fresh: bool = False, **order: Any) -> bool:
        """Kill a run as ordered, look at what it left, and run again; return whether there was a kill."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.command.output)
        if not fresh:
            shutil.copytree(self._old_copy, self.command.output)
        with RuntimeApiServer() as server:
            self.command.use(server)
            run = self.command.run("all", order=order)
            if run.code == 0:
                return False
            assert run.code == -signal.SIGKILL, run.err
            LEDGER.kills += 1
            torn = self._find_torn()
            LEDGER.torn += [f"{order}: {name}" for name in torn]
            assert not torn, f"{order} left {torn}"
            self._run_again(server)
        return True

    def _find_torn(self) -> list[str]:
        torn = []
        for name, data in read_all(self.command.output).items():
            if name in FIXED or name.endswith(".tar.gz"):
                if data not in (self.old.get(name), self.new.get(name)):
                    torn.append(name)
            elif name in CHANGING:
                with contextlib.suppress(ValueError):
                    json.loads(data)
                    continue
                torn.append(name)
            elif not name.startswith(".tmp-"):
                torn.append(f"{name} (unknown)")
        return torn

    def _run_again(self, server: RuntimeApiServer) -> None:
        """Run again: to the end, or up to what nobody can know; never to a second build."""
        state = self._read_submission()
        mine = state is not None and state["runtime_api_url"] == server.url
        started = len(server.builds)
        over = (self.command.output / "wait.json").exists()
        run = self.command.run("all")
        if mine and state is not None and state["build_id"] is None:
            run.expect(5, "--force")
            assert server.count("POST /build") <= 1
            self.command.run("all", "--force").expect(0)
            # The server may have begun the killed run's build only after `started` was read.
            assert len(server.builds) <= 2
            count_builds(server, forced=len(server.builds) - 1)
        elif mine and over:
            run.expect(0)  # that build had ended, and its end is on record: this run asks for another one
            count_builds(server, forced=1)
        else:
            run.expect(0)
            if mine:
                LEDGER.resumable += 1
                LEDGER.resumed += len(server.builds) == started == 1
                assert len(server.builds) == 1
            count_builds(server)
        left = read_all(self.command.output)
        assert {name: left[name] for name in FIXED} == {name: self.new[name] for name in FIXED}
        assert not [name for name in left if name.startswith(".tmp-")]

    def _read_submission(self) -> dict[str, Any] | None:
        path = self.command.output / "upload.json"
        return json.loads(path.read_bytes()) if path.exists() else None


@pytest.fixture(scope="module")
def sweep(pristine: Path) -> Iterator[KillSweep]:
    with tempfile.TemporaryDirectory(prefix="kills-", dir=MEMORY) as folder:
        checkout = Path(shutil.copytree(pristine, Path(folder).resolve() / "src", symlinks=True))
        yield KillSweep(Command(checkout, {"TARGET": "source"}))


@pytest.mark.parametrize("batch", rest_is_slow(range(BATCHES), 1))
def test_30_killed_anywhere_nothing_is_torn_or_built_twice(sweep: KillSweep, batch: int) -> None:
    for number in range(batch, KILLS, BATCHES):
        sweep.kill(fresh=number % 3 == 0, kill_at=1 + (sweep.points - 2) * number // KILLS)


@pytest.mark.parametrize("fresh", rest_is_slow([True, False], 1))
@pytest.mark.parametrize("first", rest_is_slow(range(4), 1))
def test_30_killed_before_and_after_each_rename_nothing_is_torn(sweep: KillSweep, first: int, fresh: bool) -> None:
    point = first
    while sweep.kill(fresh=fresh, kill_at_replace=point):
        point += 4
    assert point >= 2 * len(FIXED), "a run renames each of its files"


def test_46_killed_between_the_answer_and_the_saved_id_is_unknown(command: Command, server: RuntimeApiServer) -> None:
    command.use(server)
    command.run("version").expect(0)
    command.run("dockerfile").expect(0)
    command.run("context").expect(0)
    run = command.run("upload", order={"kill_at_replace": 2})
    assert run.code == -signal.SIGKILL
    LEDGER.kills += 1
    assert (command.read_state("upload")["state"], len(server.builds)) == ("intent", 1)
    for task in ("upload", "all", "wait", "clean"):
        command.run(task).expect(5, "upload")
    assert len(server.builds) == 1
    command.run("upload", "--force").expect(0)
    server.builds.pop()  # asked for by --force


def test_46_build_found_by_hand_can_be_waited_for(command: Command, server: RuntimeApiServer) -> None:
    command.use(server)
    command.run("all", order={"kill_at_replace": 18})
    run = command.run("wait", "--build-id", "build-1").expect(0)
    assert run.out.strip()


def test_31_run_that_is_started_again_after_ctrl_c_takes_up_the_same_build(
    command: Command, server: RuntimeApiServer
) -> None:
    command.use(server)
    server.statuses.clear()
    server.statuses.extend(["PENDING"])
    running = command.start("all")
    running.wait_for("Build status: PENDING")
    running.signal(signal.SIGINT)
    running.wait().expect(130, "build-1", "wait --build-id build-1")
    server.statuses.append("SUCCESS")
    LEDGER.resumable += 1
    command.run("all").expect(0)
    assert len(server.builds) == 1
    LEDGER.resumed += 1


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


SIGNALS = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143}


def signal_at(
    command: Command, number: signal.Signals, ready: Callable[[], object], task: str = "all", **options: Any
) -> Ended:
    """Send the signal as soon as `ready`; the run ends within 2 s with the signal's code and nothing half-done."""
    running = command.start(task, **options)
    wait_until(lambda: ready() or running.read_err().startswith("error"))
    sent = time.monotonic()
    running.signal(number)
    run = running.wait().expect(SIGNALS[number], "interrupted")
    seconds = time.monotonic() - sent
    LEDGER.signals += 1
    LEDGER.slowest_signal_s = max(LEDGER.slowest_signal_s, seconds)
    assert seconds < 2
    assert not [name for name in command.list_output() if name.startswith(".tmp-")]
    return run


@pytest.mark.parametrize("number", SIGNALS)
def test_31_signal_while_git_lists_ends_soon(command: Command, number: signal.Signals) -> None:
    programs, flag = command.world / "programs", command.world / "slow"
    programs.mkdir()
    git = shutil.which("git")
    (programs / "git").write_text(
        f'#!/bin/sh\ncase "$*" in *ls-files*) touch "{flag}"; exec sleep 30;; esac\nexec {git} "$@"\n'
    )
    (programs / "git").chmod(0o755)
    path = f"{programs}:{command.environment['PATH']}"
    signal_at(command, number, flag.exists, PATH=path, changing=("slow",))


@pytest.mark.parametrize("number", SIGNALS)
def test_31_signal_while_packing_ends_soon(command: Command, number: signal.Signals) -> None:
    (command.checkout / INSIDE / "big.bin").write_bytes(os.urandom(80_000_000))
    signal_at(
        command,
        number,
        lambda: any(size > 1_000_000 for size in _list_temporary_sizes(command)),
        MAX_CONTEXT_BYTES="4000000000",
    )
    assert not list(command.output.glob("*.tar.gz"))


def _list_temporary_sizes(command: Command) -> Iterator[int]:
    for path in command.output.glob(".tmp-*"):
        with contextlib.suppress(FileNotFoundError):  # it has its final name by now
            yield path.stat().st_size


@pytest.mark.parametrize("number", SIGNALS)
def test_31_signal_within_the_upload_takes_the_intent_back(
    command: Command, server: RuntimeApiServer, number: signal.Signals
) -> None:
    (command.checkout / INSIDE / "big.bin").write_bytes(os.urandom(20_000_000))
    command.use(server)
    server.script("POST /build", stop_reading)
    signal_at(command, number, lambda: server.count("POST /build"))
    assert not (command.output / "upload.json").exists()
    command.run("upload").expect(0)
    assert len(server.builds) == 1


@pytest.mark.parametrize("number", SIGNALS)
def test_31_signal_after_the_whole_upload_keeps_the_intent(
    command: Command, server: RuntimeApiServer, number: signal.Signals
) -> None:
    command.use(server)
    server.script("POST /build", stay_silent)
    signal_at(command, number, lambda: server.whole_bodies)
    assert command.read_state("upload")["state"] == "intent"
    command.run("upload").expect(5)


@pytest.mark.parametrize("number", SIGNALS)
def test_31_signal_between_tries_ends_soon(command: Command, server: RuntimeApiServer, number: signal.Signals) -> None:
    command.use(server)
    server.always("POST /build", answer(429, {"detail": "busy"}, {"Retry-After": "200"}))
    running = command.start("all")
    wait_until(lambda: server.whole_bodies)
    time.sleep(0.4)  # the client reads the answer and begins its pause, which nothing outside can see
    sent = time.monotonic()
    running.signal(number)
    run = running.wait().expect(SIGNALS[number], "interrupted")
    assert time.monotonic() - sent < 2
    # 429 came after the whole body: only the end of the tries says that nothing was started.
    assert command.read_state("upload")["state"] == "intent", run.err
    assert "a build may have been started" in run.err


@pytest.mark.parametrize("number", SIGNALS)
def test_31_signal_while_waiting_shows_the_build_id(
    command: Command, server: RuntimeApiServer, number: signal.Signals
) -> None:
    command.use(server)
    server.statuses.clear()
    server.statuses.append("RUNNING")
    run = signal_at(command, number, lambda: server.count("GET /build_status"))
    assert "wait --build-id build-1" in run.err.splitlines()[-1]


@pytest.mark.parametrize("number", SIGNALS)
def test_31_signal_while_a_poll_hangs_shows_the_build_id(
    command: Command, server: RuntimeApiServer, number: signal.Signals
) -> None:
    command.use(server)
    server.always("GET /build_status", stay_silent)
    run = signal_at(command, number, lambda: server.count("GET /build_status"))
    assert "wait --build-id build-1" in run.err.splitlines()[-1]


@pytest.mark.parametrize("module", ["invoke.exceptions", "buildkit.settings", "buildkit.source.tree"])
def test_31_ctrl_c_while_modules_load_shows_no_traceback(command: Command, module: str) -> None:
    running = command.start("version", program=(sys.executable, "-X", "importtime", "-m", "buildkit"))
    wait_until(lambda: re.search(rf"{module}$", running.read_err(), re.MULTILINE))
    running.signal(signal.SIGINT)
    assert running.wait().code in (-signal.SIGINT, 130, 0)


def test_31_hangup_that_the_caller_ignores_is_ignored(command: Command, server: RuntimeApiServer) -> None:
    command.use(server)
    server.script("POST /build", answer(429, {}, {"Retry-After": "1"}))
    running = command.start("all", program=("nohup", sys.executable, "-m", "buildkit"))
    wait_until(lambda: server.whole_bodies)
    running.signal(signal.SIGHUP)
    assert running.wait().code == 0


def test_31_first_ctrl_c_on_a_terminal_shows_id_and_command(command: Command, server: RuntimeApiServer) -> None:
    command.use(server)
    server.statuses.clear()
    server.statuses.append("RUNNING")
    main, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "buildkit", "all"],
        cwd=command.checkout,
        env={**command.environment, "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - a single call to the system
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal goes with its last process
        while piece := os.read(main, 4096):
            if b"Build status: RUNNING" not in shown and b"Build status: RUNNING" in shown + piece:
                os.write(main, b"\x03")
            shown += piece
    os.close(main)
    assert process.wait(HANG_S) == 130, shown.decode()
    assert re.search(
        rb"error: interrupted\r\nfix:   build build-1 is still running; run `runtime-build wait --build-id build-1`",
        shown,
    )
    assert b"Traceback" not in shown
