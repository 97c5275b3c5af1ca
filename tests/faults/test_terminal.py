"""Rows 57 to 60: what is printed, to whom, and what never is."""

from __future__ import annotations

import base64
import os
import re
import sys
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest

from buildkit.models import TARGETS
from tests.footprints import list_secret_forms
from tests.misbehaviour import answer, send
from tests.runtime_api import KEY
from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    from tests.commands import Command
    from tests.runtime_api import RuntimeApiServer

pytestmark = pytest.mark.fault

INSIDE = "openhands-sdk/openhands/sdk"
EVIL = "a\x1b]0;title\x07b\x1b[2J\rc\u202ed\u2028e\x9bf\x00g\u200bh"
SHELL = ("sh", "-c")


@pytest.mark.parametrize("status", ["FAILURE", "CANCELLED", "EXPIRED"])
def test_57_error_of_a_build_is_escaped(command: Command, server: RuntimeApiServer, status: str) -> None:
    server.statuses[0] = status
    server.error = EVIL
    server.log = EVIL.encode() * 3
    command.use(server)
    run = command.run("all").expect(6, "\\x1b")
    assert command.read_state("wait")["status"] == status
    assert run.err.count("error: ") == 1


@pytest.mark.parametrize(
    "reply",
    [
        answer(400, {"detail": EVIL}),
        answer(400, EVIL.encode()),
        answer(200, {"build_id": EVIL}),
        answer(307, b"", {"Location": "https://h/\u202e".encode().decode("latin-1")}),
        send(b"HTTP/1.1 400 Bad \x1b[31m\x07 Reason\r\nContent-Length: 0\r\n\r\n"),
        send(b"HTTP/1.1 500 X\r\nX-Evil: \x1b[31m\r\nContent-Length: 1\r\n\r\n\x1b"),
        send(b"\x1b[31m garbage \x07\r\n\r\n"),
    ],
)
def test_57_answer_to_the_upload_is_escaped(command: Command, server: RuntimeApiServer, reply: Any) -> None:
    command.use(server)
    server.always("POST /build", reply)
    run = command.run("all", order={"virtual_time": True})
    assert run.code in (4, 5), run.err


@pytest.mark.parametrize("field", ["status", "image", "error"])
def test_57_status_is_escaped(command: Command, server: RuntimeApiServer, field: str) -> None:
    command.use(server)
    server.script("GET /build_status", answer(200, {"status": "RUNNING", field: EVIL}))
    server.script("GET /build_status", answer(200, {"status": "SUCCESS", "image": EVIL, field: EVIL}))
    run = command.run("all", order={"virtual_time": True})
    assert run.code == 0, run.err


def test_57_prefix_of_the_registry_is_escaped(command: Command, server: RuntimeApiServer) -> None:
    server.prefix = EVIL
    command.use(server)
    run = command.run("all")
    assert run.code in (2, 4), run.err
    assert not server.builds


def test_57_names_of_files_are_escaped(command: Command) -> None:
    for name in ("bidi-\u202egpj.exe", os.fsdecode(b"latin-\xe9"), "zero\u200bwidth", "c1-\x9bm"):
        (command.checkout / INSIDE / name).write_text("x")
    for arguments in (
        ("all",),
        ("context", "--files"),
        ("context", "--explain", f"{INSIDE}/bidi-\u202egpj.exe"),
        ("doctor",),
    ):
        run = command.run(*arguments)
        assert run.code in (0, 4), run.err


def test_57_words_of_the_command_line_are_escaped(command: Command) -> None:
    for arguments in (
        (f"x{EVIL[:5]}",),
        ("version", "--output-dir", "a\x1b[31m"),
        ("context", "--explain", "\x1b[31m"),
        ("wait", "--build-id", "\x1b"),
    ):
        run = command.run(*arguments)
        assert run.code in (2, 3), run.err


def test_57_log_keeps_its_words_and_loses_its_colours(command: Command, server: RuntimeApiServer) -> None:
    server.log = b"\x1b[31mred\x1b[0m\nprogress 10%\rprogress 100%\n\x07bell\n" + EVIL.encode()
    command.use(server)
    run = command.run("logs", "--build-id", "x").expect(0)
    assert run.out.splitlines()[:2] == ["red", "progress 100%"]


STREAMS = ["1>&-", "2>&-", "1>&- 2>&-", "1>/dev/full", "2>/dev/full", "1>/dev/full 2>/dev/full", "0<&- 1>&- 2>&-"]


@pytest.mark.parametrize("flags", rest_is_slow([("--json",), ()], 1))
@pytest.mark.parametrize("streams", STREAMS)
def test_58_closed_or_full_streams_change_nothing(
    command: Command, server: RuntimeApiServer, streams: str, flags: tuple[str, ...]
) -> None:
    command.use(server)
    program = (*SHELL, f'exec "$@" {streams}', "sh", sys.executable, "-m", "buildkit")
    run = command.run("all", *flags, program=program)
    assert run.code == 0, run.err
    assert command.read_state("wait")["status"] == "SUCCESS"
    assert len(server.builds) == 1


@pytest.mark.parametrize("streams", rest_is_slow(STREAMS, 2))
def test_58_closed_or_full_streams_do_not_hide_a_failure(
    command: Command, server: RuntimeApiServer, streams: str
) -> None:
    server.statuses[0] = "FAILURE"
    command.use(server)
    program = (*SHELL, f'exec "$@" {streams}', "sh", sys.executable, "-m", "buildkit")
    assert command.run("all", "--json", program=program).code == 6


@pytest.mark.parametrize("reader", rest_is_slow(["head -0", "head -c 1", "true"], 1))
@pytest.mark.parametrize("task", ["version", "context --files", "all --json", "--list", "--help", "doctor"])
def test_58_reader_that_goes_away_changes_nothing(command: Command, task: str, reader: str) -> None:
    script = f'{{ "$@" {task}; echo $? >../code; }} | {reader}'
    run = command.run(program=(*SHELL, script, "sh", sys.executable, "-m", "buildkit"), changing=("code",))
    assert run.stderr.count(b"Broken pipe") == 0, run.err
    assert (command.world / "code").read_text().strip() == "0"


@pytest.mark.parametrize(
    "settings", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_58_narrow_encoding_changes_nothing(
    command: Command, server: RuntimeApiServer, settings: dict[str, str]
) -> None:
    (command.checkout / INSIDE / "\u00e4\u20ac.txt").write_text("x")
    command.use(server)
    run = command.run("all", **settings)
    assert run.code == 0, run.err
    assert "Image: " in run.err
    command.run("context", "--files", **settings)


@pytest.mark.parametrize("kind", ["directory", "missing", "full"])
def test_58_github_output_that_cannot_be_written_is_a_warning(
    command: Command, server: RuntimeApiServer, kind: str
) -> None:
    command.use(server)
    path = {"directory": str(command.world), "missing": str(command.world / "no" / "file"), "full": "/dev/full"}[kind]
    run = command.run("all", GITHUB_OUTPUT=path).expect(0)
    assert "warning: GITHUB_OUTPUT" in run.err


ALL_TASKS = (
    ("version",),
    ("dockerfile",),
    ("context",),
    ("context", "--files"),
    ("upload",),
    ("wait",),
    ("logs",),
    ("doctor",),
    ("manifest",),
    ("all", "--json"),
    ("clean",),
)


@pytest.mark.parametrize("debug", rest_is_slow([("-d", "-e"), (), ("-d",)], 1))
@pytest.mark.parametrize("source", ["environment", ".env"])
def test_59_key_is_in_no_output_file_archive_or_argument(
    command: Command, server: RuntimeApiServer, debug: tuple[str, ...], source: str
) -> None:
    command.use(server)
    if source == ".env":
        path = command.checkout / ".env"
        path.write_text(f"RUNTIME_API_URL={server.url}\nRUNTIME_API_KEY='{KEY}'\n")
        command.planted.add(path)
        del command.environment["RUNTIME_API_URL"], command.environment["RUNTIME_API_KEY"]
    output = command.world / "github"
    output.touch()
    for task in ALL_TASKS:
        spawned = command.world / "spawned"
        spawned.touch()
        run = command.run(
            *debug, *task, GITHUB_OUTPUT=str(output), changing=("spawned", "github"), order={"spawned": str(spawned)}
        )
        assert run.code == 0, run.err
        # The environment of a child is its own affair, but none of ours needs the key.
        assert not any(form in path.read_bytes() for form in list_secret_forms(KEY) for path in (spawned, output))
    assert {request.headers.get("x-api-key") for request in server.requests} == {KEY}
    assert len(server.builds) == 2
    server.builds.pop()  # asked for by `all`, after the one that `upload` asked for had ended


FORMS = {
    "plain": KEY,
    "base64": base64.b64encode(KEY.encode()).decode(),
    "base64 of more": base64.b64encode(f"me:{KEY}".encode()).decode(),
    "base64 of more still": base64.b64encode(f"user:{KEY}!".encode()).decode(),
    "for URLs": urllib.parse.quote(KEY, safe=""),
    "for forms": urllib.parse.quote_plus(KEY),
}


ECHOES = {"all": " ".join(FORMS.values()), **FORMS}


@pytest.mark.parametrize("form", rest_is_slow(ECHOES, 2))
@pytest.mark.parametrize("place", ["detail", "id", "error", "log", "prefix", "url", "status"])
def test_59_key_that_the_server_repeats_is_masked(
    command: Command, server: RuntimeApiServer, form: str, place: str
) -> None:
    echo = ECHOES[form]
    command.use(server)
    if place in {"detail", "id", "url"}:
        replies = {
            "detail": answer(400, {"detail": f"bad key {echo}!"}),
            "id": answer(200, {"build_id": echo}),
            "url": answer(200, {"build_id": "x", "url": f"https://{echo}.example/{echo}"}),
        }
        server.script("POST /build", replies[place])
    elif place == "prefix":
        server.prefix = f"registry.example.com/{echo}"
    elif place == "status":
        server.script("GET /build_status", answer(200, {"status": echo}))
    else:
        server.statuses[0] = "FAILURE"
        server.error, server.log = f"x {echo} y", f"log {echo}\n".encode()
    run = command.run("all", order={"virtual_time": True})
    assert run.code in (0, 2, 4, 5, 6), run.err
    if run.code == 6:
        command.run("logs")


def test_59_key_in_the_name_of_a_branch_or_a_folder_is_masked(command: Command, server: RuntimeApiServer) -> None:
    command.secret = "plain-key-of-some-length"
    command.use(server)
    (command.checkout / command.secret).mkdir()
    command.run("doctor").expect(0)
    command.run("version", OUTPUT_DIR=command.secret, folder=command.checkout).expect(2)


@pytest.mark.parametrize("target", TARGETS)
def test_60_no_secret_in_arguments_or_environment_of_the_image(
    command: Command, server: RuntimeApiServer, target: str
) -> None:
    command.use(server)
    command.run("all", TARGET=target).expect(0)
    text = (command.output / "Dockerfile").read_text()
    named = re.findall(r"^(?:ARG|ENV)\s+([A-Za-z_][A-Za-z0-9_]*)", text, re.MULTILINE)
    assert named
    secretive = re.compile(r"(?i)(^|_)(api_?key|auth|credentials?|key|pass|password|passwd|secret|token)s?(_|$)")
    assert not [name for name in named if secretive.search(name)]
    assert "RUNTIME_API" not in text


@pytest.mark.parametrize(
    "argument", ["API_KEY=x", "GITHUB_TOKEN=x", "DB_PASSWORD=x", "PIP_INDEX_URL=https://u:p@h/simple"]
)
def test_60_secret_as_build_argument_is_refused(command: Command, argument: str) -> None:
    run = command.run("all", BUILD_ARGS=argument).expect(2, "BUILD_ARGS")
    assert "u:p@" not in run.err
    assert not command.output.exists()
