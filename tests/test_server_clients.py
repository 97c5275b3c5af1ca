"""Clients that exist: our own in both forms, and three of other projects, whose code is fetched and not kept here."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.checkouts import commit_all
from tests.known_clients import DRIVER, fetch_builder, run_client
from tests.runtime_api import KEY
from tests.serving import DOCKERFILE, Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.commands import Command

# Commits of the script and of its port.
SCRIPT = "9a1c79b86fd5fc66bb0a5b630c017fe4264efc06:openhands/agent_server/docker/build_for_runtime_api.sh"
PORT = "fcde07cfa257d35106792dffd52e142ea94b1a4f:openhands/agent_server/docker/build_for_runtime_api.py"
# A clone of the agent server's repository, which has those commits.
REPOSITORY = "RUNTIME_BUILD_AGENT_SERVER_REPOSITORY"
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
    """A small checkout in the shape that the script and its port expect, with a place for them."""
    root = tmp_path / "checkout"
    for name in ("pyproject.toml", "uv.lock", "LICENSE", "README.md", "openhands/agent_server/docker/.keep"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    for name in ("sdk", "tools", "workspace"):
        (root / "openhands" / name).mkdir()
    commit_all(root)
    return root


def show(blob: str) -> str:
    """Return a file of another project's history."""
    repository = os.environ.get(REPOSITORY)
    if repository is None:
        pytest.skip(f"{REPOSITORY} does not name a clone")
    done = subprocess.run(["git", "-C", repository, "show", blob], capture_output=True, text=True, check=True)
    return done.stdout


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
    arguments = [str(packages), served.url, KEY, str(context)]
    done = run_client([sys.executable, "-c", DRIVER, *arguments], tmp_path, PYTHONPATH=str(packages))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "registry.example.com/runtime:oh_1\n"


def test_openhands_accepts_a_base_url_with_a_slash(served: Served, packages: Path, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(DOCKERFILE)
    arguments = [str(packages), f"{served.url}/", KEY, str(tmp_path / "context")]
    done = run_client([sys.executable, "-c", DRIVER, *arguments], tmp_path, PYTHONPATH=str(packages))
    assert done.returncode == 0, done.stderr


def test_the_old_script_gets_its_image(served: Served, agent_server: Path, tmp_path: Path) -> None:
    script = agent_server / "openhands/agent_server/docker/build_for_runtime_api.sh"
    script.write_text(show(SCRIPT))
    sleep = tmp_path / "bin/sleep"  # half a minute between two polls is for others
    sleep.parent.mkdir()
    sleep.write_text("#!/bin/sh\nexec /bin/sleep 0.1\n")
    sleep.chmod(0o755)
    environment = {"RUNTIME_API_URL": served.url, "RUNTIME_API_KEY": KEY, "OUTPUT_DIR": str(tmp_path / "out")}
    path = f"{sleep.parent}{os.pathsep}{os.environ['PATH']}"
    done = run_client(["bash", str(script)], agent_server, **environment, PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Build completed successfully" in done.stdout


def test_the_port_of_the_script_gets_its_image(packages: Path, agent_server: Path, tmp_path: Path) -> None:
    script = agent_server / "openhands/agent_server/docker/build_for_runtime_api.py"
    script.write_text(show(PORT).replace("time.sleep(10)", "time.sleep(0.1)"))
    settings = {"RUNTIME_API_KEY": KEY, "RUNTIME_API_URL": "http://127.0.0.1", "REGISTRY_PREFIX": PREFIX}
    with Served(tmp_path / "server", settings=settings) as server:
        environment = {"RUNTIME_API_URL": f"{server.url}/", "RUNTIME_API_KEY": KEY, "PYTHONPATH": str(packages)}
        done = run_client([sys.executable, str(script)], agent_server, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Build completed successfully" in done.stdout
