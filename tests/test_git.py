"""What git knows, asked of real checkouts of every shape."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from buildkit.errors import LocalError
from buildkit.source.checkout import Commit, IgnoredBy, explain_ignored, find_commit, is_checkout, read_head
from buildkit.source.git import find_checkout, run_git, stream_git
from tests.checkouts import COMMIT_TIME, commit_all
from tests.checkouts import run_git as git

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534


def test_commit_and_its_time(git_repo: Path) -> None:
    sha = git(git_repo, "rev-parse", "HEAD")
    assert read_head(git_repo) == Commit(sha, COMMIT_TIME)
    assert find_commit(git_repo, sha[:10]) == Commit(sha, COMMIT_TIME)
    assert find_commit(git_repo, "0" * 40) is None
    assert find_commit(git_repo, "--output=written") is None
    assert not (git_repo / "written").exists()


def test_no_commit_yet(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert is_checkout(tmp_path)
    assert read_head(tmp_path) is None


def test_detached_and_shallow_checkouts_have_a_commit(git_repo: Path, tmp_path: Path) -> None:
    sha = commit_all(git_repo)
    git(git_repo, "checkout", "-q", "--detach")
    assert read_head(git_repo) == Commit(sha, COMMIT_TIME)
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{git_repo}", "shallow")
    assert read_head(tmp_path / "shallow") == Commit(sha, COMMIT_TIME)


def test_worktree_and_subfolder_are_of_their_checkout(git_repo: Path, tmp_path: Path) -> None:
    git(git_repo, "worktree", "add", "-q", str(tmp_path / "tree"))
    assert find_checkout(tmp_path / "tree") == tmp_path / "tree"
    assert is_checkout(tmp_path / "tree" / "openhands-sdk")
    assert read_head(tmp_path / "tree" / "openhands-sdk") == read_head(git_repo)


def test_outside_git(tmp_path: Path) -> None:
    assert find_checkout(tmp_path) is None
    assert not is_checkout(tmp_path)


def test_a_tree_in_an_ignored_folder_of_another_checkout_is_not_of_it(git_repo: Path) -> None:
    (git_repo / ".gitignore").write_text("unpacked/\n")
    (git_repo / "unpacked").mkdir()
    assert find_checkout(git_repo / "unpacked") == git_repo
    assert not is_checkout(git_repo / "unpacked")


def test_variables_of_a_hook_do_not_lead_elsewhere(
    git_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "no-index"))
    commit = read_head(git_repo)
    assert commit is not None
    assert commit.time == COMMIT_TIME


def test_ignored_by_file_line_and_pattern(git_repo: Path) -> None:
    (git_repo / "openhands-sdk" / ".gitignore").write_text("# nothing\n*.log\n")
    (git_repo / "openhands-sdk" / "a.log").touch()
    assert explain_ignored(git_repo, "openhands-sdk/a.log") == IgnoredBy("openhands-sdk/.gitignore", 2, "*.log")
    assert explain_ignored(git_repo, "README.md") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a checkout away")
def test_a_checkout_of_another_user_says_how_to_trust_it(git_repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(git_repo.parent))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.delenv("SUDO_UID", raising=False)
    os.chown(git_repo, NOBODY, NOBODY)
    with pytest.raises(LocalError, match="another user owns it") as caught:
        read_head(git_repo)
    assert caught.value.fix == f"git config --global --add safe.directory {git_repo}"


def test_a_missing_git_says_how_to_get_it(git_repo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalError, match="git is not installed") as caught:
        read_head(git_repo)
    assert "apt-get install git" in caught.value.fix


def test_a_broken_repository_is_named(git_repo: Path) -> None:
    shutil.rmtree(git_repo / ".git")
    (git_repo / ".git").write_text("gitdir: /nowhere/at/all\n")
    with pytest.raises(LocalError, match="not a git repository"):
        read_head(git_repo)


def test_a_failing_command_is_an_error_with_what_git_said(git_repo: Path) -> None:
    with pytest.raises(LocalError, match="no-such-option"):
        run_git(git_repo, ["ls-files", "--no-such-option"])
    with (
        pytest.raises(LocalError, match="git ls-files failed"),
        stream_git(git_repo, ["ls-files", "--nope"]) as entries,
    ):
        list(entries)


def test_entries_are_read_whole_however_git_writes_them(git_repo: Path) -> None:
    names = [f"{'long' * 40}-{number:04}-\udcff" for number in range(1500)]
    for name in names:
        (git_repo / name).touch()
    with stream_git(git_repo, ["ls-files", "-z", "-o"]) as entries:
        assert sorted(entries) == names


def test_a_listing_may_be_left_before_its_end(git_repo: Path) -> None:
    with stream_git(git_repo, ["ls-files", "-z"]) as entries:
        assert next(entries)
    with stream_git(git_repo, ["ls-files", "-z"]):
        pass


def test_the_api_key_is_not_in_the_environment_of_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec /usr/bin/env\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("RUNTIME_API_KEY", "a-key-of-some-length")
    found = run_git(tmp_path, ["status"]).stdout
    assert b"LC_ALL=C\n" in found
    assert b"a-key-of-some-length" not in found
