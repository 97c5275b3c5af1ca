"""The output directory: what is refused as one, how one run keeps others out, and what cleaning leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from buildkit.errors import LocalError, SettingError
from buildkit.owned import MARKER
from buildkit.workspace import Workspace
from tests.checkouts import run_git

ARCHIVE = "agent-server-0506352-dev.tar.gz"
STATE = '{"schema": 1, "made_from": {}}'


def list_names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def refuse(directory: Path, *protected: Path) -> str:
    before = list_names(directory)
    with pytest.raises(SettingError) as caught:
        Workspace(directory).check(*protected)
    assert "OUTPUT_DIR" in caught.value.message
    assert "OUTPUT_DIR" in caught.value.fix
    assert list_names(directory) == before
    return caught.value.message


def test_what_does_not_exist_is_taken_and_not_made(tmp_path: Path) -> None:
    Workspace(tmp_path / "a" / "b").check()
    assert not (tmp_path / "a").exists()


def test_empty_folder_and_our_own_are_taken(tmp_path: Path, output_dir: Path) -> None:
    (tmp_path / "empty").mkdir()
    Workspace(tmp_path / "empty").check()
    Workspace(output_dir).check()


@pytest.mark.parametrize("directory", ["/", "~", "~/.."])
def test_root_home_and_what_holds_the_home_are_refused(directory: str) -> None:
    refuse(Path(os.path.normpath(Path(directory).expanduser())))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that nobody knows")
def test_user_without_a_home_is_no_hindrance(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, pwd, sys\nfrom buildkit.workspace import Workspace\n"
        "os.environ.pop('HOME', None); os.setuid(54321)\n"
        "Workspace(pathlib.Path('/tmp/does-not-exist/yet')).check()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)


def test_checkouts_are_refused(tmp_path: Path) -> None:
    run_git(tmp_path, "init", "-q", "other")
    refuse(tmp_path / "other")
    refuse(tmp_path / "other" / ".git")
    refuse(tmp_path / "other" / ".git" / "hooks")


def test_folder_that_holds_something_protected_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "out" / "deep"
    assert "is inside" in refuse(tmp_path / "out", inside)
    assert "is inside" in refuse(inside, inside)


def test_symbolic_link_is_refused_wherever_it_leads(tmp_path: Path, output_dir: Path) -> None:
    for target in (output_dir, tmp_path / "nowhere"):
        link = tmp_path / f"link-to-{target.name}"
        link.symlink_to(target)
        assert "symbolic link" in refuse(link)


def test_link_among_the_parents_does_not_hide_what_is_protected(tmp_path: Path) -> None:
    (tmp_path / "real" / "source").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    refuse(tmp_path / "link" / "source", tmp_path / "real" / "source")


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_what_can_be_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    refuse(tmp_path / name)


def test_folder_with_foreign_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    assert "did not write" in refuse(tmp_path / "out")


@pytest.mark.parametrize("content", ["{}", "[]", "nonsense", '{"version": 1}', "[" * 100_000])
def test_version_file_of_another_program_makes_no_folder_ours(tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "version.json").write_text(content)
    refuse(tmp_path / "out")


def test_folder_that_lost_its_hidden_files_is_ours_by_its_state(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "context.json").write_text(STATE)
    Workspace(tmp_path / "out").check()


@pytest.mark.parametrize("marker", ["*\n", "", "# Created by virtualenv\n*\n"])
def test_marker_of_another_program_is_none(tmp_path: Path, marker: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MARKER).write_text(marker)
    refuse(tmp_path / "out")


def test_marker_makes_git_ignore_all_of_it(tmp_path: Path) -> None:
    run_git(tmp_path, "init", "-q", "repo")
    with Workspace(tmp_path / "repo" / "runtime-build").writing():
        pass
    (tmp_path / "repo" / "runtime-build" / "version.json").touch()
    assert run_git(tmp_path / "repo", "status", "--porcelain") == ""


def test_making_it_twice_changes_nothing(output_dir: Path) -> None:
    (output_dir / "version.json").write_text(STATE)
    with Workspace(output_dir).writing():
        pass
    assert sorted(os.listdir(output_dir)) == [MARKER, "version.json"]


def test_cleaning_removes_what_we_write_and_nothing_else(output_dir: Path) -> None:
    ours = [ARCHIVE, "BUILD_INSTRUCTIONS.md", "Dockerfile", "context.json", "mine.tgz", "version.json"]
    foreign = ["notes.txt", "other.tar.gz", f"{ARCHIVE}.bak", "agent-server-xyz-dev.tar.gz"]
    for name in (*ours, *foreign):
        (output_dir / name).touch()
    (output_dir / "version.json").write_text(json.dumps({"archive": "mine.tgz"}))
    assert Workspace(output_dir).clean() == sorted(ours)
    assert sorted(os.listdir(output_dir)) == sorted([MARKER, *foreign])


def test_cleaning_keeps_what_it_is_told_to(output_dir: Path) -> None:
    (output_dir / "upload.json").touch()
    (output_dir / "wait.json").touch()
    assert Workspace(output_dir).clean(keep={"upload.json"}) == ["wait.json"]


def test_cleaning_removes_a_link_and_not_where_it_leads(tmp_path: Path, output_dir: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (output_dir / "context.json").symlink_to(tmp_path / "precious")
    assert Workspace(output_dir).clean() == ["context.json"]
    assert (tmp_path / "precious").read_text() == "x"


def test_cleaning_stops_before_it_began_where_a_folder_has_one_of_our_names(output_dir: Path) -> None:
    (output_dir / "version.json").mkdir()
    (output_dir / "Dockerfile").touch()
    with pytest.raises(LocalError, match=r"version\.json is a folder"):
        Workspace(output_dir).clean()
    assert (output_dir / "Dockerfile").exists()


@pytest.mark.parametrize("marker", [None, "# somebody else's\n"])
def test_without_our_marker_nothing_is_removed(tmp_path: Path, marker: str | None) -> None:
    (tmp_path / "version.json").write_text(STATE)
    if marker:
        (tmp_path / MARKER).write_text(marker)
    with pytest.raises(SettingError, match="does not have our marker"):
        Workspace(tmp_path).clean()
    assert (tmp_path / "version.json").exists()


def test_marker_that_is_a_link_is_none(tmp_path: Path, output_dir: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MARKER).symlink_to(output_dir / MARKER)
    refuse(tmp_path / "out")


def test_directory_goes_when_only_the_marker_is_left(output_dir: Path) -> None:
    (output_dir / "notes.txt").touch()
    Workspace(output_dir).delete()
    assert output_dir.exists()
    (output_dir / "notes.txt").unlink()
    Workspace(output_dir).delete()
    assert not output_dir.exists()
    Workspace(output_dir).delete()


def test_second_run_is_refused_while_the_first_goes_on(output_dir: Path) -> None:
    code = """
import sys, pathlib
from buildkit.workspace import Workspace
with Workspace(pathlib.Path(sys.argv[1])).locked():
    print("held")
"""
    command = [sys.executable, "-c", code, str(output_dir)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with Workspace(output_dir).locked():
        refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert "LocalError: another run is using runtime-build" in refused.stderr
        assert not refused.stdout
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "held\n"


def test_lock_lies_beside_the_directory_and_goes_with_the_run(output_dir: Path) -> None:
    with Workspace(output_dir).locked():
        assert output_dir.with_name(".runtime-build.lock").exists()
        assert os.listdir(output_dir) == [MARKER]
    assert os.listdir(output_dir.parent) == ["runtime-build"]


def test_lock_goes_when_the_run_fails(output_dir: Path) -> None:
    with pytest.raises(RuntimeError), Workspace(output_dir).locked():
        raise RuntimeError
    with Workspace(output_dir).locked():
        pass


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_something_else_under_the_locks_name_stays_as_it_is(tmp_path: Path, output_dir: Path, kind: str) -> None:
    lock = output_dir.with_name(".runtime-build.lock")
    if kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(tmp_path / "nowhere")
    with pytest.raises(LocalError, match=r"\.runtime-build\.lock"), Workspace(output_dir).locked():
        pass
    assert os.path.lexists(lock)
    assert not (tmp_path / "nowhere").exists()


def test_what_a_killed_run_left_half_written_is_swept(output_dir: Path) -> None:
    (output_dir / ".tmp-abcd_123").write_text("half")
    with Workspace(output_dir).locked():
        assert os.listdir(output_dir) == [MARKER]
