"""Step `context`: the archive is always of the tree as it is now, whether it was packed or kept."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit.archive.compressor import find_compressor
from buildkit.errors import FileChanged, LocalError
from buildkit.source.selection import SelectedFiles
from buildkit.steps.context import PackedContext, pack_context
from tests.checkouts import commit_all, run_git

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.commands import Command

SECRET = "s3cr3t-t0k3n"


def list_tree(source: Path) -> SelectedFiles:
    found = (
        os.path.relpath(os.path.join(folder, name), source)
        for folder, folders, names in os.walk(source)
        for name in [*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]
    )
    return SelectedFiles(sorted(found), [], [])


def pack(source: Path, archive: Path, **given: Any) -> PackedContext:
    defaults: dict[str, Any] = {
        "select": lambda: list_tree(source),
        "generated": {"Dockerfile": b"FROM x\n"},
        "mtime": 1_760_000_000,
        "compressor": find_compressor("zlib-1"),
        "secret": "",
        "max_bytes": 10**9,
        "warn_bytes": 10**9,
        "dirty": None,
        "previous": None,
        "progress": lambda _: None,
        "warn": pytest.fail,
    }
    return pack_context(source, archive=archive, **(defaults | given))


@pytest.fixture(scope="module")
def settled_trees(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Trees, one for a test, that have not changed for so long that their times prove something."""
    trees = [tmp_path_factory.mktemp("settled") for _ in range(40)]
    for tree in trees:
        (tree / "source" / "pkg" / "folder").mkdir(parents=True)
        (tree / "source" / "pkg" / "m.py").write_text("x = 1\n")
        (tree / "source" / "pkg" / "n.py").write_text("y = 2\n")
        (tree / "source" / "pkg" / "link").symlink_to("m.py")
    time.sleep(2.05)
    return trees


@pytest.fixture
def settled(settled_trees: list[Path]) -> tuple[Path, Path, PackedContext]:
    """A tree that has not changed for a while, its archive, and what was packed."""
    tree = settled_trees.pop()
    source, archive = tree / "source", tree / "a.tar.gz"
    return source, archive, pack(source, archive)


def test_an_unchanged_tree_keeps_its_archive_without_reading_a_file(settled: tuple[Path, Path, PackedContext]) -> None:
    source, archive, first = settled
    before = archive.stat()
    read_at = (source / "pkg" / "m.py").stat().st_atime_ns
    assert pack(source, archive, previous=first) is first
    assert archive.stat() == before
    assert (source / "pkg" / "m.py").stat().st_atime_ns == read_at


def test_without_the_earlier_result_everything_is_read_and_comes_out_the_same(
    settled: tuple[Path, Path, PackedContext],
) -> None:
    source, archive, first = settled
    assert pack(source, archive).context == first.context


@pytest.mark.parametrize(
    "given",
    [
        {"generated": {"Dockerfile": b"FROM y\n"}},
        {"generated": {"Dockerfile": b"FROM x\n", "more": b""}},
        {"mtime": 1_760_000_001},
        {"compressor": find_compressor("zlib-2")},
        {"secret": SECRET},
        {"max_bytes": 10**8},
    ],
    ids=lambda given: next(iter(given)),
)
def test_another_setting_packs_again(settled: tuple[Path, Path, PackedContext], given: dict[str, Any]) -> None:
    source, archive, first = settled
    assert pack(source, archive, previous=first, **given) is not first


@pytest.mark.parametrize("harm", ["remove", "truncate", "overwrite", "replace"])
def test_an_archive_that_is_not_the_one_that_was_packed_is_packed_again(
    settled: tuple[Path, Path, PackedContext], harm: str
) -> None:
    source, archive, first = settled
    data, times = archive.read_bytes(), (archive.stat().st_atime_ns, archive.stat().st_mtime_ns)
    if harm == "remove":
        archive.unlink()
    elif harm == "truncate":
        os.truncate(archive, 20)
    elif harm == "replace":
        shutil.copy2(archive, archive.with_name("copy"))
        archive.with_name("copy").write_bytes(data[::-1])
        os.utime(archive.with_name("copy"), ns=times)
        archive.with_name("copy").replace(archive)
    else:
        archive.write_bytes(data[::-1])
        os.utime(archive, ns=times)
    again = pack(source, archive, previous=first)
    assert again is not first
    assert again.context == first.context
    assert archive.read_bytes() == data


def test_a_tree_that_changed_a_moment_ago_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("x = 1\n")
    packed = pack(tmp_path, tmp_path / ".." / "a.tar.gz")
    assert packed.proof is None


def rewrite(path: Path) -> None:
    """Other content of the same size, at the same time by its own account."""
    found = path.stat()
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def rename_over(path: Path) -> None:
    """Another file of the same size and times under the same name."""
    found = path.stat()
    other = path.with_name("other")
    other.write_bytes(bytes(byte ^ 3 for byte in path.read_bytes()))
    other.chmod(found.st_mode)
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)


def swap(path: Path) -> None:
    """Two files of one size that trade their names."""
    aside, twin = path.with_name("aside"), path.with_name("n.py" if path.name == "m.py" else "m.py")
    path.rename(aside)
    twin.rename(path)
    aside.rename(twin)


def link_elsewhere(path: Path) -> None:
    link = path.with_name("link")
    target = "n.py" if os.readlink(link) == "m.py" else "m.py"
    link.unlink()
    link.symlink_to(target)


def become_a_link(path: Path) -> None:
    target = "n.py" if path.name == "m.py" else "m.py"
    path.unlink()
    path.symlink_to(target)


def move(path: Path) -> None:
    path.rename(path.parent / "folder" / path.name)


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewrite": rewrite,
    "rename over": rename_over,
    "swap": swap,
    "mode": lambda path: path.chmod(path.stat().st_mode ^ 0o111),
    "link elsewhere": link_elsewhere,
    "become a link": become_a_link,
    "append": lambda path: path.write_bytes(path.read_bytes() + b"#"),
    "remove": Path.unlink,
    "add": lambda path: path.with_name("added.py").write_bytes(b""),
    "move": move,
}


def read_tree(source: Path) -> dict[str, tuple[str, bytes | str, bool]]:
    tree: dict[str, tuple[str, bytes | str, bool]] = {}
    for name in list_tree(source).files:
        path = source / name
        if path.is_symlink():
            tree[name] = ("link", os.readlink(path), True)
        else:
            tree[name] = ("file", path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return tree


def read_archive(archive: Path) -> dict[str, tuple[str, bytes | str, bool]]:
    tree: dict[str, tuple[str, bytes | str, bool]] = {}
    with tarfile.open(archive) as packed:
        for member in packed:
            if member.issym():
                tree[member.name] = ("link", member.linkname, True)
            elif member.isreg() and member.name != "Dockerfile":
                content = packed.extractfile(member)
                assert content is not None
                tree[member.name] = ("file", content.read(), bool(member.mode & 0o100))
    return tree


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), st.sampled_from(["m.py", "n.py"])), max_size=4))
def test_never_a_stale_archive_however_fast_the_tree_changes(steps: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, archive = Path(folder) / "source", Path(folder) / "a.tar.gz"
        (source / "pkg" / "folder").mkdir(parents=True)
        for name in ("m.py", "n.py"):
            (source / "pkg" / name).write_text(f"name = {name!r}\n")
        (source / "pkg" / "link").symlink_to("m.py")
        previous = pack(source, archive)
        for change, name in steps:
            path = source / "pkg" / name
            twins = [source / "pkg" / other for other in ("m.py", "n.py")]
            if all(twin.is_file() and not twin.is_symlink() for twin in twins):
                CHANGES[change](path)
            previous = pack(source, archive, previous=previous)
            assert read_archive(archive) == read_tree(source)


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_never_a_stale_archive_of_a_tree_that_had_settled(
    settled: tuple[Path, Path, PackedContext], change: str
) -> None:
    source, archive, first = settled
    assert first.proof
    assert pack(source, archive, previous=first) is first
    CHANGES[change](source / "pkg" / "m.py")
    assert pack(source, archive, previous=first) is not first
    assert read_archive(archive) == read_tree(source)


@pytest.mark.parametrize("previously", [True, False])
def test_a_list_that_is_overtaken_by_the_tree_is_made_again(tmp_path: Path, previously: bool) -> None:
    source, archive = tmp_path / "source", tmp_path / "a.tar.gz"
    source.mkdir()
    (source / "m.py").touch()
    previous = pack(source, archive) if previously else None
    warnings: list[str] = []
    lists = iter([SelectedFiles(["gone.py", "m.py"], [], []), SelectedFiles(["m.py"], [], [])])
    packed = pack(source, archive, select=lambda: next(lists), previous=previous, warn=warnings.append)
    assert packed.context.files == 2
    assert warnings == ["gone.py vanished while it was packed; reading the tree again"]


def test_a_file_that_never_rests_is_given_up_and_the_old_archive_stays(tmp_path: Path) -> None:
    source, archive = tmp_path / "source", tmp_path / "a.tar.gz"
    source.mkdir()
    (source / "m.py").write_bytes(bytes(1 << 19))
    archive.write_bytes(b"as before")
    warnings: list[str] = []

    def touch(_: int) -> None:
        os.utime(source / "m.py", (1, 1))

    with pytest.raises(FileChanged, match=r"m\.py changed"):
        pack(source, archive, progress=touch, warn=warnings.append)
    assert len(warnings) == 3
    assert sorted(os.listdir(tmp_path)) == ["a.tar.gz", "source"]
    assert archive.read_bytes() == b"as before"


def test_a_context_over_the_limit_names_what_is_large(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "pkg" / "data").mkdir(parents=True)
    (source / "pkg" / "data" / "model.bin").write_bytes(bytes(900_000))
    (source / "m.py").write_bytes(bytes(10))
    with pytest.raises(
        LocalError, match=r"larger than 400\.0 kB; .*pkg/data/ 900\.0 kB.*pkg/data/model\.bin 900\.0 kB"
    ):
        pack(source, tmp_path / "a.tar.gz", max_bytes=400_000)
    assert os.listdir(tmp_path) == ["source"]
    warnings: list[str] = []
    pack(source, tmp_path / "a.tar.gz", warn_bytes=400_000, warn=warnings.append)
    assert warnings == [
        "largest folders: pkg/data/ 900.0 kB, ./ 10 B; largest files: pkg/data/model.bin 900.0 kB, m.py 10 B"
    ]


@pytest.mark.parametrize("place", ["content", "seam", "name", "link", "generated"])
def test_the_key_is_found_and_its_place_is_named_without_it(tmp_path: Path, place: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.py").write_text("fine\n")
    generated = {"Dockerfile": b"FROM x\n"}
    where = "name of a file or in the target of a link"
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
        generated["Dockerfile"] = b"ARG KEY=" + SECRET.encode()
        where = ""
    with pytest.raises(LocalError, match="RUNTIME_API_KEY is in") as caught:
        pack(source, tmp_path / "a.tar.gz", secret=SECRET, generated=generated)
    assert where in caught.value.message
    assert SECRET not in caught.value.message + caught.value.fix
    assert not (tmp_path / "a.tar.gz").exists()


def test_a_short_key_is_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("the key is in here")
    assert pack(tmp_path, tmp_path.parent / "short.tar.gz", secret="key").context.files == 2


@pytest.mark.parametrize(("dirty", "changed"), [(False, ["m.py"]), (True, [])])
def test_a_tree_that_is_not_what_the_version_says_is_refused(tmp_path: Path, dirty: bool, changed: list[str]) -> None:
    (tmp_path / "m.py").touch()
    with pytest.raises(LocalError, match=r"version\.json tells of") as caught:
        pack(tmp_path, tmp_path / "a.tar.gz", dirty=dirty, select=lambda: SelectedFiles(["m.py"], changed, []))
    assert "invoke version" in caught.value.fix
    assert all(path in caught.value.message for path in changed)


def test_warnings_of_the_selection_are_given_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "m.py").touch()
    lists = iter([SelectedFiles(["gone", "m.py"], [], ["odd"]), SelectedFiles(["m.py"], [], ["odd"])])
    warnings: list[str] = []
    pack(source, tmp_path / "a.tar.gz", select=lambda: next(lists), warn=warnings.append)
    assert warnings == ["odd", "gone vanished while it was packed; reading the tree again"]


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
    command.run("context").fail(3, "tells of a clean checkout", "README.md", "invoke version")
    command.run("version").succeed()
    command.run("dockerfile", "--target", "source").succeed()
    command.run("context").succeed()
    commit_all(command.checkout)
    command.run("context").fail(3, "invoke version")
