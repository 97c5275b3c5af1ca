"""Fixtures that more than one file uses, and the figures of the fault table at the end of a session."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from buildkit.workspace import Workspace
from tests.checkouts import PROJECTS, commit_all, run_git
from tests.commands import SOURCE, Command
from tests.ledger import LEDGER
from tests.runtime_api import RuntimeApiServer
from tests.steps import VERSION, Steps

if TYPE_CHECKING:
    from collections.abc import Iterator

# A machine that is busy with something else makes no example wrong.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

# The tests start hundreds of Python processes, each of which would compile all that it imports.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# By the time that they take on a machine with nothing else to do.
LONGEST = {
    "test_browser.py",
    "test_build_logs.py",
    "test_follow.py",
    "test_images.py",
    "test_kills.py",
    "test_middleboxes.py",
    "test_reproducible.py",
    "test_server_app.py",
    "test_server_process.py",
    "test_server_store.py",
    "test_terminal.py",
}

# A shell starts background jobs with SIGINT ignored, and nohup all with SIGHUP; the commands that the tests interrupt
# would inherit that.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


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
def archive(tmp_path: Path) -> Path:
    """An archive for the Runtime API, under the name that the records of `tests.steps` have."""
    path = tmp_path / VERSION.archive
    path.write_bytes(os.urandom(50_000))
    return path


@pytest.fixture
def source_tree(tmp_path: Path) -> Path:
    """A small workspace in the shape of today's agent server, outside git."""
    return Path(shutil.copytree(PROJECTS / "workspace-today", tmp_path / "src"))


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A commit of that tree, made once and copied for each test."""
    checkout = shutil.copytree(PROJECTS / "workspace-today", tmp_path_factory.mktemp("pristine") / "src")
    commit_all(checkout)
    return checkout


@pytest.fixture
def git_repo(source_tree: Path, pristine: Path) -> Path:
    """The same tree as a checkout of its first commit, with nothing changed."""
    shutil.copytree(pristine / ".git", source_tree / ".git")
    run_git(source_tree, "update-index", "--refresh")
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


def pytest_xdist_auto_num_workers() -> int:
    """Half of the time a test waits for a server or a limit: two of them share a processor."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the files that take longest come first: at the end, one of them would keep one worker alone."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "/faults/" in report.nodeid and (report.when == "call" or report.outcome != "passed"):
        LEDGER.record(report.nodeid.rpartition("::")[2], report.outcome)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # a worker of pytest-xdist: the process that started it prints the figures
        output["ledger"] = json.dumps(LEDGER.export())
    if session.exitstatus == 0 and not LEDGER.is_clean():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    LEDGER.add(json.loads(getattr(node, "workeroutput", {}).get("ledger", "{}")))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LEDGER.outcomes:
        terminalreporter.section("fault table")
        for line in LEDGER.figures():
            terminalreporter.write_line(line)
