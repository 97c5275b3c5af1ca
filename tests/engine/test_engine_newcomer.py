"""What the README promises to somebody whose machine has Python and nothing else, typed in an empty container."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from buildkit.engines.engine import Engine

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PROJECT = """[project]
name = "your-service"
version = "1.0"
requires-python = ">=3.11"
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
"""


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A service with the `.env` that the README shows; no git, and no lock file."""
    folder = tmp_path / "your-service"
    (folder / "your_service").mkdir(parents=True)
    (folder / "your_service/__main__.py").write_text("print('hello')\n")
    (folder / "pyproject.toml").write_text(PROJECT)
    (shown,) = re.findall(r"^```sh\n(SERVER_MODULE=.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (folder / ".env").write_text(shown)
    return folder


def test_the_first_archive_takes_two_commands(docker: Engine, debian_base: str, service: Path, tmp_path: Path) -> None:
    """The package is not published, so pip finds this checkout's wheel under the name that the README gives."""
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (package,) = set(re.findall(r"^uv tool install ('\S+')", README, re.MULTILINE))
    install = f"python3 -m venv /venv && /venv/bin/pip install --quiet --find-links=/wheels {package}"
    script = f"{install} && cd /your-service && PATH=/venv/bin:$PATH runtime-build all"
    folders = [f"--volume={folder}:/{folder.name}" for folder in (wheels, service)]
    done = docker.run("run", "--rm", "--network=host", *folders, debian_base, "sh", "-c", script, timeout_s=300)
    if "No matching distribution" in done.stderr or "Connection" in done.stderr:
        pytest.skip("the dependencies cannot be had here")
    assert done.code == 0, done.stderr
    assert done.stdout == "runtime-build/agent-server-unknown-python.tar.gz"
    with tarfile.open(service / done.stdout) as archive:
        assert {"Dockerfile", "pyproject.toml", "your_service/__main__.py"} <= set(archive.getnames())
    assert "nothing was sent: RUNTIME_API_URL is not set" in done.stderr
