"""The whole server on a real engine: our own client, OpenHands' builder, and images that are pushed."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.known_clients import DRIVER, fetch_builder, run_client
from tests.serving import Served, format_json, format_multipart, pack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from buildkit.engines.engine import Engine

KEY = "key-for-the-tests-of-the-server"
DOCKERFILE = "FROM localhost/tiny:1\nCOPY . /app\nRUN cat /app/Dockerfile\n"


@pytest.fixture
def settings(docker: Engine, tiny_base: str) -> dict[str, str]:
    """What leads the server to the engine of the session."""
    assert tiny_base == "localhost/tiny:1"
    inherited = {name: os.environ[name] for name in ("DOCKER_HOST", "DOCKER_CONFIG")}
    return {"PATH": os.environ["PATH"], "ENGINE": docker.name, "RUNTIME_API_KEY": KEY, **inherited}


@pytest.fixture
def served(settings: dict[str, str], tmp_path: Path) -> Iterator[Served]:
    url = {"RUNTIME_API_URL": "http://127.0.0.1"}
    with Served(tmp_path / "server", ("--network", "host"), settings | url) as server:
        yield server


def test_openhands_builds_and_finds_its_image(served: Served, tmp_path: Path) -> None:
    packages = fetch_builder(tmp_path / "packages")
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(DOCKERFILE)
    arguments = [str(packages), served.url, KEY, str(tmp_path / "context")]
    done = run_client([sys.executable, "-c", DRIVER, *arguments], tmp_path, PYTHONPATH=str(packages))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "registry.example.com/runtime:oh_1\n"


def test_a_build_has_its_log_and_its_image(served: Served) -> None:
    answer = served.post(format_json(pack(dockerfile=DOCKERFILE), "localhost/served:1"))
    state = served.wait(answer.record["build_id"], timeout_s=60)
    assert state["status"] == "SUCCESS", state
    log = served.call("GET", "/build_logs", build_id=answer.record["build_id"]).body.decode()
    assert "COPY . /app" in log
    image = served.call("GET", "/image_exists", image="localhost/served:1").record["image"]
    assert image["image_size_bytes"] > 0


def test_a_failing_step_is_named(served: Served) -> None:
    build_id = served.build(f"{DOCKERFILE}RUN false-command\n", "localhost/failed:1")
    state = served.wait(build_id, timeout_s=60)
    assert state["status"] == "FAILURE"
    assert "false-command" in state["error"]
    assert served.call("GET", "/image_exists", image="localhost/failed:1").record == {"exists": False}


def test_images_are_pushed_below_the_prefix(settings: dict[str, str], registry: str, tmp_path: Path) -> None:
    more = {"RUNTIME_API_URL": "http://127.0.0.1", "REGISTRY_PREFIX": f"{registry}/team"}
    with Served(tmp_path / "server", ("--network", "host"), settings | more) as server:
        name = f"{registry}/team/app:1"
        assert server.call("GET", "/image_exists", image=name).record == {"exists": False}
        answer = server.post(format_multipart(pack(dockerfile=DOCKERFILE), name))
        state = server.wait(answer.record["build_id"], timeout_s=60)
        assert (state["status"], state.get("image")) == ("SUCCESS", name), state
        image = server.call("GET", "/image_exists", image=name).record["image"]
        assert image["image_size_bytes"] > 0
        assert image["upload_time"]
