"""What the benchmark of images does without an engine: its clone, what it counts, its table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from benchmarks.images import describe_machine, format_table, main
from benchmarks.rebuilds import Figures, clone_checkout, count_new_bytes
from tests.checkouts import commit_all, run_git

if TYPE_CHECKING:
    from pathlib import Path

MODULE = "openhands.agent_server"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A server in a subfolder of its checkout."""
    server = tmp_path / "repository/server"
    package = server / "openhands/agent_server"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text("print()\n")
    commit_all(tmp_path / "repository")
    (server / "uncommitted").touch()
    return server


def test_the_clone_is_touched_and_committed_to_and_the_source_is_not(source: Path, tmp_path: Path) -> None:
    checkout = clone_checkout(source, tmp_path / "clone")
    assert checkout.source == tmp_path / "clone/server"
    assert not (checkout.source / "uncommitted").exists()
    first = checkout.git("rev-parse", "HEAD")
    checkout.touch(MODULE)
    assert checkout.git("status", "--porcelain") == "M server/openhands/agent_server/__main__.py"
    checkout.commit_nothing()
    assert checkout.git("status", "--porcelain") == ""
    assert checkout.git("rev-parse", "HEAD~1") == first
    assert checkout.git("diff", "HEAD~1", "--name-only") == ""
    assert run_git(source, "rev-parse", "HEAD") == first
    assert (source / "openhands/agent_server/__main__.py").read_text() == "print()\n"


def test_a_server_that_the_source_lacks_is_named(source: Path, tmp_path: Path) -> None:
    checkout = clone_checkout(source, tmp_path / "clone")
    with pytest.raises(SystemExit, match=r"the source has no other/server/__main__\.py"):
        checkout.touch("other.server")


def test_a_source_outside_git_is_named_with_what_git_says(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="not a git repository"):
        clone_checkout(tmp_path, tmp_path / "clone")


def test_only_blobs_that_the_registry_lacks_are_counted() -> None:
    assert count_new_bytes({"a": 1_000, "b": 10}, {"a": 1_000, "c": 200, "d": 3}) == 203


def test_the_table_has_a_row_for_each_target_and_every_row_its_columns() -> None:
    figures = Figures("source", 512_300_000, 61.2, 0.94, 7.25, 1_234_567, 1.5, 12, 11, 6.5, 0.4)
    head, rule, row = format_table([figures]).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|")
    assert row == "| `source` | 512 MB | 61 s | 0.9 s | 7.2 s | 1.23 MB | 1.5 s | 11 of 12 | 6.5 s | 0.4 s |"


def test_the_machine_is_described_without_its_name() -> None:
    line = describe_machine("20.10.24", 262_000_000, 0.31)
    assert "docker 20.10.24, base image of 262 MB" in line
    assert os.uname().nodename not in line
    assert "/" not in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "source,bin"], "no such target: bin; there are binary, "),
        (["--source", "nowhere/at/all"], "no such folder: nowhere/at/all"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
