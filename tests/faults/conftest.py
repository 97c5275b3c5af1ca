"""Small worlds for runs of the command, and the servers that they talk to."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.commands import Command
from tests.ledger import LEDGER
from tests.runtime_api import RuntimeApiServer

if TYPE_CHECKING:
    from collections.abc import Iterator

# A file system in memory, where there is one: a killed process loses nothing that it wrote, on any of them, and waiting
# for the disk to sync would be most of the time of the suite.
MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK | os.X_OK) else None


@pytest.fixture
def world() -> Iterator[Path]:
    """A folder that other users may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="faults-", dir=MEMORY) as folder:
        os.chmod(folder, 0o755)
        yield Path(folder).resolve()


@pytest.fixture
def checkout(world: Path, pristine: Path) -> Path:
    """A clean checkout."""
    return Path(shutil.copytree(pristine, world / "src", symlinks=True))


@pytest.fixture
def command(checkout: Path) -> Command:
    """The command, in that checkout."""
    return Command(checkout, {"TARGET": "source"})


@pytest.fixture
def server() -> Iterator[RuntimeApiServer]:
    """A Runtime API whose builds are counted: none may be started twice, except by those who say so."""
    with RuntimeApiServer() as server:
        yield server
    count_builds(server)


def count_builds(server: RuntimeApiServer, *, forced: int = 0) -> None:
    """Take down how many builds a server started, and how many of these were the same once more."""
    times = Counter((build.target_image, build.archive_sha256) for build in server.builds)
    twice = sum(times.values()) - len(times) - forced
    LEDGER.builds_started += len(server.builds)
    LEDGER.builds_started_twice += [os.environ.get("PYTEST_CURRENT_TEST", "?")] * max(twice, 0)


@pytest.fixture
def small_disk(world: Path) -> Iterator[Path]:
    """A file system of its own, of 256 KiB, mounted in a folder that is ours and empty."""
    folder = world / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root and is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
