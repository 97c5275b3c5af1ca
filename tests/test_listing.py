"""How git lists a tree, and how each file stands to the commit."""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from buildkit.errors import LocalError
from buildkit.settings import CiEnvironment, Settings
from buildkit.source.listing import Status, list_files
from buildkit.source.tree import SourceTree
from tests.checkouts import commit_all, run_git

if TYPE_CHECKING:
    from pathlib import Path

SDK = "openhands-sdk/openhands/sdk"


def read(source: Path, *roots: str) -> dict[str, set[Status]]:
    """Return all that is said of each file."""
    said = defaultdict(set)
    with list_files(source, roots) as listed:
        for file in listed:
            said[file.path].add(file.status)
    return dict(said)


def read_changes(source: Path, *roots: str) -> dict[str, set[Status]]:
    plain = {Status.TRACKED}
    return {path: statuses - plain for path, statuses in read(source, *roots).items() if statuses != plain}


def test_a_clean_checkout_lists_its_files_unchanged(git_repo: Path) -> None:
    assert sorted(read(git_repo)) == run_git(git_repo, "ls-files").splitlines()
    assert read_changes(git_repo) == {}


def test_only_below_the_roots_and_without_pathspec_magic(git_repo: Path) -> None:
    (git_repo / "*").write_text("a name")
    (git_repo / ":(top)").write_text("another")
    commit_all(git_repo)
    assert sorted(read(git_repo, "*", ":(top)", "LICENSE")) == ["*", ":(top)", "LICENSE"]


def test_every_way_to_differ_from_the_commit(git_repo: Path) -> None:
    names = ("edited", "gone", "staged_edit", "staged_gone", "mode", "linked")
    for name in names:
        (git_repo / name).write_text("as committed")
    commit_all(git_repo)
    edited, gone, staged_edit, staged_gone, mode, linked = names
    (git_repo / edited).write_text("edited")
    (git_repo / gone).unlink()
    (git_repo / staged_edit).write_text("staged")
    run_git(git_repo, "add", staged_edit)
    run_git(git_repo, "rm", "-q", staged_gone)
    (git_repo / mode).chmod(0o755)
    (git_repo / linked).unlink()
    (git_repo / linked).symlink_to("elsewhere")
    (git_repo / "new.py").write_text("untracked")
    (git_repo / "added.py").write_text("added")
    run_git(git_repo, "add", "added.py")
    assert read_changes(git_repo) == {
        staged_edit: {Status.STAGED},
        staged_gone: {Status.STAGED},
        "new.py": {Status.CHANGED},
        "added.py": {Status.STAGED},
    }
    changes = SourceTree(git_repo, Settings(include=("*",)), CiEnvironment()).find_changes()
    assert set(changes) == {*names, "new.py", "added.py"}


def test_before_the_first_commit_everything_is_staged_or_untracked(source_tree: Path) -> None:
    run_git(source_tree, "init", "-q")
    run_git(source_tree, "add", "LICENSE")
    assert read(source_tree, "LICENSE", "README.md") == {
        "LICENSE": {Status.TRACKED, Status.STAGED},
        "README.md": {Status.CHANGED},
    }


def test_ignored_files_are_not_listed_unless_they_are_tracked(git_repo: Path) -> None:
    (git_repo / "kept.log").write_text("tracked")
    commit_all(git_repo)
    (git_repo / ".gitignore").write_text("*.log\nout/\n")
    (git_repo / "dropped.log").touch()
    (git_repo / "out").mkdir()
    (git_repo / "out" / "f").touch()
    listed = read(git_repo)
    assert "kept.log" in listed
    assert not {"dropped.log", "out/f"} & set(listed)


def test_untracked_and_ignored_after_it_was_tracked_says_nothing_of_its_being_there(git_repo: Path) -> None:
    (git_repo / ".gitignore").write_text("secret.txt\n")
    (git_repo / "secret.txt").touch()
    run_git(git_repo, "add", "-f", ".")
    commit_all(git_repo)
    run_git(git_repo, "rm", "-q", "--cached", "secret.txt")
    assert read(git_repo, "secret.txt") == {"secret.txt": {Status.STAGED}}


def test_unmerged_files_are_changed(git_repo: Path) -> None:
    for branch in ("one", "two"):
        run_git(git_repo, "checkout", "-q", "-b", branch, "main")
        (git_repo / "README.md").write_text(branch)
        commit_all(git_repo)
    with pytest.raises(Exception, match="merge"):
        run_git(git_repo, "merge", "one")
    assert Status.CHANGED in read(git_repo)["README.md"]


def test_submodules_are_listed_by_their_own_index(git_repo: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "m.py").touch()
    (inner / ".gitignore").write_text("*.tmp\n")
    commit_all(inner)
    run_git(git_repo, "submodule", "--quiet", "add", str(inner), "vendor/inner")
    commit_all(git_repo)
    (git_repo / "vendor" / "inner" / "x.tmp").touch()
    (git_repo / "vendor" / "inner" / "m.py").write_text("edited")
    said = read(git_repo, "vendor")
    assert sorted(said) == ["vendor/inner/.gitignore", "vendor/inner/m.py"]
    assert said["vendor/inner/m.py"] == {Status.TRACKED}


def test_a_submodule_that_is_not_checked_out_is_listed_itself(git_repo: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "m.py").touch()
    commit_all(inner)
    run_git(git_repo, "submodule", "--quiet", "add", str(inner), "vendor/inner")
    commit_all(git_repo)
    run_git(tmp_path, "clone", "-q", str(git_repo), "clone")
    assert read(tmp_path / "clone", "vendor") == {"vendor/inner": {Status.SUBMODULE}}


def test_a_repository_inside_the_tree_is_listed_by_its_own_rules(git_repo: Path) -> None:
    nested = git_repo / "openhands-tools" / "nested"
    nested.mkdir()
    (nested / "m.py").touch()
    commit_all(nested)
    (nested / "new.py").touch()
    said = read(git_repo, "openhands-tools/nested")
    assert said == {
        "openhands-tools/nested/m.py": {Status.TRACKED},
        "openhands-tools/nested/new.py": {Status.CHANGED},
    }


def test_what_a_sparse_checkout_leaves_out_is_absent(git_repo: Path) -> None:
    run_git(git_repo, "sparse-checkout", "set", "--cone", "openhands-sdk")
    said = read(git_repo)
    assert {path for path, statuses in said.items() if Status.ABSENT in statuses} == {
        path for path in said if not os.path.lexists(git_repo / path)
    }
    assert any(Status.ABSENT in statuses for statuses in said.values())
    assert said[f"{SDK}/__init__.py"] == {Status.TRACKED}


def test_from_a_subfolder_paths_start_there(git_repo: Path) -> None:
    (git_repo / SDK / "new.py").touch()
    run_git(git_repo, "add", ".")
    said = read(git_repo / "openhands-sdk", "openhands")
    assert said["openhands/sdk/new.py"] == {Status.TRACKED, Status.STAGED}
    assert all(path.startswith("openhands/") for path in said)


def test_names_of_every_kind(git_repo: Path) -> None:
    names = ["a b", "grün", "raw-\udcff", 'quo"te', "new\nline", "-dash", "? H", "back\\slash"]
    for name in names:
        (git_repo / SDK / name).touch()
    assert {f"{SDK}/{name}" for name in names} <= set(read(git_repo))
    commit_all(git_repo)
    assert {f"{SDK}/{name}" for name in names} <= set(read(git_repo))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_named(git_repo: Path) -> None:
    (git_repo / "closed").mkdir(mode=0)
    with pytest.raises(LocalError, match="closed"):
        read(git_repo)
