"""Small worlds for runs of the command, the servers that they talk to, and the figures at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.harness import MEMORY, PACKAGE_ROOT, Command
from tests.faults.ledger import LEDGER
from tests.runtime_api import RuntimeApiServer

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECTS = Path(__file__).parent.parent / "projects"
_GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
_COMMIT_TIME = {"GIT_AUTHOR_DATE": "1700000000 +0000", "GIT_COMMITTER_DATE": "1700000000 +0000"}


@pytest.fixture(scope="session")
def warm_socket() -> Iterator[str]:
    """The socket of a process that forks runs of the command."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/warm"
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, str(Path(__file__).with_name("warm.py")), path]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield path
            process.terminate()


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A commit of a small workspace, made once and copied for each test."""
    checkout = tmp_path_factory.mktemp("pristine") / "src"
    shutil.copytree(PROJECTS / "workspace-today", checkout)
    for arguments in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-qm", "first")):
        subprocess.run([*_GIT, *arguments], cwd=checkout, env={**os.environ, **_COMMIT_TIME}, check=True)
    return checkout


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
def command(world: Path, checkout: Path, warm_socket: str) -> Command:
    """The command, in that checkout."""
    return Command(world, checkout, warm_socket)


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


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "/faults/" in report.nodeid and (report.when == "call" or report.outcome != "passed"):
        LEDGER.record(report.nodeid.rpartition("::")[2], report.outcome)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LEDGER.runs:
        terminalreporter.section("fault table")
        for line in LEDGER.figures():
            terminalreporter.write_line(line)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == 0 and not LEDGER.is_clean():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
