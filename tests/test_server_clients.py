"""Clients that exist: our own in both forms, and three of other projects, whose code is fetched and not kept here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.known_clients import fetch_builder, make_agent_server, run_builder, run_old_script, run_port
from tests.runtime_api import KEY
from tests.serving import DOCKERFILE, Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.commands import Command

PREFIX = "localhost:1/team"


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(
        tmp_path_factory.mktemp("server"), settings={"RUNTIME_API_KEY": KEY, "RUNTIME_API_URL": "http://127.0.0.1"}
    ) as server:
        yield server


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and what its builder needs."""
    return fetch_builder(tmp_path_factory.mktemp("packages"))


@pytest.fixture
def agent_server(tmp_path: Path) -> Path:
    return make_agent_server(tmp_path / "checkout")


@pytest.mark.parametrize("form", ["json", "multipart"])
def test_our_own_client_gets_its_image(command: Command, served: Served, form: str) -> None:
    command.environment |= {"RUNTIME_API_URL": served.url, "RUNTIME_API_KEY": KEY, "UPLOAD_FORMAT": form}
    ended = command.run("all").succeed()
    assert ended.result == f"agent-server:{command.short_sha}-python-source-minimal"
    assert served.call("GET", "/image_exists", image=ended.result).record["exists"] is True
    assert "COPY" in command.run("logs").succeed().out
    assert "FAIL" not in command.run("doctor").succeed().err


def test_our_own_client_builds_below_the_prefix(command: Command, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {"RUNTIME_API_KEY": KEY, "RUNTIME_API_URL": "http://127.0.0.1", "REGISTRY_PREFIX": PREFIX}
    with Served(tmp_path_factory.mktemp("server"), settings=settings) as server:
        command.environment |= {"RUNTIME_API_URL": server.url, "RUNTIME_API_KEY": KEY}
        ended = command.run("all").succeed()
    assert ended.result.startswith(f"{PREFIX}/agent-server:")


def test_openhands_builds_and_finds_its_image(served: Served, packages: Path, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    done = run_builder(packages, served.url, KEY, context)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "registry.example.com/runtime:oh_1\n"


def test_openhands_accepts_a_base_url_with_a_slash(served: Served, packages: Path, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(DOCKERFILE)
    done = run_builder(packages, f"{served.url}/", KEY, tmp_path / "context")
    assert done.returncode == 0, done.stderr


def test_the_old_script_gets_its_image(served: Served, agent_server: Path) -> None:
    done = run_old_script(agent_server, RUNTIME_API_URL=served.url, RUNTIME_API_KEY=KEY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Build completed successfully" in done.stdout


def test_the_port_of_the_script_gets_its_image(packages: Path, agent_server: Path, tmp_path: Path) -> None:
    settings = {"RUNTIME_API_KEY": KEY, "RUNTIME_API_URL": "http://127.0.0.1", "REGISTRY_PREFIX": PREFIX}
    with Served(tmp_path / "server", settings=settings) as server:
        done = run_port(agent_server, packages, RUNTIME_API_URL=f"{server.url}/", RUNTIME_API_KEY=KEY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Build completed successfully" in done.stdout
