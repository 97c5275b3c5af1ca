"""The archive always has the tree as it is now, whether it was packed, copied or kept."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit.errors import LocalError
from buildkit.models import BuildContext
from buildkit.secret import ApiKey
from buildkit.source.selection import SelectedFiles
from tests.packing import ARCHIVE, Packing, QuietUi, identify, list_tree

if TYPE_CHECKING:
    from collections.abc import Callable


OPENED: list[str] = []
sys.addaudithook(lambda event, arguments: OPENED.append(str(arguments[0])) if event == "open" else None)


@pytest.fixture
def packing(tmp_path: Path) -> Packing:
    """An empty source tree."""
    return Packing(tmp_path)


@pytest.fixture(scope="module")
def settled_trees(tmp_path_factory: pytest.TempPathFactory) -> list[Packing]:
    """Trees, one for a test, that have not changed for so long that their times can be relied on."""
    trees = [Packing(tmp_path_factory.mktemp("settled")) for _ in range(50)]
    for tree in trees:
        (tree.source / "pkg" / "folder").mkdir(parents=True)
        (tree.source / "pkg" / "m.py").write_text("x = 1\n")
        (tree.source / "pkg" / "n.py").write_text("y = 2\n")
        (tree.source / "pkg" / "link").symlink_to("m.py")
    time.sleep(2.05)
    return trees


@pytest.fixture
def settled(settled_trees: list[Packing]) -> Packing:
    """A tree that has not changed for a while, and was packed."""
    tree = settled_trees.pop()
    tree.pack()
    return tree


def list_opened() -> list[str]:
    return [path for path in OPENED if path.rpartition("/")[2] in {"m.py", "n.py"}]


def test_an_unchanged_tree_keeps_its_archive_without_reading_a_file(settled: Packing) -> None:
    names = (ARCHIVE, "context.json", ".context-cache")
    before = [identify(settled.workspace.path / name) for name in names]
    OPENED.clear()
    ui = QuietUi()
    settled.pack(ui=ui)
    assert [identify(settled.workspace.path / name) for name in names] == before
    assert list_opened() == []
    assert ui.reports[-1].startswith("nothing changed: 5 files")


def test_without_the_cache_everything_is_read_and_comes_out_the_same(settled: Packing) -> None:
    first = settled.workspace.load(BuildContext)
    OPENED.clear()
    assert settled.pack(use_cache=False) == first
    assert len(list_opened()) == 2


@pytest.mark.parametrize(
    "given",
    [
        {"version": {"commit_time": 1_760_000_001}},
        {"runtime_api_key": ApiKey("s3cr3t-t0k3n")},
        {"max_context_bytes": 10**8},
    ],
    ids=lambda given: next(iter(given)),
)
def test_another_setting_packs_again(settled: Packing, given: dict[str, Any]) -> None:
    OPENED.clear()
    assert not settled.stays(**given)
    assert len(list_opened()) == 2


@pytest.mark.parametrize(
    "given",
    [
        {"generated": {"Dockerfile": b"FROM y\n"}},
        {"generated": {"health.sh": b"exit 0\n"}},
        {"version": {"archive": "b.tgz"}},
    ],
    ids=lambda given: next(iter(given)),
)
def test_only_the_generated_files_are_packed_again_if_only_they_changed(
    settled: Packing, given: dict[str, Any]
) -> None:
    OPENED.clear()
    copied = settled.pack(**given)
    assert list_opened() == []
    names = os.listdir(settled.workspace.path)
    assert [name for name in names if name.endswith("gz")] == [copied.archive]
    archive = (settled.workspace.path / copied.archive).read_bytes()
    assert settled.pack(**given) == copied
    assert settled.pack(**given, use_cache=False) == copied
    assert (settled.workspace.path / copied.archive).read_bytes() == archive
    assert len(list_opened()) == 2


def test_an_earlier_archive_that_cannot_be_read_is_packed_again(settled: Packing) -> None:
    first, data = settled.workspace.load(BuildContext), settled.archive.read_bytes()
    cache = settled.workspace.path / ".context-cache"
    record = json.loads(cache.read_bytes())
    cache.write_text(json.dumps(record | {"source": [record["source"][0], 512]}))
    ui = QuietUi()
    settled.pack(generated={"Dockerfile": b"FROM y\n"}, ui=ui)
    assert ui.warnings == ["the earlier archive changed; reading the tree again"]
    assert settled.pack() == first
    assert settled.archive.read_bytes() == data


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"{", b"{}", b'{"context": null}', b"[" * 100_000, b'{"source": [1, "x"]}', b"\xff"]
)
def test_a_damaged_cache_means_that_files_are_read(settled: Packing, record: bytes) -> None:
    first = settled.workspace.load(BuildContext)
    (settled.workspace.path / ".context-cache").write_bytes(record)
    OPENED.clear()
    assert settled.pack() == first
    assert len(list_opened()) == 2


@pytest.mark.parametrize("harm", ["remove", "truncate", "overwrite", "replace"])
def test_an_archive_that_is_not_the_one_that_was_packed_is_packed_again(settled: Packing, harm: str) -> None:
    archive, first = settled.archive, settled.workspace.load(BuildContext)
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
    OPENED.clear()
    assert settled.pack() == first
    assert len(list_opened()) == 2
    assert archive.read_bytes() == data


def test_a_tree_that_changed_a_moment_ago_is_read_again(packing: Packing) -> None:
    (packing.source / "m.py").write_text("x = 1\n")
    packing.pack()
    OPENED.clear()
    packing.pack()
    assert len(list_opened()) == 1


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
            elif member.isreg() and member.name not in {"Dockerfile", "BUILD_INSTRUCTIONS.md"}:
                content = packed.extractfile(member)
                assert content is not None
                tree[member.name] = ("file", content.read(), bool(member.mode & 0o100))
    return tree


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), st.sampled_from(["m.py", "n.py"])), max_size=4))
def test_never_a_stale_archive_however_fast_the_tree_changes(steps: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        packing = Packing(Path(folder))
        (packing.source / "pkg" / "folder").mkdir(parents=True)
        for name in ("m.py", "n.py"):
            (packing.source / "pkg" / name).write_text(f"name = {name!r}\n")
        (packing.source / "pkg" / "link").symlink_to("m.py")
        packing.pack()
        for change, name in steps:
            path = packing.source / "pkg" / name
            twins = [packing.source / "pkg" / other for other in ("m.py", "n.py")]
            if all(twin.is_file() and not twin.is_symlink() for twin in twins):
                CHANGES[change](path)
            packing.pack()
            assert read_archive(packing.archive) == read_tree(packing.source)


@pytest.mark.parametrize("generated", [b"FROM x\n", b"FROM y\n"])
@pytest.mark.parametrize("change", sorted(CHANGES))
def test_never_a_stale_archive_of_a_tree_that_had_settled(settled: Packing, change: str, generated: bytes) -> None:
    assert settled.stays()
    CHANGES[change](settled.source / "pkg" / "m.py")
    assert not settled.stays(generated={"Dockerfile": generated})
    assert read_archive(settled.archive) == read_tree(settled.source)


def test_a_link_that_has_come_to_lead_outside_is_refused_from_the_cache_too(settled: Packing) -> None:
    (settled.source / "way").mkdir()
    (settled.source / "pkg" / "through").symlink_to("../way/x")
    time.sleep(2.05)
    selected = SelectedFiles(["pkg/m.py", "pkg/through"], [], [])
    settled.pack(selected)
    assert settled.pack(selected)
    (settled.source / "way").rmdir()
    (settled.source / "way").symlink_to(settled.source.parent)
    for use_cache in (True, False):
        with pytest.raises(LocalError, match="leaves the source tree"):
            settled.pack(selected, use_cache=use_cache)
