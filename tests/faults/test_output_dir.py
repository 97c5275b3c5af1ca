"""Rows 11 to 16: the output directory is ours alone, is cleaned with care, and holds one run at a time."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.ledger import LEDGER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.commands import Command
    from tests.runtime_api import Exchange, RuntimeApiServer

pytestmark = pytest.mark.fault

# Of the small workspace, with the Dockerfile, the instructions and the four programs of the full source target.
PACKED = 26

TASKS = ["version", "all", "clean"]


def refuse(command: Command, directory: str, task: str, *texts: str, folder: Path | None = None) -> None:
    """Run with that output directory; the harness asserts that nothing changed, in it or elsewhere."""
    command.outputs = [command.world / "nowhere"]
    LEDGER.refused[1] += 1
    command.run(task, OUTPUT_DIR=directory, folder=folder).expect(2, "OUTPUT_DIR", *texts)
    LEDGER.refused[0] += 1


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "directory",
    [
        ".",
        "./",
        "..",
        "../..",
        "/",
        "//",
        "src/..",
        "../src",
        "../home",
        ".git",
        ".git/hooks",
        "../src/../src",
        "/tmp",
        "openhands-sdk",
    ],
)
def test_11_folder_that_holds_more_than_output_is_refused(command: Command, directory: str, task: str) -> None:
    refuse(command, directory, task)


@pytest.mark.parametrize("task", TASKS)
def test_11_home_and_other_checkouts_are_refused(command: Command, world: Path, task: str) -> None:
    (world / "other").mkdir()
    subprocess.run(["git", "init", "-q", str(world / "other")], check=True)
    for directory in (str(world / "home"), "~", str(world / "other"), str(world / "other" / ".git")):
        refuse(command, directory if directory != "~" else command.environment["HOME"], task)


def test_11_marker_of_ours_does_not_make_a_checkout_ours(command: Command) -> None:
    command.run("all").expect(0)
    (command.checkout / ".gitignore").write_bytes((command.output / ".gitignore").read_bytes())
    refuse(command, ".", "clean")


def test_11_working_directory_below_the_output_is_refused(command: Command) -> None:
    command.run("all").expect(0)
    (command.output / "below").mkdir()
    refuse(command, str(command.output), "clean", folder=command.output / "below")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("slash", ["", "/", "/.", "/../link/"])
def test_12_symbolic_link_is_refused(command: Command, world: Path, task: str, slash: str) -> None:
    (world / "target").mkdir()
    (world / "target" / "precious").write_text("x")
    (world / "link").symlink_to("target")
    refuse(command, f"../link{slash}", task)


@pytest.mark.parametrize("task", TASKS)
def test_12_link_to_a_directory_of_ours_is_refused(command: Command, world: Path, task: str) -> None:
    command.run("all").expect(0)
    (world / "link").symlink_to(command.output)
    refuse(command, "../link/", task)


def test_12_dangling_link_is_refused(command: Command, world: Path) -> None:
    (world / "link").symlink_to("nowhere-yet")
    refuse(command, "../link", "all")


@pytest.mark.parametrize("link", ["home", "src", "/"])
def test_12_path_through_a_link_is_judged_by_where_it_leads(command: Command, world: Path, link: str) -> None:
    (world / "way").mkdir()
    (world / "way" / "in").symlink_to(link if link == "/" else world)
    refuse(command, "../way/in/" + ("" if link == "/" else link), "clean")


@pytest.mark.parametrize("task", ["all", "clean", "version"])
@pytest.mark.parametrize("name", ["notes.txt", "upload.txt", "Dockerfile", ".git"])
def test_13_foreign_folder_is_refused(command: Command, world: Path, task: str, name: str) -> None:
    (world / "theirs").mkdir()
    (world / "theirs" / name).write_text("precious")
    refuse(command, "../theirs", task)


def test_13_state_files_alone_do_not_allow_cleaning(command: Command) -> None:
    command.run("all").expect(0)
    (command.output / ".gitignore").unlink()
    before = command.list_output()
    command.run("clean").expect(2, "marker")
    command.run("all").expect(2, "marker")
    assert command.list_output() == before


def test_13_artifact_without_the_hidden_marker_is_usable(command: Command, server: RuntimeApiServer) -> None:
    command.run("all").expect(0)
    (command.output / ".gitignore").unlink()
    command.use(server)
    command.run("upload").expect(0)


@pytest.mark.parametrize("task", ["all", "clean"])
def test_13_cleaning_leaves_what_we_did_not_write(command: Command, task: str) -> None:
    command.run("all").expect(0)
    (command.output / "notes.txt").write_text("precious")
    (command.output / "folder").mkdir()
    (command.output / "folder" / "context.json").write_text("precious")
    (command.output / "agent-server-1234567-x.tar.gz.bak").write_text("precious")
    command.run(task).expect(0)
    assert (command.output / "notes.txt").read_text() == "precious"
    assert (command.output / "folder" / "context.json").read_text() == "precious"
    assert (command.output / "agent-server-1234567-x.tar.gz.bak").read_text() == "precious"


@pytest.mark.parametrize("name", ["context.json", "Dockerfile", "agent-server-1234567-x.tar.gz"])
def test_13_folder_under_one_of_our_names_is_not_removed(command: Command, name: str) -> None:
    command.run("version").expect(0)
    (command.output / name).mkdir()
    (command.output / name / "precious").write_text("x")
    command.run("clean").expect(3, name)
    assert (command.output / name / "precious").exists()


@pytest.mark.parametrize("archive", ["../../precious.tar.gz", "/etc/hostname", "..", ".", "precious.txt"])
def test_13_edited_state_names_nothing_else_to_remove(command: Command, world: Path, archive: str) -> None:
    (world / "precious.tar.gz").write_text("x")
    command.run("all").expect(0)
    (command.output / "precious.txt").write_text("x")
    for step in ("version", "context"):
        path = command.output / f"{step}.json"
        path.write_text(path.read_text().replace(command.read_state(step)["archive"], archive))
    command.run("context")
    command.run("clean")
    assert (command.output / "precious.txt").exists()


def test_14_output_inside_the_source_is_never_packed(command: Command) -> None:
    command.outputs = [command.checkout / "openhands-sdk" / "out"]
    digests = set()
    for _ in range(3):
        run = command.run("all", CLEAN_OUTPUT="false", OUTPUT_DIR="openhands-sdk/out").expect(0)
        digests.add(hashlib.sha256((command.checkout / run.out.strip()).read_bytes()).hexdigest())
    assert len(digests) == 1
    assert "out/" not in command.run("context", "--files", OUTPUT_DIR="openhands-sdk/out").out


@pytest.mark.parametrize("name", ["with space", "\u00e4\u00f6", "quote'\"", "-dash", "glob*[a]"])
def test_14_odd_output_folder_is_never_packed(command: Command, name: str) -> None:
    command.outputs = [command.checkout / "openhands-sdk" / name]
    runs = [command.run("all", OUTPUT_DIR=f"openhands-sdk/{name}").expect(0) for _ in range(2)]
    assert command.read_state("context")["files"] == PACKED
    assert runs[0].out == runs[1].out


def test_14_folder_whose_name_is_not_utf8_works(command: Command) -> None:
    name = os.fsdecode(b"out-\xff")
    command.outputs = [command.world / name]
    command.run("all", OUTPUT_DIR=f"../{name}").expect(0)
    assert command.read_state("context")["files"] == PACKED


def test_14_running_from_a_subdirectory_changes_nothing(command: Command) -> None:
    command.run("all").expect(0)
    first = {name: (command.output / name).read_bytes() for name in command.list_output() if name != ".context-cache"}
    command.run("all", folder=command.checkout / "openhands-sdk" / "openhands").expect(0)
    assert first == {
        name: (command.output / name).read_bytes() for name in command.list_output() if name != ".context-cache"
    }


def _hold(exchange: Exchange) -> None:
    exchange.read_body()
    exchange.server.release.wait(30)  # type: ignore[attr-defined]  # of this test's own
    exchange.answer(200, {"build_id": exchange.server.start_build(exchange.request).build_id})


def test_15_second_run_in_a_directory_is_refused_and_harmless(command: Command, server: RuntimeApiServer) -> None:
    server.release = threading.Event()  # type: ignore[attr-defined]  # of this test's own
    server.script("POST /build", _hold)
    command.use(server)
    first = command.start("all")
    _wait_until(lambda: server.whole_bodies == 1)
    for task in ("all", "context", "clean", "upload", "wait", "version"):
        second = command.run(task).expect(3, "another run")
        assert second.seconds < 10
    server.release.set()  # type: ignore[attr-defined]  # of this test's own
    first.wait().expect(0)
    assert len(server.builds) == 1


def test_15_lock_is_gone_after_the_run(command: Command) -> None:
    command.run("all").expect(0)
    assert not command.output.with_name(".runtime-build.lock").exists()
    command.run("clean").expect(0)
    assert not command.output.exists()


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_15_lock_that_is_something_else_is_refused(command: Command, kind: str) -> None:
    lock = command.output.with_name(".runtime-build.lock")
    if kind == "directory":
        lock.mkdir()
    else:
        (command.world / "precious").write_text("x")
        lock.symlink_to(command.world / "precious")
    command.run("version").expect(3, ".runtime-build.lock")


def test_16_lock_of_a_killed_run_is_free(command: Command, server: RuntimeApiServer) -> None:
    server.release = threading.Event()  # type: ignore[attr-defined]  # of this test's own
    server.script("POST /build", _hold)
    command.use(server)
    first = command.start("all")
    _wait_until(lambda: server.whole_bodies == 1)
    first.signal(signal.SIGKILL)
    assert first.wait().code == -signal.SIGKILL
    command.run("version").expect(0)
    server.release.set()  # type: ignore[attr-defined]  # of this test's own
    command.run("upload").expect(5)


def _wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
