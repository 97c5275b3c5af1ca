"""Defects of the programs that came before this one, where no row of the fault table shows them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.misbehaviour import answer

if TYPE_CHECKING:
    from tests.commands import Command
    from tests.runtime_api import RuntimeApiServer

pytestmark = pytest.mark.fault

INSIDE = "openhands-sdk/openhands/sdk"


@pytest.mark.parametrize(
    "name", ["../../x.tar.gz", "/tmp/x.tar.gz", "a/b.tar.gz", "..", ".tar.gz", "x", "a\nb.tar.gz", "-x.tar.gz", "x.zip"]
)
def test_name_of_the_archive_never_leaves_the_folder(command: Command, name: str) -> None:
    command.run("all", OUTPUT_NAME=name).expect(2, "OUTPUT_NAME")
    assert not command.output.exists()


@pytest.mark.parametrize("prefix", [None, "", "/", 404])
def test_server_without_a_prefix_gives_no_none_in_the_name(
    command: Command, server: RuntimeApiServer, prefix: Any
) -> None:
    if prefix == 404:
        server.always("GET /registry_prefix", answer(404, b"{}"))
    else:
        server.prefix = prefix
    command.use(server)
    command.run("all").expect(0)
    assert server.builds[0].target_image.startswith("agent-server:")


@pytest.mark.parametrize("name", ["pyproject.toml", "uv.lock"])
def test_missing_project_file_is_not_passed_over(command: Command, name: str) -> None:
    (command.checkout / name).unlink()
    command.run("all", SOURCE_DIR=str(command.checkout)).expect(3, name)


@pytest.mark.parametrize("tags", [",", " , ", ""])
def test_list_without_tags_is_the_default_tag(command: Command, tags: str) -> None:
    assert command.run("version", CUSTOM_TAGS=tags).expect(0).out.endswith("-python\n")


def test_thousands_of_files_and_megabytes_arrive_whole(command: Command, server: RuntimeApiServer) -> None:
    folder = command.checkout / INSIDE / "many"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number}.txt").write_text(str(number))
    (folder / "random.bin").write_bytes(os.urandom(2_000_000))
    command.use(server)
    command.run("all").expect(0)
    archive = (command.output / command.read_state("context")["archive"]).read_bytes()
    assert [build.archive_sha256 for build in server.builds] == [hashlib.sha256(archive).hexdigest()]


def test_answer_in_any_layout_is_understood(command: Command, server: RuntimeApiServer) -> None:
    server.script("POST /build", answer(200, json.dumps({"x": None, "build_id": "b-1"}, indent=8).encode()))
    command.use(server)
    command.run("all").expect(0)
    assert command.read_state("upload")["build_id"] == "b-1"


def test_tasks_in_a_chain_end_like_tasks_alone(command: Command, server: RuntimeApiServer) -> None:
    command.use(server)
    run = command.run("version", "dockerfile", "context", "upload", "wait").expect(0)
    assert len(run.out.splitlines()) == 5
    server.statuses[0] = "FAILURE"
    chain = ("version", "dockerfile", "context", "upload", "wait", "clean")
    command.run(*chain, CUSTOM_TAGS="another").expect(6)
    assert (command.output / "wait.json").exists()


@pytest.mark.parametrize("arguments", [("bogus",), ("all", "--bogus"), ("version", "--target", "x"), ("--bogus",)])
def test_misspelt_command_line_is_bad_usage(command: Command, arguments: tuple[str, ...]) -> None:
    command.run(*arguments).expect(2)
    assert not command.output.exists()


@pytest.mark.parametrize(("settings", "code"), [({}, 0), ({"BASE_IMAGE": "a b"}, 2), ({"MAX_CONTEXT_BYTES": "10"}, 3)])
def test_invoke_itself_gives_the_same_codes(command: Command, settings: dict[str, str], code: int) -> None:
    (command.checkout / "tasks.py").write_text(
        "from buildkit.tasks import make_collection\nns = make_collection(__file__, CUSTOM_TAGS='own')\n"
    )
    program = (sys.executable, "-B", "-m", "invoke")
    run = command.run("all", program=program, **settings).expect(code)
    assert code or run.out.endswith("-own.tar.gz\n")
