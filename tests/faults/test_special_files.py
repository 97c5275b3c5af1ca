"""Rows 67 and 69: links, FIFOs and devices where the command expects its own files."""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.processes import PROGRAM
from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.commands import Command
    from tests.runtime_api import RuntimeApiServer

    Plant = Callable[[Path], None]

pytestmark = pytest.mark.fault

LIMIT_S = 10.0
NAMES = ("Dockerfile", "BUILD_INSTRUCTIONS.md", "version.json", "dockerfile.json", "context.json", "upload.json")
MORE_NAMES = ("wait.json", ".context-cache", ".gitignore", "manifest.yaml", "health.sh", "archive")
WRITERS = ("version", "dockerfile", "context", "upload", "wait", "manifest", "all")
READERS = ("logs", "context --files", "doctor")


def link_outside(path: Path) -> None:
    """The file as it was, but somewhere else: only opening it through the link would show its contents."""
    precious = path.parents[2] / "precious"
    if path.exists():
        path.rename(precious)
    else:
        precious.write_text("precious")
    path.symlink_to(precious)


def link_to_nothing(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.parents[2] / "created-through-a-link")


def link_to_zeros(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def make_fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


PLANTS = [link_outside, link_to_nothing, link_to_zeros, make_fifo]


@contextmanager
def planted(plant: Plant, path: Path) -> Iterator[None]:
    """Have something else under the name of a file, and then the file again."""
    before = path.read_bytes() if path.exists() else None
    plant(path)
    try:
        yield
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)


@pytest.fixture
def built(command: Command, server: RuntimeApiServer) -> Command:
    """The command, in an output directory that holds a whole build."""
    command.use(server)
    command.run("all").succeed()
    return command


@pytest.mark.parametrize("tasks", rest_is_slow([("upload", "all"), WRITERS], 1))
@pytest.mark.parametrize("name", NAMES + MORE_NAMES)
def test_67_file_of_ours_that_is_a_link_or_a_fifo_is_refused(
    built: Command, server: RuntimeApiServer, subtests: pytest.Subtests, name: str, tasks: tuple[str, ...]
) -> None:
    path = built.output / (built.read_state("version")["archive"] if name == "archive" else name)
    requests = len(server.requests)
    for plant, task in itertools.product(PLANTS, tasks):
        with subtests.test(plant.__name__, task=task), planted(plant, path):
            ended = built.run(task).fail(3, path.name)
            assert ended.seconds < LIMIT_S
            assert path.is_symlink() or path.is_fifo()
    assert len(server.requests) == requests
    assert not (built.world / "created-through-a-link").exists()


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("name", ["upload.json", "version.json"])
def test_67_task_that_only_reads_never_opens_them_either(built: Command, name: str, plant: Plant) -> None:
    plant(built.output / name)
    for task in READERS:
        ended = built.run(*task.split())
        assert ended.code in {0, 3}, ended.err
        assert ended.seconds < LIMIT_S
    assert built.run("logs").code == (3 if name == "upload.json" else 0)


@pytest.mark.parametrize("plant", PLANTS)
def test_67_cleaning_removes_what_was_planted_and_nothing_behind_it(
    built: Command, server: RuntimeApiServer, plant: Plant
) -> None:
    for name in ("Dockerfile", ".context-cache"):
        plant(built.output / name)
        ended = built.run("clean").succeed()
        assert name in ended.out.splitlines()
        assert ended.seconds < LIMIT_S
        built.run("all").succeed()
        server.builds.pop()  # its record is gone, so it is built once more


@pytest.mark.parametrize("plant", [link_to_zeros, make_fifo])
@pytest.mark.parametrize("name", ["version.json", "upload.json", "context.json"])
def test_69_state_file_that_never_ends_is_refused_in_time(built: Command, name: str, plant: Plant) -> None:
    plant(built.output / name)
    ended = built.run("upload", program=PROGRAM).fail(3, name)
    assert ended.seconds < LIMIT_S


def test_69_state_file_of_any_size_is_read_in_bounds(built: Command) -> None:
    os.truncate(built.output / "upload.json", 100_000_000)
    ended = built.run("wait").fail(3, "upload.json")
    assert ended.seconds < LIMIT_S


def make_read_fifo(path: Path) -> None:
    """A FIFO that somebody has opened for reading, so that opening it for writing succeeds."""
    os.mkfifo(path)
    _OPEN.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


_OPEN: list[int] = []


@pytest.mark.parametrize(
    "plant", [os.mkfifo, make_read_fifo, os.mkdir, lambda path: path.symlink_to("/dev/full"), Path.touch]
)
def test_69_outputs_that_cannot_be_written_are_a_warning(
    command: Command, server: RuntimeApiServer, plant: Plant
) -> None:
    command.use(server)
    path = command.world / "github" / "output"
    path.parent.mkdir()
    plant(path)
    ended = command.run("all", GITHUB_OUTPUT=str(path), changing=("github",)).succeed()
    assert ended.seconds < LIMIT_S
    written = path.is_file()
    assert ended.err.count("warning: GITHUB_OUTPUT cannot be written") == (0 if written else 1)
    assert len(server.builds) == 1
    while _OPEN:
        os.close(_OPEN.pop())
