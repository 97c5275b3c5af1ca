"""Task `context`: the archive always has the tree as it is now, whether it was packed, copied or kept."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit.errors import FileChanged, LocalError
from buildkit.models import BuildContext, Dockerfile, Version
from buildkit.secret import ApiKey
from buildkit.settings import CiEnvironment, Settings
from buildkit.source.checkout import Commit
from buildkit.source.selection import SelectedFiles
from buildkit.source.tree import SourceTree
from buildkit.tasks.context import pack_context
from buildkit.ui import Ui
from buildkit.workspace import Workspace
from tests.checkouts import commit_all, run_git

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.commands import Command

SECRET = "s3cr3t-t0k3n"
SHA = "0506352" + "0" * 33
ARCHIVE = "a.tar.gz"
OPENED: list[str] = []
sys.addaudithook(lambda event, arguments: OPENED.append(str(arguments[0])) if event == "open" else None)


def list_tree(source: Path) -> SelectedFiles:
    found = (
        os.path.relpath(os.path.join(folder, name), source)
        for folder, folders, names in os.walk(source)
        for name in [*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]
    )
    return SelectedFiles(sorted(found), [], [])


class PlainTree(SourceTree):
    """A folder of which everything is packed, at no commit or at `sha`; `lists` come before what is really there."""

    def __init__(self, path: Path, *lists: SelectedFiles, sha: str | None = None) -> None:
        super().__init__(path, Settings(), CiEnvironment())
        self._lists = list(lists)
        self._sha = sha

    def identify(self, warn: Callable[[str], None]) -> Commit | None:  # noqa: ARG002 - the name is the base class's
        return Commit(self._sha, None) if self._sha else None

    def select(self) -> SelectedFiles:
        return self._lists.pop(0) if self._lists else list_tree(self.path)


class QuietUi(Ui):
    """Keeps what is said; `interfere` is called while files are read."""

    def __init__(self, interfere: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self.reports: list[str] = []
        self.interfere = interfere

    def warn(self, line: str) -> None:
        self.warnings.append(line)

    def report(self, line: str) -> None:
        self.reports.append(line)

    def progress(self, label: str) -> Any:  # noqa: ARG002 - likewise
        return nullcontext(lambda _done, _total: self.interfere())


class Packing:
    """A folder with a source tree in it, which is packed into a workspace beside the tree."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.source.mkdir()
        self.workspace = Workspace(folder / "out")
        self.archive = self.workspace.path / ARCHIVE

    def pack(
        self,
        *lists: SelectedFiles,
        ui: QuietUi | None = None,
        version: dict[str, Any] | None = None,
        generated: dict[str, bytes] | None = None,
        use_cache: bool = True,
        **changed: Any,
    ) -> BuildContext:
        """Pack as it is after `version` and `dockerfile`; `changed` are settings."""
        names: dict[str, Any] = {"sha": None, "dirty": False, "archive": ARCHIVE, "commit_time": 1_760_000_000}
        names |= version or {}
        with self.workspace.writing():
            state = Version(name="a", short_sha="unknown", tags=["a"], primary_tag="a", **names)
            self.workspace.save(state)
            files = {"Dockerfile": b"FROM x\n", "BUILD_INSTRUCTIONS.md": b"# How\n"} | (generated or {})
            for name, data in files.items():
                self.workspace.write(name, data)
            made_from = self.workspace.digests("version.json")
            self.workspace.save(Dockerfile("source", "x", "0" * 64, {}, made_from=made_from))
            tree = PlainTree(self.source, *lists, sha=names["sha"])
            return pack_context(self.workspace, tree, Settings(**changed), ui or QuietUi(), use_cache=use_cache)

    def stays(self, **given: Any) -> bool:
        """Pack again, and return whether the archive was left as it is."""
        before = identify(self.archive)
        self.pack(**given)
        return identify(self.archive) == before


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


def identify(path: Path) -> tuple[int, int, int]:
    """Return what changes if a file is written or replaced; reading it may change the time of its last access."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


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
        {"runtime_api_key": ApiKey(SECRET)},
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
