"""OpenHands' builder, fetched from its package and run in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# The last version of the package that has the builder.
_OPENHANDS = "openhands-ai==1.6.0"

# Only what the builder needs is imported: the rest of the package would need all of its dependencies.
DRIVER = """
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


def run_client(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return what a client left, run in an environment that holds nothing else."""
    usual = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
    return subprocess.run(
        command, cwd=folder, env=usual | environment, capture_output=True, text=True, timeout=60, check=False
    )
