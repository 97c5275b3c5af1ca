"""Clients of other projects, whose code is fetched and not kept here, each run in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.checkouts import commit_all

if TYPE_CHECKING:
    from pathlib import Path

Done = subprocess.CompletedProcess[str]

# A clone of the agent server's repository, which has the script, its port, and these commits of them.
_REPOSITORY = "RUNTIME_BUILD_AGENT_SERVER_REPOSITORY"
_FOLDER = "openhands/agent_server/docker"
_SCRIPT = f"9a1c79b86fd5fc66bb0a5b630c017fe4264efc06:{_FOLDER}/build_for_runtime_api.sh"
_PORT = f"fcde07cfa257d35106792dffd52e142ea94b1a4f:{_FOLDER}/build_for_runtime_api.py"
# The last version of the package that has the builder.
_OPENHANDS = "openhands-ai==1.6.0"

# Only what the builder needs is imported: the rest of the package would need all of its dependencies.
_DRIVER = """
import importlib, logging, sys, time, types

folder, url, key, path = sys.argv[1:]
for name in ("", ".core", ".runtime", ".runtime.builder", ".runtime.utils", ".utils"):
    module = types.ModuleType(f"openhands{name}")
    module.__path__ = [f"{folder}/openhands{name.replace('.', '/')}"]
    sys.modules[module.__name__] = module
logger = types.ModuleType("openhands.core.logger")
logger.openhands_logger = logging.getLogger("openhands")
sys.modules[logger.__name__] = logger
base = importlib.import_module("openhands.runtime.builder.base")
sys.modules["openhands.runtime.builder"].RuntimeBuilder = base.RuntimeBuilder
remote = importlib.import_module("openhands.runtime.builder.remote")
remote.sleep_if_should_continue = lambda _: time.sleep(0.1)
builder = remote.RemoteRuntimeBuilder(url, key)
assert not builder.image_exists("registry.example.com/runtime:oh_1")
print(builder.build(path, ["registry.example.com/runtime:oh_1", "registry.example.com/runtime:oh_2"]))
assert builder.image_exists("registry.example.com/runtime:oh_2")
"""


def fetch_builder(folder: Path) -> Path:
    """Return the folder with the package and what its builder needs, without the package's other dependencies."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    install = ["uv", "pip", "install", "--quiet", "--target", str(folder)]
    for arguments in (["--no-deps", "--python-version", "3.12", _OPENHANDS], ["httpx", "tenacity"]):
        done = subprocess.run([*install, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{arguments[-1]} cannot be installed: {done.stderr[-200:]}")
    return folder


def run_client(command: list[str], folder: Path, **environment: str) -> Done:
    """Return what a client left, run in an environment that holds nothing else."""
    usual = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
    return subprocess.run(
        command, cwd=folder, env=usual | environment, capture_output=True, text=True, timeout=60, check=False
    )


def run_builder(packages: Path, url: str, key: str, context: Path) -> Done:
    """Have OpenHands' builder build a folder."""
    command = [sys.executable, "-c", _DRIVER, str(packages), url, key, str(context)]
    return run_client(command, packages, PYTHONPATH=str(packages))


def make_agent_server(root: Path) -> Path:
    """Return a small checkout in the shape that the script and its port expect."""
    for name in ("pyproject.toml", "uv.lock", "LICENSE", "README.md", f"{_FOLDER}/.keep"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    for name in ("sdk", "tools", "workspace"):
        (root / "openhands" / name).mkdir()
    commit_all(root)
    return root


def run_old_script(checkout: Path, **settings: str) -> Done:
    """Run the shell script in a checkout."""
    script = checkout / _FOLDER / "build_for_runtime_api.sh"
    script.write_text(_show(_SCRIPT))
    sleep = checkout.parent / "bin/sleep"  # half a minute between two polls is for others
    sleep.parent.mkdir()
    sleep.write_text("#!/bin/sh\nexec /bin/sleep 0.1\n")
    sleep.chmod(0o755)
    path = f"{sleep.parent}{os.pathsep}{os.environ['PATH']}"
    output = {"OUTPUT_DIR": str(checkout.parent / "out"), "PATH": path}
    return run_client(["bash", str(script)], checkout, **output, **settings)


def run_port(checkout: Path, packages: Path, **settings: str) -> Done:
    """Run the script's port to Python in a checkout."""
    script = checkout / _FOLDER / "build_for_runtime_api.py"
    script.write_text(_show(_PORT).replace("time.sleep(10)", "time.sleep(0.1)"))
    return run_client([sys.executable, str(script)], checkout, PYTHONPATH=str(packages), **settings)


def _show(blob: str) -> str:
    """Return a file of another project's history."""
    repository = os.environ.get(_REPOSITORY)
    if repository is None:
        pytest.skip(f"{_REPOSITORY} does not name a clone")
    done = subprocess.run(["git", "-C", repository, "show", blob], capture_output=True, text=True, check=True)
    return done.stdout
