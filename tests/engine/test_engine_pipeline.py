"""The whole pipeline as CI runs it: the example, `all` against `serve` on a real engine, a live log, and `verify`."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildkit.engines.container import inspect_image
from tests.checkouts import commit_all
from tests.commands import Command
from tests.serving import Served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.engines.engine import Engine

EXAMPLE = Path(__file__).parents[2] / "examples/agent-server"
KEY = "key-for-the-pipeline"


@pytest.fixture
def engine_environment(docker: Engine) -> dict[str, str]:
    """What leads both sides to the engine of the session."""
    return {name: os.environ[name] for name in ("DOCKER_HOST", "DOCKER_CONFIG", "PATH")} | {"ENGINE": docker.name}


@pytest.fixture
def served(engine_environment: dict[str, str], tmp_path: Path) -> Iterator[Served]:
    own = {"RUNTIME_API_KEY": KEY}
    with Served(tmp_path / "server", ("--network", "host"), own | engine_environment) as server:
        yield server


@pytest.fixture
def command(engine_environment: dict[str, str], served: Served, debian_base: str, tmp_path: Path) -> Command:
    """The real command in a checkout of the example."""
    checkout = tmp_path / "world/checkout"
    shutil.copytree(EXAMPLE, checkout, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
    commit_all(checkout)
    own = {"BASE_IMAGE": debian_base, "TARGET": "source-minimal"}
    api = {"RUNTIME_API_URL": served.url, "RUNTIME_API_KEY": KEY}
    return Command(checkout, own | api | engine_environment)


def test_the_example_becomes_a_verified_image(command: Command, served: Served, docker: Engine) -> None:
    running = command.start("all", "--follow")
    running.wait_for("Build initiated with ID: ")
    (build_id,) = re.findall(r"Build initiated with ID: (\S+)", running.read_err())
    running.wait_for("] RUN ")
    is_live = served.status(build_id)["status"] == "RUNNING"
    image = running.wait(300).succeed().result
    assert is_live
    assert served.status(build_id) | {"status": "SUCCESS", "image": image} == served.status(build_id)
    assert inspect_image(docker, image).labels["org.opencontainers.image.revision"].startswith(command.short_sha)
    verified = command.run("verify")
    assert (verified.code, verified.result) == (0, image), verified.err
    assert "FAIL" not in verified.err
