"""A system without what POSIX promises: the command says so in two lines, instead of failing somewhere inside."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.commands import PACKAGE_ROOT

if TYPE_CHECKING:
    from pathlib import Path

# What a Python on Windows does not have, of what the package uses.
WINDOWS = """
import os, signal, subprocess, sys
import invoke.program  # which imports what only Windows has, if it is told that this is Windows
sys.path.insert(0, sys.argv.pop(1))
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "geteuid", "readv", "fchmod", "killpg"):
    delattr(os, name)
del signal.SIGHUP
sys.modules["fcntl"] = None
os.supports_dir_fd.clear()
sys.platform = "win32"
from buildkit.cli import start
start()
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WINDOWS, str(PACKAGE_ROOT), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("task", ["version", "all", "doctor", "clean"])
def test_a_task_is_refused_in_two_lines_and_writes_nothing(tmp_path: Path, task: str) -> None:
    ended = run(tmp_path, task)
    assert ended.returncode == 3
    assert ended.stderr == ("error: runtime-build does not run on win32\nfix:   use Linux, WSL 2 or a container\n")
    assert not list(tmp_path.iterdir())


def test_the_tasks_can_be_listed(tmp_path: Path) -> None:
    ended = run(tmp_path, "--list")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "context" in ended.stdout
