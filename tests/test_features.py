"""What a server lists as its features: asked once, briefly, and never trusted to exist."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from buildkit.runtime_api.client import RuntimeApi
from buildkit.runtime_api.http import Network
from buildkit.secret import ApiKey
from tests.misbehaviour import answer, close_at_once, drip, stay_silent
from tests.runtime_api import KEY, RuntimeApiServer
from tests.serving import Served

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.commands import Command
    from tests.runtime_api import Exchange

LISTED = {"name": "runtime-build", "version": "1", "features": ["idempotency"]}


def open_api(url: str) -> RuntimeApi:
    return RuntimeApi(url, ApiKey(KEY), network=Network(read_s=1))


def test_our_own_server_lists_its_features(tmp_path: Path, command: Command) -> None:
    with Served(
        tmp_path / "server", settings={"RUNTIME_API_KEY": KEY, "RUNTIME_API_URL": "http://127.0.0.1"}
    ) as served:
        assert {"idempotency", "cancel", "follow", "builds"} <= open_api(served.url).features()
        run = command.run("doctor", RUNTIME_API_URL=served.url, RUNTIME_API_KEY=KEY).succeed()
    assert "idempotency" in run.err


def test_list_is_asked_for_as_json(runtime_api: RuntimeApiServer) -> None:
    runtime_api.always("GET /", answer(200, LISTED))
    assert open_api(runtime_api.url).features() == {"idempotency"}
    assert runtime_api.requests[-1].headers["accept"] == "application/json"


def test_base_url_may_have_a_path(runtime_api: RuntimeApiServer) -> None:
    runtime_api.always("GET /api/", answer(200, LISTED))
    assert open_api(f"{runtime_api.url}/api/").features() == {"idempotency"}


@pytest.mark.parametrize(
    "behaviour",
    [
        answer(404, LISTED),
        answer(401, LISTED),
        answer(500, LISTED),
        answer(302, LISTED, {"Location": "/features"}),
        answer(204),
        answer(200, b"<html><body>Welcome</body></html>", {"Content-Type": "text/html"}),
        answer(200, ["idempotency"]),
        answer(200, {"features": "idempotency"}),
        answer(200, {"features": [1, None, ["idempotency"], "IDEMPOTENCY", "a b", "x" * 33]}),
        answer(200, b'{"features": ["idempotency"', {"Content-Length": "100"}),
        answer(200, b" " * 2_000_000),
        close_at_once,
        stay_silent,
        drip(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 100, 0.1),
    ],
)
def test_anything_but_a_list_means_no_features_and_one_request(
    runtime_api: RuntimeApiServer, behaviour: Callable[[Exchange], None]
) -> None:
    runtime_api.always("GET /", behaviour)
    assert open_api(runtime_api.url).features() == frozenset()
    assert runtime_api.connections == 1


def test_server_that_is_not_there_has_no_features() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    assert open_api(url).features() == frozenset()


def test_doctor_shows_that_none_are_listed(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    findings = {finding["subject"]: finding for finding in command.run("doctor", "--json").succeed().record["findings"]}
    assert findings["features"]["detail"] == "none listed"
