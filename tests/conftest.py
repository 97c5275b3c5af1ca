"""Fixtures that more than one file uses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildkit.workspace import Workspace
from tests.checkouts import PROJECTS, commit_all
from tests.commands import SOURCE, Command
from tests.runtime_api import RuntimeApiServer
from tests.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def runtime_api() -> Iterator[RuntimeApiServer]:
    """A Runtime API on loopback, which behaves until it is told otherwise."""
    with RuntimeApiServer() as server:
        yield server


@pytest.fixture
def steps(runtime_api: RuntimeApiServer) -> Steps:
    """The steps that speak to that server."""
    return Steps(runtime_api.url)


@pytest.fixture
def source_tree(tmp_path: Path) -> Path:
    """A small workspace in the shape of today's agent server, outside git."""
    return Path(shutil.copytree(PROJECTS / "workspace-today", tmp_path / "src"))


@pytest.fixture
def git_repo(source_tree: Path) -> Path:
    """The same tree as a checkout of its first commit, with nothing changed."""
    commit_all(source_tree)
    return source_tree


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    """An output directory with our marker, and nothing else in it."""
    directory = tmp_path / "runtime-build"
    with Workspace(directory).writing():
        pass
    return directory


@pytest.fixture
def command(git_repo: Path) -> Command:
    """The real command, run in that checkout in a process of its own."""
    return Command(git_repo, dict(SOURCE))
