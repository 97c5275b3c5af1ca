"""Which commit a source is called by, in every kind of checkout, and when it counts as changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from buildkit.errors import LocalError
from buildkit.settings import CiEnvironment, Settings
from buildkit.source.tree import SourceTree
from buildkit.tasks.version import describe_version
from buildkit.ui import Ui
from buildkit.workspace import Workspace
from tests.checkouts import COMMIT_TIME, commit_all, run_git

if TYPE_CHECKING:
    from buildkit.models import Version
    from buildkit.source.checkout import Commit
    from tests.commands import Command

OTHER = "0123456789" * 4


def identify(source: Path, git_sha: str | None = None, github_sha: str = "") -> tuple[Commit | None, list[str]]:
    warnings: list[str] = []
    tree = SourceTree(source, Settings(git_sha=git_sha), CiEnvironment(sha=github_sha))
    return tree.identify(warnings.append), warnings


def find_sha(source: Path, **given: Any) -> str | None:
    commit, _ = identify(source, **given)
    return commit.sha if commit else None


def describe(source: Path, **changes: Any) -> Version:
    """Return the version of a source tree, which is saved outside of it; warnings go to stderr."""
    settings = Settings(custom_tags=("dev", "staging"), **changes)
    workspace = Workspace(source.parent / "described")
    with workspace.writing():
        return describe_version(workspace, SourceTree(source, settings, CiEnvironment()), settings, Ui())


def test_checkout_is_called_by_its_commit_and_the_commits_time(git_repo: Path) -> None:
    commit, warnings = identify(git_repo)
    assert commit is not None
    assert (commit.sha, commit.time) == (run_git(git_repo, "rev-parse", "HEAD"), COMMIT_TIME)
    assert not warnings


def test_folder_of_a_checkout_is_called_by_the_checkouts_commit(git_repo: Path) -> None:
    assert find_sha(git_repo / "openhands-sdk") == find_sha(git_repo)


def test_worktree_is_called_by_its_own_commit(git_repo: Path, tmp_path: Path) -> None:
    run_git(git_repo, "worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    (tmp_path / "tree" / "new").touch()
    own = commit_all(tmp_path / "tree")
    assert find_sha(tmp_path / "tree") == own != find_sha(git_repo)


def test_detached_head_is_called_by_its_commit(git_repo: Path) -> None:
    first = run_git(git_repo, "rev-parse", "HEAD")
    run_git(git_repo, "commit", "-q", "--allow-empty", "-m", "second")
    run_git(git_repo, "checkout", "-q", first)
    assert find_sha(git_repo) == first


def test_shallow_clone_is_called_by_its_commit(git_repo: Path, tmp_path: Path) -> None:
    run_git(git_repo, "commit", "-q", "--allow-empty", "-m", "second")
    run_git(tmp_path, "clone", "-q", "--depth=1", f"file://{git_repo}", "shallow")
    assert find_sha(tmp_path / "shallow") == find_sha(git_repo)


def test_submodule_is_called_by_its_own_commit(git_repo: Path, tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    commit_all(tmp_path / "outer")
    run_git(tmp_path / "outer", "submodule", "add", "-q", str(git_repo), "server")
    commit_all(tmp_path / "outer")
    assert find_sha(tmp_path / "outer" / "server") == find_sha(git_repo) != find_sha(tmp_path / "outer")


def test_tree_unpacked_into_an_ignored_folder_is_no_checkout(git_repo: Path) -> None:
    (git_repo / ".gitignore").write_text("unpacked/\n")
    shutil.copytree(git_repo / "openhands-sdk", git_repo / "unpacked" / "sdk")
    assert find_sha(git_repo / "unpacked" / "sdk") is None


@pytest.mark.parametrize("initial", [False, True], ids=["outside git", "before the first commit"])
def test_without_a_commit_the_source_is_unknown_and_says_so(source_tree: Path, *, initial: bool) -> None:
    if initial:
        run_git(source_tree, "init", "-q")
    commit, (warning,) = identify(source_tree)
    assert commit is None
    assert "`unknown`" in warning
    version = describe(source_tree)
    assert (version.name, version.sha, version.short_sha) == ("agent-server-unknown-dev", None, "unknown")
    assert (version.archive, version.commit_time) == ("agent-server-unknown-dev.tar.gz", None)


def test_outside_git_github_tells_the_commit(source_tree: Path) -> None:
    commit, warnings = identify(source_tree, github_sha=OTHER)
    assert commit is not None
    assert (commit.sha, commit.time, warnings) == (OTHER, None, [])


@pytest.mark.parametrize("value", ["main", "0123456", OTHER.upper() + "x", ""])
def test_what_github_tells_is_passed_over_where_it_is_no_commit(source_tree: Path, value: str) -> None:
    assert find_sha(source_tree, github_sha=value) is None


def test_github_that_tells_another_commit_is_a_warning_with_both(git_repo: Path) -> None:
    commit, (warning,) = identify(git_repo, github_sha=OTHER)
    assert commit is not None
    assert commit.sha == run_git(git_repo, "rev-parse", "HEAD")
    assert OTHER in warning
    assert commit.sha in warning


def test_github_that_tells_the_same_commit_is_no_warning(git_repo: Path) -> None:
    assert identify(git_repo, github_sha=find_sha(git_repo) or "")[1] == []


def test_setting_goes_before_git_and_github(git_repo: Path, source_tree: Path) -> None:
    commit, warnings = identify(git_repo, git_sha=OTHER, github_sha="9" * 40)
    assert commit is not None
    assert (commit.sha, commit.time, warnings) == (OTHER, None, [])


def test_setting_that_names_an_older_commit_of_the_checkout_has_its_time(git_repo: Path) -> None:
    first = run_git(git_repo, "rev-parse", "HEAD")
    run_git(git_repo, "commit", "-q", "--allow-empty", "-m", "second")
    commit, _ = identify(git_repo, git_sha=first)
    assert commit is not None
    assert commit.time == COMMIT_TIME


def test_variables_of_another_git_change_nothing(
    git_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = find_sha(git_repo)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert find_sha(git_repo) == sha


def test_missing_git_is_an_error_only_in_a_checkout(
    git_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_sha(tmp_path / "plain") is None
    with pytest.raises(LocalError) as caught:
        identify(git_repo)
    assert "git is not installed" in caught.value.message
    assert "install git" in caught.value.fix


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a checkout to somebody else")
def test_checkout_of_another_user_is_answered_with_what_git_wants(
    git_repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for path in (git_repo, git_repo / ".git"):
        os.chown(path, 12345, 12345)
    monkeypatch.delenv("SUDO_UID", raising=False)
    with pytest.raises(LocalError) as caught:
        identify(git_repo)
    assert "another user owns it" in caught.value.message
    assert caught.value.fix == f"git config --global --add safe.directory {git_repo}"


def test_names_come_from_commit_and_first_tag(git_repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = describe(git_repo)
    assert version.name == f"agent-server-{version.short_sha}-dev"
    assert len(version.short_sha) == 7
    assert (version.tags, version.primary_tag) == (["dev", "staging"], "dev")
    assert version.archive == f"{version.name}.tar.gz"
    assert (version.dirty, capsys.readouterr().err) == (False, "")


def test_archive_takes_a_name_of_its_own(git_repo: Path) -> None:
    assert describe(git_repo, output_name="mine.tgz").archive == "mine.tgz"


@pytest.mark.parametrize("epoch", [0, 1])
def test_time_that_is_set_goes_before_the_commits(git_repo: Path, epoch: int) -> None:
    assert describe(git_repo, source_date_epoch=epoch).commit_time == epoch


def test_changed_files_are_a_warning_that_names_a_few(git_repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abcdefg":
        (git_repo / "openhands-sdk" / name).touch()
    assert describe(git_repo).dirty
    named = ", ".join(f"openhands-sdk/{name}" for name in "abcde")
    assert f"7 files differ from the commit: {named} and 2 more; the image is" in capsys.readouterr().err


def test_changed_files_are_an_error_where_they_are_not_allowed(git_repo: Path) -> None:
    (git_repo / "openhands-sdk" / "a.py").touch()
    with pytest.raises(LocalError) as caught:
        describe(git_repo, allow_dirty=False)
    assert "a.py" in caught.value.message
    assert "ALLOW_DIRTY=true" in caught.value.fix


@pytest.mark.parametrize(
    ("sha", "ci", "ref"),
    [
        (OTHER, CiEnvironment(OTHER, "refs/heads/main"), "refs/heads/main"),
        (OTHER, CiEnvironment("9" * 40, "refs/heads/main"), OTHER),
        (OTHER, CiEnvironment(OTHER, ""), OTHER),
        (OTHER, CiEnvironment(OTHER, "refs/heads/a\nRUN evil"), OTHER),
        (OTHER, CiEnvironment(OTHER, "refs/heads/\x1b[31m"), OTHER),
        (None, CiEnvironment("", "refs/heads/main"), "unknown"),
    ],
)
def test_ref_is_the_jobs_own_only_if_the_job_is_about_this_commit(
    tmp_path: Path, sha: str | None, ci: CiEnvironment, ref: str
) -> None:
    assert SourceTree(tmp_path, Settings(), ci).ref(sha) == ref


def change_packed(checkout: Path) -> None:
    (checkout / "README.md").write_text("changed")


def stage_packed(checkout: Path) -> None:
    change_packed(checkout)
    run_git(checkout, "add", "-A")


def delete_packed(checkout: Path) -> None:
    next((checkout / "openhands-sdk").rglob("*.py")).unlink()


def add_packed(checkout: Path) -> None:
    (checkout / "openhands-sdk" / "new.py").touch()


@pytest.mark.parametrize("change", [change_packed, stage_packed, delete_packed, add_packed])
def test_change_of_what_is_packed_makes_it_dirty(command: Command, change: Any) -> None:
    change(command.checkout)
    run = command.run("version", "--json").succeed()
    assert run.record["dirty"] is True
    assert "1 file differs from the commit" in run.err
    command.run("version", "--no-allow-dirty").fail(3, "1 file differs from the commit")
    command.run("version", ALLOW_DIRTY="false").fail(3)


def test_change_of_what_is_not_packed_leaves_it_clean(command: Command) -> None:
    (command.checkout / "AGENTS.md").write_text("changed")
    (command.checkout / "scratch.txt").touch()
    run = command.run("version", "--json", ALLOW_DIRTY="false").succeed()
    assert run.record["dirty"] is False
    assert not run.err


def test_touched_file_is_no_changed_file(command: Command) -> None:
    os.utime(command.checkout / "README.md", (1, 1))
    assert command.run("version", "--json").succeed().record["dirty"] is False


def test_name_is_all_that_stands_on_stdout(command: Command) -> None:
    sha = run_git(command.checkout, "rev-parse", "HEAD")
    assert command.run("version", CUSTOM_TAGS="dev,staging").succeed().out == f"agent-server-{sha[:7]}-dev\n"


def test_library_call_prints_nothing(git_repo: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from buildkit.settings import CiEnvironment, Settings\n"
        "from buildkit.source.tree import SourceTree\n"
        "SourceTree(pathlib.Path(sys.argv[1]), Settings(), CiEnvironment(sha='x')).identify(lambda _: None)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code, git_repo], env=environment, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
