"""Rows 29, 30 and 32: full disks, half-written files, and state that somebody has changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.commands import Command
    from tests.runtime_api import RuntimeApiServer

pytestmark = pytest.mark.fault

INSIDE = "openhands-sdk/openhands/sdk"
STEPS = ("version", "dockerfile", "context")


def read_pair(command: Command) -> tuple[bytes, bytes]:
    """Return the record of the context and its archive, which must fit."""
    state = command.read_state("context")
    archive = (command.output / state["archive"]).read_bytes()
    assert hashlib.sha256(archive).hexdigest() == state["archive_sha256"]
    return (command.output / "context.json").read_bytes(), archive


@pytest.mark.parametrize("limit", [700, 1500, 5000, 20_000, 100_000])
def test_29_file_too_large_leaves_no_temporary_file(command: Command, limit: int) -> None:
    (command.checkout / INSIDE / "big.bin").write_bytes(os.urandom(300_000))
    command.run("all", order={"file_size_limit": limit}).expect(3, "File too large")
    assert not [name for name in command.list_output() if name.startswith(".tmp-")]
    command.run("all").expect(0)


def test_29_file_too_large_leaves_the_old_context_as_it_was(command: Command) -> None:
    command.run("all").expect(0)
    before = read_pair(command)
    (command.checkout / INSIDE / "big.bin").write_bytes(os.urandom(300_000))
    command.run("version").expect(0)
    command.run("dockerfile").expect(0)
    command.run("context", order={"file_size_limit": 100_000}).expect(3, "File too large")
    assert read_pair(command) == before


def test_29_full_disk_leaves_the_old_context_as_it_was(command: Command, small_disk: Path) -> None:
    command.outputs = [small_disk / "out"]
    command.environment["OUTPUT_DIR"] = str(small_disk / "out")
    command.run("all").expect(0)
    before = read_pair(command)
    (command.checkout / INSIDE / "big.bin").write_bytes(os.urandom(600_000))
    command.run("version").expect(0)
    command.run("dockerfile").expect(0)
    command.run("context").expect(3, "No space left")
    assert read_pair(command) == before
    assert not [name for name in command.list_output() if name.startswith(".tmp-")]


def test_29_full_disk_before_the_upload_sends_nothing(
    command: Command, server: RuntimeApiServer, small_disk: Path
) -> None:
    command.outputs = [small_disk / "out"]
    command.environment["OUTPUT_DIR"] = str(small_disk / "out")
    command.run("all").expect(0)
    command.use(server)
    with (small_disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    command.run("upload").expect(3, "No space left")
    assert server.count("POST /build") == 0


def test_29_id_that_cannot_be_saved_is_shown_with_the_way_back(command: Command, server: RuntimeApiServer) -> None:
    command.use(server)
    for step in STEPS:
        command.run(step).expect(0)
    command.run("upload").expect(0)
    size = len((command.output / "upload.json").read_bytes())
    (command.output / "upload.json").unlink()
    server.builds.clear()
    command.run("upload", order={"file_size_limit": size - 10}).expect(7, "build-1", "wait --build-id build-1")
    assert len(server.builds) == 1
    assert command.read_state("upload")["state"] == "intent"
    command.run("all").expect(5)
    command.run("wait", "--build-id", "build-1").expect(0)
    assert len(server.builds) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="root writes everywhere; another user's rights need root to be given")
@pytest.mark.parametrize("place", ["output", "beside"])
def test_29_directory_that_cannot_be_written_is_named(command: Command, place: str) -> None:
    command.environment["OUTPUT_DIR"] = str(command.world / "closed" / "out")
    command.outputs = [command.world / "closed" / "out"]
    folder = command.world / "closed" / ("out" if place == "output" else "")
    folder.mkdir(parents=True)
    os.chown(command.checkout, 65534, 65534)
    for path in (*command.checkout.rglob("*"), command.checkout, command.world / "home"):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    if place == "output":
        os.chown(folder.parent, 65534, 65534)
    command.run("version", order={"uid": 65534}).expect(3, "ermission denied")


def test_30_next_run_sweeps_what_a_killed_one_left(command: Command) -> None:
    command.run("version").expect(0)
    (command.output / ".tmp-abcdefgh").write_text("half")
    command.run("version").expect(0)
    assert ".tmp-abcdefgh" not in command.list_output()


MAKERS = {"version.json": "dockerfile", "dockerfile.json": "context", "context.json": "upload", "upload.json": "wait"}


@pytest.mark.parametrize("name", MAKERS)
def test_32_missing_state_names_the_task_that_makes_it(command: Command, server: RuntimeApiServer, name: str) -> None:
    command.use(server)
    command.run("all").expect(0)
    (command.output / name).unlink()
    command.run(MAKERS[name]).expect(3, name, f"runtime-build {name.removesuffix('.json')}")


def _edit(field: str, value: Any) -> Any:
    return lambda data: json.dumps(json.loads(data) | {field: value}).encode()


DAMAGE = {
    "empty": lambda _: b"",
    "cut": lambda data: data[: len(data) // 2],
    "array": lambda _: b"[]",
    "null": lambda _: b"null",
    "deep": lambda _: b"[" * 100_000,
    "digits": lambda _: b'{"schema": ' + b"1" * 5000 + b"}",
    "binary": lambda _: b"\xff\xfe\0",
    "schema": _edit("schema", 2),
    "made_from": _edit("made_from", {"version.json": 1}),
}


@pytest.mark.parametrize("name", MAKERS)
def test_32_damaged_state_names_the_task_that_makes_it(
    command: Command, server: RuntimeApiServer, subtests: pytest.Subtests, name: str
) -> None:
    command.use(server)
    command.run("all").expect(0)
    path = command.output / name
    whole = path.read_bytes()
    for damage, apply in DAMAGE.items():
        with subtests.test(damage):
            path.write_bytes(apply(whole))
            command.run(MAKERS[name]).expect(3, name, f"runtime-build {name.removesuffix('.json')}")
            assert len(server.builds) == 1


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("context.json", "archive", "../../etc/passwd"),
        ("context.json", "archive", "/etc/passwd"),
        ("context.json", "archive_sha256", "0" * 64),
        ("context.json", "files", "many"),
        ("version.json", "archive", "../elsewhere.tar.gz"),
        ("version.json", "tags", "python"),
        ("version.json", "primary_tag", "a/b:c d"),
        ("dockerfile.json", "target", "x"),
        ("dockerfile.json", "build_args", [1]),
    ],
)
def test_32_edited_state_is_found_before_anything_is_sent(
    command: Command, server: RuntimeApiServer, name: str, field: str, value: Any
) -> None:
    for step in STEPS:
        command.run(step).expect(0)
    path = command.output / name
    path.write_bytes(_edit(field, value)(path.read_bytes()))
    command.use(server)
    command.run("upload").expect(3, "runtime-build context" if field == "archive_sha256" else name)
    assert not server.requests


@pytest.mark.parametrize("name", ["Dockerfile", "BUILD_INSTRUCTIONS.md"])
def test_32_edited_dockerfile_is_found_before_it_is_sent(command: Command, server: RuntimeApiServer, name: str) -> None:
    command.run("all").expect(0)
    with (command.output / name).open("a") as file:
        file.write("RUN evil\n")
    command.use(server)
    command.run("upload").expect(3, name)
    assert not server.requests


@pytest.mark.parametrize("change", ["missing", "grown", "flipped"])
def test_32_changed_archive_is_never_sent(command: Command, server: RuntimeApiServer, change: str) -> None:
    command.run("all").expect(0)
    archive = command.output / command.read_state("context")["archive"]
    data = bytearray(archive.read_bytes())
    if change == "missing":
        archive.unlink()
    else:
        data[100] ^= 1
        archive.write_bytes(data if change == "flipped" else data + b"x")
    command.use(server)
    command.run("upload").expect(3, "runtime-build context")
    assert not server.requests


def test_32_edited_build_id_is_never_asked_for(
    command: Command, server: RuntimeApiServer, subtests: pytest.Subtests
) -> None:
    command.use(server)
    command.run("all").expect(0)
    path = command.output / "upload.json"
    whole = path.read_bytes()
    for build_id in ("", "a b", "a\x1b[31m", "../x", "x" * 300, "\u202e"):
        with subtests.test(build_id):
            path.write_bytes(_edit("build_id", build_id)(whole))
            run = command.run("wait")
            assert run.code in (3, 7, 0), run.err
            if build_id != "../x":
                run.expect(3, "upload.json")


def test_32_version_of_another_commit_is_not_packed(command: Command) -> None:
    command.run("version").expect(0)
    command.run("dockerfile").expect(0)
    path = command.output / "version.json"
    state = json.loads(path.read_bytes())
    path.write_bytes(path.read_bytes().replace(state["sha"].encode(), b"0" * 40))
    command.run("context").expect(3, "version.json")
