"""Task `context`: what is refused, what is recorded, and what happens to a tree that changes meanwhile."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from buildkit.errors import FileChanged, LocalError
from buildkit.models import BuildContext
from buildkit.secret import ApiKey
from buildkit.source.selection import SelectedFiles
from tests.checkouts import commit_all, run_git
from tests.packing import SHA, Packing, QuietUi

if TYPE_CHECKING:
    from pathlib import Path

    from tests.commands import Command

SECRET = "s3cr3t-t0k3n"


@pytest.fixture
def packing(tmp_path: Path) -> Packing:
    """An empty source tree."""
    return Packing(tmp_path)


@pytest.mark.parametrize("previously", [True, False])
def test_a_list_that_is_overtaken_by_the_tree_is_made_again(packing: Packing, previously: bool) -> None:
    (packing.source / "m.py").touch()
    if previously:
        packing.pack()
    ui = QuietUi()
    context = packing.pack(SelectedFiles(["gone.py", "m.py"], [], []), SelectedFiles(["m.py"], [], []), ui=ui)
    assert context.files == 3
    assert ui.warnings == ["gone.py vanished while it was packed; reading the tree again"]


def test_a_file_that_never_rests_is_given_up_and_the_old_archive_stays(packing: Packing) -> None:
    (packing.source / "m.py").write_bytes(bytes(1 << 19))
    packing.pack()
    before = packing.archive.read_bytes()
    ui = QuietUi(lambda: os.utime(packing.source / "m.py", (1, 1)))
    with pytest.raises(FileChanged, match=r"m\.py changed"):
        packing.pack(ui=ui, use_cache=False)
    assert len(ui.warnings) == 3
    assert packing.archive.read_bytes() == before
    assert not [name for name in os.listdir(packing.workspace.path) if name.startswith(".tmp")]


def test_a_context_over_the_limit_names_what_is_large(packing: Packing) -> None:
    (packing.source / "pkg" / "data").mkdir(parents=True)
    (packing.source / "pkg" / "data" / "model.bin").write_bytes(bytes(900_000))
    (packing.source / "m.py").write_bytes(bytes(10))
    with pytest.raises(
        LocalError, match=r"larger than 400\.0 kB; .*pkg/data/ 900\.0 kB.*pkg/data/model\.bin 900\.0 kB"
    ):
        packing.pack(max_context_bytes=400_000)
    assert not packing.archive.exists()
    assert not (packing.workspace.path / "context.json").exists()


def test_the_largest_files_of_a_large_context_are_named(packing: Packing) -> None:
    (packing.source / "pkg" / "data").mkdir(parents=True)
    with (packing.source / "pkg" / "data" / "model.bin").open("wb") as file:
        file.truncate(100_000_000)
    (packing.source / "m.py").write_bytes(bytes(10))
    ui = QuietUi()
    packing.pack(ui=ui)
    assert ui.warnings == [
        "largest folders: pkg/data/ 100.0 MB, ./ 10 B; largest files: pkg/data/model.bin 100.0 MB, m.py 10 B"
    ]


@pytest.mark.parametrize("place", ["content", "seam", "name", "link", "generated"])
def test_the_key_is_found_and_its_place_is_named_without_it(packing: Packing, place: str) -> None:
    source = packing.source
    (source / "a.py").write_text("fine\n")
    generated = {}
    where = "name of a file or the target of a link"
    if place == "content":
        (source / "b.py").write_text(f"one\ntwo\nkey = '{SECRET}'\n")
        where = "b.py, line 3"
    elif place == "seam":
        (source / "b.py").write_text("x" * ((1 << 18) - 2055) + SECRET)
        where = "b.py, line 1"
    elif place == "name":
        (source / SECRET).touch()
    elif place == "link":
        (source / "l").symlink_to(SECRET)
    else:
        generated["Dockerfile"] = b"FROM x\nARG KEY=" + SECRET.encode()
        where = "Dockerfile, line 2"
    with pytest.raises(LocalError, match="RUNTIME_API_KEY is in") as caught:
        packing.pack(runtime_api_key=ApiKey(SECRET), generated=generated)
    assert where in caught.value.message
    assert SECRET not in caught.value.message + caught.value.fix
    assert not packing.archive.exists()


def test_a_short_key_is_not_looked_for(packing: Packing) -> None:
    (packing.source / "m.py").write_text("the key is in here")
    assert packing.pack(runtime_api_key=ApiKey("key")).files == 3


@pytest.mark.parametrize(("dirty", "changed"), [(False, ["m.py"]), (True, [])])
def test_a_tree_that_is_not_what_the_version_says_is_refused(packing: Packing, dirty: bool, changed: list[str]) -> None:
    (packing.source / "m.py").touch()
    with pytest.raises(LocalError, match=r"version\.json says that") as caught:
        packing.pack(SelectedFiles(["m.py"], changed, []), version={"sha": SHA, "dirty": dirty})
    assert "`runtime-build version`" in caught.value.fix
    assert all(path in caught.value.message for path in changed)


def test_warnings_of_the_selection_are_given_once(packing: Packing) -> None:
    (packing.source / "m.py").touch()
    lists = [SelectedFiles(["gone", "m.py"], [], ["odd"]), SelectedFiles(["m.py"], [], ["odd"])]
    ui = QuietUi()
    packing.pack(*lists, ui=ui)
    assert ui.warnings == ["odd", "gone vanished while it was packed; reading the tree again"]


def test_every_file_that_it_is_made_from_is_recorded(packing: Packing) -> None:
    context = packing.pack(generated={"health.sh": b"exit 0\n"})
    names = {"version.json", "dockerfile.json", "Dockerfile", "BUILD_INSTRUCTIONS.md", "health.sh"}
    assert set(context.made_from) == names
    assert packing.workspace.load(BuildContext) == context
    packing.workspace.write("health.sh", b"exit 1\n")
    with pytest.raises(LocalError, match=r"made from another health\.sh"):
        packing.workspace.load(BuildContext)


def test_two_checkouts_of_one_commit_give_identical_archives(command: Command, tmp_path: Path) -> None:
    def make_all(checkout: Path) -> dict[str, bytes]:
        command.outputs = [checkout / "runtime-build"]
        command.run("all", "--target", "source", "--source-dir", str(checkout), folder=checkout).succeed()
        return {path.name: path.read_bytes() for path in command.output.iterdir() if path.name != ".context-cache"}

    first = make_all(command.checkout)
    for name in ("clone", "worktree"):
        other = tmp_path / name
        arguments = ["clone", "-q", "."] if name == "clone" else ["worktree", "add", "-q", "--detach"]
        run_git(command.checkout, *arguments, str(other))
        assert make_all(other) == first


def test_an_edit_after_version_stops_context(command: Command) -> None:
    command.run("version").succeed()
    command.run("dockerfile", "--target", "source").succeed()
    command.run("context").succeed()
    (command.checkout / "README.md").write_text("edited")
    command.run("context").fail(3, "says that the checkout is clean", "README.md", "runtime-build version")
    command.run("version").succeed()
    command.run("dockerfile", "--target", "source").succeed()
    command.run("context").succeed()
    commit_all(command.checkout)
    command.run("context").fail(3, "runtime-build version")
