"""Tasks `builds` and `cancel`: what a server lists and cancels, and what is said if it does neither."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from buildkit.runtime_api.protocol import ListedBuild
from buildkit.tasks.builds import format_build
from tests.misbehaviour import answer, close_at_once
from tests.runtime_api import KEY, RuntimeApiServer
from tests.serving import DOCKERFILE, Served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.commands import Command


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Iterator[Served]:
    settings = {"RUNTIME_API_KEY": KEY, "RUNTIME_API_URL": "http://127.0.0.1"}
    with Served(tmp_path_factory.mktemp("server"), settings=settings) as server:
        command.environment |= {"RUNTIME_API_URL": server.url, "RUNTIME_API_KEY": KEY}
        yield server


def test_builds_of_our_own_server_are_listed(command: Command, served: Served) -> None:
    first, second = served.build(), served.build(target_image="other:2")
    served.wait(first)
    served.wait(second)
    newest, oldest = f"{second}  SUCCESS  other:2  ", f"{first}  SUCCESS  app:1  "
    lines = command.run("builds").succeed().out.splitlines()
    assert [line.startswith(start) for line, start in zip(lines, [newest, oldest], strict=True)] == [True, True]
    assert command.run("builds", "--limit", "1").succeed().result.startswith(newest)
    assert command.run("builds", "--image", "app", "--status", "success").succeed().result.startswith(oldest)
    assert command.run("builds", "--status", "FAILURE").succeed().out == ""
    record = command.run("builds", "--json", "--image", "other").succeed().record
    assert [(build["build_id"], build["image"]) for build in record["builds"]] == [(second, "other:2")]


def test_build_of_our_own_server_is_cancelled(command: Command, served: Served) -> None:
    build_id = served.build(f"{DOCKERFILE}RUN sleep 30\n")
    served.wait(build_id, "RUNNING")
    command.run("cancel", "--build-id", build_id).succeed()
    assert served.wait(build_id)["status"] == "CANCELLED"
    assert command.run("cancel", "--build-id", build_id).succeed().result == "CANCELLED"
    command.run("cancel", "--build-id", "nothing").expect(4, "the server does not know the build nothing", "builds")


def test_build_on_record_is_cancelled(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    command.run("all", "--no-wait").succeed()
    runtime_api.script("POST /builds/build-1/cancel", close_at_once)
    runtime_api.always("POST /builds/build-1/cancel", answer(200, {"build_id": "build-1", "status": "CANCELLED"}))
    ended = command.run("cancel", "--json", order={"virtual_time": True}).succeed()
    assert ended.record == {"schema": 1, "build_id": "build-1", "status": "CANCELLED"}
    assert runtime_api.count("POST /builds/build-1/cancel") == 2


def test_nothing_to_cancel_is_an_error(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    command.run("cancel").expect(3, "upload")
    assert not runtime_api.requests


@pytest.mark.parametrize("status", [404, 405, 501])
def test_server_that_cancels_and_lists_nothing_is_named(
    command: Command, runtime_api: RuntimeApiServer, status: int
) -> None:
    command.use(runtime_api)
    runtime_api.always("POST /builds/a%2Fb/cancel", answer(status))
    runtime_api.always("GET /builds", answer(status))
    command.run("cancel", "--build-id", "a/b").expect(4, "this Runtime API cannot cancel builds", f"HTTP {status}")
    command.run("builds").expect(4, "this Runtime API does not list builds", f"HTTP {status}")
    assert runtime_api.count("GET /builds") == 1


def test_refused_key_is_said(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    runtime_api.always("GET /builds", answer(401, {"detail": "who are you"}))
    command.run("builds").expect(4, "who are you", "RUNTIME_API_KEY")


def test_what_a_server_lists_is_escaped_and_checked(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    now = time.time()
    entries = [
        {"build_id": "a", "status": "\x1b[2Jrunning\n", "target_image": "r/i:1\u202e\nb  SUCCESS", "created_at": now},
        {"build_id": "b\n", "status": "SUCCESS"},
        {"build_id": 3, "status": 4, "target_image": [KEY], "created_at": "yesterday"},
        {"build_id": "d", "target_image": KEY, "created_at": float("1e300")},
        "e",
    ]
    runtime_api.always("GET /builds", answer(200, {"builds": entries}))
    first, second, third = command.run("builds").succeed().out.splitlines()
    assert first.startswith("a  \\x1b[2JRUNNING  r/i:1\\u202e\\nb  SUCCESS  ")
    assert second == "3  -  -  -"
    assert third == "d  -  ***  -"
    command.run("builds", "--json").succeed()


@pytest.mark.parametrize("body", [{}, {"builds": {}}, [], b"<html>"])
def test_unusable_list_is_an_error(command: Command, runtime_api: RuntimeApiServer, body: object) -> None:
    command.use(runtime_api)
    runtime_api.always("GET /builds", answer(200, body))
    command.run("builds").expect(4, "GET")


@pytest.mark.parametrize("limit", ["0", "501", "x", "-1", "9" * 5000, "٣"])
def test_limit_is_checked_before_anything_is_sent(command: Command, runtime_api: RuntimeApiServer, limit: str) -> None:
    command.use(runtime_api)
    command.run("builds", f"--limit={limit}").expect(2, "--limit")
    assert not runtime_api.requests


@pytest.mark.parametrize(
    ("age_s", "shown"), [(-5.0, "0s"), (59.9, "59s"), (60, "1m"), (7300, "2h"), (200_000, "2d"), (None, "-")]
)
def test_age_is_given_in_its_largest_unit(age_s: float | None, shown: str) -> None:
    created_at = None if age_s is None else 1e9 - age_s
    assert format_build(ListedBuild("a", "QUEUED", "r/i:1", created_at), 1e9) == f"a  QUEUED  r/i:1  {shown}"
