"""The whole server on a real engine: our own client, OpenHands' builder, and images that are pushed."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from buildkit.engines.options import BuildOptions
from tests.engine.services import build_image
from tests.known_clients import fetch_builder, make_agent_server, run_builder, run_old_script, run_port
from tests.serving import Served, format_json, format_multipart, pack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from buildkit.engines.engine import Engine
    from tests.engine.services import MakeArchive

KEY = "key-for-the-tests-of-the-server"
# The Dockerfiles of other clients run package clients; here, these succeed at once.
TOOLS = """FROM localhost/tiny:1
RUN for name in apt-get curl pip uv; do printf '#!/bin/sh\\n' >/bin/$name && /bin/busybox chmod 755 /bin/$name; done
RUN /bin/busybox ln -s busybox /bin/rm
"""
DOCKERFILE = "FROM localhost/tiny:1\nCOPY . /app\nRUN cat /app/Dockerfile\n"


@pytest.fixture
def settings(docker: Engine, tiny_base: str) -> dict[str, str]:
    """What leads the server to the engine of the session."""
    assert tiny_base == "localhost/tiny:1"
    inherited = {name: os.environ[name] for name in ("DOCKER_HOST", "DOCKER_CONFIG")}
    return {"PATH": os.environ["PATH"], "ENGINE": docker.name, "RUNTIME_API_KEY": KEY, **inherited}


@pytest.fixture
def served(settings: dict[str, str], tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path / "server", ("--network", "host"), settings) as server:
        yield server


def test_openhands_builds_and_finds_its_image(served: Served, tmp_path: Path) -> None:
    packages = fetch_builder(tmp_path / "packages")
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(DOCKERFILE)
    done = run_builder(packages, served.url, KEY, tmp_path / "context")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "registry.example.com/runtime:oh_1\n"


@pytest.fixture
def tools_image(docker: Engine, tiny_base: str, make_archive: MakeArchive) -> str:
    """An image that the script and its port can start from."""
    build_image(docker, make_archive({"Dockerfile": TOOLS}), "localhost/tools:1", BuildOptions(network="host"))
    return "localhost/tools:1"


def test_the_old_script_gets_its_image(served: Served, tools_image: str, tmp_path: Path) -> None:
    checkout = make_agent_server(tmp_path / "checkout")
    done = run_old_script(checkout, RUNTIME_API_URL=served.url, RUNTIME_API_KEY=KEY, BASE_IMAGE=tools_image)
    assert done.returncode == 0, done.stdout + done.stderr
    (image,) = re.findall(r"Image: (\S+)", done.stdout)
    assert served.call("GET", "/image_exists", image=image).record["exists"] is True


def test_the_port_of_the_script_pushes_its_image(
    settings: dict[str, str], registry: str, tools_image: str, tmp_path: Path
) -> None:
    packages = fetch_builder(tmp_path / "packages")
    more = {"REGISTRY_PREFIX": f"{registry}/team"}
    with Served(tmp_path / "server", ("--network", "host"), settings | more) as server:
        access = {"RUNTIME_API_URL": server.url, "RUNTIME_API_KEY": KEY, "BASE_IMAGE": tools_image}
        done = run_port(make_agent_server(tmp_path / "checkout"), packages, **access)
        assert done.returncode == 0, done.stdout + done.stderr
        (image,) = set(re.findall(rf"{re.escape(registry)}/team/agent-server:\S+", done.stdout + done.stderr))
        assert server.call("GET", "/image_exists", image=image).record["exists"] is True


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
    more = {"REGISTRY_PREFIX": f"{registry}/team"}
    with Served(tmp_path / "server", ("--network", "host"), settings | more) as server:
        name = f"{registry}/team/app:1"
        assert server.call("GET", "/image_exists", image=name).record == {"exists": False}
        answer = server.post(format_multipart(pack(dockerfile=DOCKERFILE), name))
        state = server.wait(answer.record["build_id"], timeout_s=60)
        assert (state["status"], state.get("image")) == ("SUCCESS", name), state
        image = server.call("GET", "/image_exists", image=name).record["image"]
        assert image["image_size_bytes"] > 0
        assert image["upload_time"]
