"""What people see of many images: the live table on a terminal, and the lines of a log."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import time
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console

from buildkit.bulk.board import Running, Snapshot
from buildkit.bulk.report import LiveTable, format_running, format_totals
from tests.bulk_api import run_bulk_api
from tests.commands import PROGRAM

if TYPE_CHECKING:
    from tests.commands import Command


def make_snapshot(running: int = 2) -> Snapshot:
    rows = [Running(f"django-{number}", "one", started=time.monotonic() - 125) for number in range(running)]
    for row in rows:
        row.hear("#7 [deps 3/5] RUN uv sync")
    return Snapshot(500, 120, 3, rows, [("flask-1", "a step failed: pip\x1b[31m")], 340.0, 4000.0)


def render(snapshot: Snapshot, width: int) -> str:
    out = StringIO()
    Console(file=out, width=width, height=25, force_terminal=False).print(LiveTable(snapshot, 12.0))
    return out.getvalue()


def test_the_table_says_what_runs_what_failed_and_when_it_will_end() -> None:
    text = render(make_snapshot(), 120)
    for part in (
        "django-0",
        "2 min 5 s",
        "[deps 3/5] RUN uv sync",
        "failed: flask-1: a step failed",
        "120 of 500 done",
    ):
        assert part in text
    assert "3 failed, 2 running, 375 to go, 340 per hour, 1 h 6 min left, pausing for 12 s" in text
    assert "\x1b" not in text


def test_the_table_fits_a_narrow_terminal_and_many_builds() -> None:
    lines = render(make_snapshot(running=64), 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert len(lines) <= 30
    assert any("and 44 more" in line for line in lines)


def test_names_that_begin_alike_are_told_apart_by_their_ends() -> None:
    names = [f"swebench-sweb.eval.x86_64.django_1776_django-{number}-latest" for number in (11001, 11002)]
    snapshot = make_snapshot()._replace(running=[Running(name, "one") for name in names])
    for width in (40, 80, 120):
        lines = render(snapshot, width).splitlines()
        assert max(map(len, lines)) <= width
        for number in (11001, 11002):
            assert sum(f"{number}-latest" in line for line in lines) == 1


def test_the_totals_are_always_there() -> None:
    snapshot = make_snapshot(running=64)._replace(failures=[(f"flask-{number}", "no") for number in range(5)])
    out = StringIO()
    console = Console(file=out, width=80, height=12, force_terminal=False)
    console.print(LiveTable(snapshot, 0.0))
    lines = out.getvalue().splitlines()
    assert len(lines) <= 12
    assert "120 of 500 done" in "".join(lines)
    assert sum("flask-" in line for line in lines) == 5


def test_a_failure_is_shown_by_what_the_build_said_last() -> None:
    reason = "docker could not build registry.example.com/team/app:1 (exit code 1); its log ends: no package foo | exit"
    snapshot = make_snapshot()._replace(failures=[("flask-1", reason)])
    assert "failed: flask-1: no package foo" in render(snapshot, 40)


def test_a_step_is_shown_without_its_options() -> None:
    row = Running("x", "one")
    row.hear("#7 [deps 3/5] RUN --mount=type=cache,target=/var/cache/uv     set -eu;     uv sync --frozen")
    assert "[deps 3/5] RUN uv sync --frozen" in render(make_snapshot()._replace(running=[row]), 80)


def test_lines_of_a_log_say_the_same() -> None:
    snapshot = make_snapshot(running=6)
    assert format_totals(snapshot).startswith("120 of 500 done, 3 failed, 6 running, 371 to go")
    assert "django-0 (2 min 5 s, [deps 3/5] RUN uv sync)" in format_running(snapshot)
    assert format_running(snapshot).endswith("2 more")


def test_a_row_shows_the_step_that_is_running() -> None:
    row = Running("x", "one")
    for line in (
        "#1 [a 1/2] FROM x",
        "#2 [b 1/2] RUN slow",
        "#3 [c 1/1] COPY a b",
        "#3 DONE 0.1s",
        "#1 CACHED",
        "#9 odd",
    ):
        row.hear(line)
    assert row.step == "[b 1/2] RUN slow"
    row.hear("#4 [d 1/1] RUN other")
    row.hear("#2 0.123 still at it")
    assert row.step == "[b 1/2] RUN slow"


def test_a_terminal_gets_the_table_and_lines_scroll_above_it(command: Command) -> None:
    (command.checkout / "bases.txt").write_text("127.0.0.1:1/base:1\n127.0.0.1:1/base:2\n")
    with run_bulk_api() as api:
        command.use(api.server, TERM="xterm")
        api.polls = 2
        leader, follower = pty.openpty()
        arguments = [*PROGRAM, "images", "--bases", "bases.txt"]
        process = subprocess.Popen(
            arguments, cwd=command.checkout, env=command.environment, stdout=subprocess.PIPE, stderr=follower
        )
        os.close(follower)
        shown = b""
        with process, os.fdopen(leader, "rb", 0) as terminal:
            while True:
                try:
                    piece = terminal.read(4096)
                except OSError:  # the other end is closed
                    break
                if not piece:
                    break
                shown += piece
            assert process.stdout
            out = process.stdout.read().decode()
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "2 of 2 done" in text or "1 of 2 done" in text or "0 of 2 done" in text
    assert "RUNNING" in text
    assert text.count("built base-") == 2
    assert sorted(out.split()) == sorted(api.started)
