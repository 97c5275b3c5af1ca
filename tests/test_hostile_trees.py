"""Trees that lead elsewhere, hang, or bring programs of their own."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildkit.archive.compressor import find_compressor
from buildkit.archive.stream import PackingOptions
from buildkit.archive.writer import ArchiveWriter
from buildkit.errors import LocalError
from buildkit.settings import CiEnvironment, Settings
from buildkit.source.fingerprint import keeps_times
from buildkit.source.tree import SourceTree
from tests.checkouts import commit_all, run_git
from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    from collections.abc import Iterator

SDK = "openhands-sdk/openhands/sdk"
RACES = 200


def make_tree(source: Path, **settings: tuple[str, ...]) -> SourceTree:
    return SourceTree(source, Settings(**settings), CiEnvironment())  # type: ignore[arg-type]  # patterns, by name


def pack(source: Path, files: list[str]) -> bytes:
    file = io.BytesIO()
    writer = ArchiveWriter(file, PackingOptions(1, find_compressor("zlib-1"), 10**12))
    writer.pack_source(source, files)
    writer.finish({})
    return file.getvalue()


def list_children() -> list[str]:
    """Return the programs that this process has started and that still run, but for the tests' own warm one."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    pids = [pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]
    return [command for command in commands if "warm.py" not in command]


def test_66_a_folder_that_becomes_a_link_never_lets_outside_bytes_in(tmp_path: Path) -> None:
    source, outside, aside = tmp_path / "source", tmp_path / "outside", tmp_path / "aside"
    for folder, content in ((source / "a" / "b", "inside"), (outside / "b", "OUTSIDE")):
        folder.mkdir(parents=True)
        for number in range(20):
            (folder / f"{number:02}").write_text(content)
    files = [f"a/b/{number:02}" for number in range(20)]
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (source / "a").rename(aside)
            (source / "a").symlink_to(outside)
            (source / "a").unlink()
            aside.rename(source / "a")

    swapper = threading.Thread(target=swap)
    swapper.start()
    packed = 0
    try:
        for _ in range(RACES):
            try:
                data = pack(source, files)
            except LocalError:
                continue
            packed += 1
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                contents = {found.read() for member in archive if (found := archive.extractfile(member))}
            assert contents == {b"inside"}
    finally:
        stop.set()
        swapper.join()
    assert packed < RACES


def test_66_a_folder_that_is_a_link_is_not_entered_in_any_way(git_repo: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.move(git_repo / SDK, outside)
    (outside / "secret.txt").touch()
    (git_repo / SDK).symlink_to(outside)
    selected = make_tree(git_repo).select()
    assert not [path for path in selected.files if path.startswith(f"{SDK}/")]
    assert f"{SDK}/__init__.py" in selected.changed


HOOKS = ("post-index-change", "fsmonitor-watchman", "reference-transaction", "post-checkout", "pre-auto-gc")
SETTINGS = """
[filter "evil"]
    clean = {clean}
    process = {process}
    smudge = {smudge}
    required = true
[filter "lfs"]
    clean = {lfs-clean}
    process = {lfs-process}
    smudge = {lfs-smudge}
[diff]
    external = {external-diff}
    submodule = log
[diff "evil"]
    textconv = {textconv}
    command = {diff-command}
[core]
    repositoryformatversion = 1
    fsmonitor = {fsmonitor}
    hooksPath = .git/hooks
    pager = {pager}
    editor = {editor}
    sshCommand = {ssh}
    askPass = {askpass}
    gitProxy = {proxy}
    alternateRefsCommand = {alternate-refs}
[pager]
    log = true
    ls-files = true
[gpg]
    program = {gpg}
[log]
    showSignature = true
[alias]
    ls-files = !{alias}
    log = !{alias}
[credential]
    helper = !{credential}
[uploadpack]
    packObjectsHook = {pack-objects}
[extensions]
    partialClone = origin
[remote "origin"]
    promisor = true
    url = ext::sh -c '{ext}'
    uploadpack = {upload-pack}
[protocol]
    allow = always
[protocol "ext"]
    allow = always
[submodule]
    recurse = true
"""


def arm(repository: Path, marks: Path) -> None:
    """Make everything that git could start for this repository leave a file in `marks`."""

    def leave(name: str) -> str:
        return f"touch {marks / name}-{repository.name} && cat"

    for hook in HOOKS:
        path = repository / ".git" / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{leave(hook)}\n")
        path.chmod(0o755)
    with (repository / ".git" / "config").open("a") as config:
        config.write(re.sub(r"\{([\w-]+)\}", lambda name: f'"{leave(name[1])}"', SETTINGS))


def test_68_nothing_from_the_tree_runs(git_repo: Path, tmp_path: Path) -> None:
    marks, nested = tmp_path / "marks", git_repo / SDK / "nested"
    marks.mkdir()
    nested.mkdir()
    (git_repo / ".gitattributes").write_text("* filter=evil diff=evil text=auto ident\n*.lfs filter=lfs\n")
    (git_repo / SDK / "large.lfs").write_text("not a pointer")
    commit_all(git_repo)
    (nested / "m.py").touch()
    commit_all(nested)
    arm(git_repo, marks)
    arm(nested, marks)
    (git_repo / "README.md").write_text("edited")
    (git_repo / SDK / "large.lfs").write_text("edited")
    for path in (git_repo / SDK).rglob("*.py"):
        os.utime(path)
    subprocess.run(["git", "-C", git_repo, "diff"], capture_output=True, check=False, timeout=20)
    assert os.listdir(marks)  # the traps work
    for mark in marks.iterdir():
        mark.unlink()
    tree = make_tree(git_repo, include=("*.md",))
    assert "README.md" in tree.find_changes()
    assert tree.identify(print) is not None
    tree.explain("README.md")
    pack(git_repo, tree.select().files)
    shutil.rmtree(git_repo / ".git" / "objects")
    (git_repo / ".git" / "objects").mkdir()
    for ask in (tree.find_changes, lambda: tree.identify(print)):
        with pytest.raises(LocalError):
            ask()
    assert os.listdir(marks) == []
    assert list_children() == []


@pytest.mark.slow
@pytest.mark.parametrize("place", [f"{SDK}/.gitignore", ".git/config", ".git/HEAD"])
def test_69_a_fifo_in_the_way_of_git_stops_it_in_time(git_repo: Path, place: str) -> None:
    (git_repo / place).unlink(missing_ok=True)
    (git_repo / place).parent.mkdir(exist_ok=True)
    os.mkfifo(git_repo / place)
    started = time.monotonic()
    with pytest.raises(LocalError):
        make_tree(git_repo).find_changes()
    assert time.monotonic() - started < 10
    assert list_children() == []


def test_69_a_fifo_where_attributes_belong_is_refused(git_repo: Path) -> None:
    os.mkfifo(git_repo / ".gitattributes")
    with pytest.raises(LocalError, match=r"\.gitattributes is not a file"):
        make_tree(git_repo).find_changes()


@pytest.mark.parametrize("pattern", ["**/**/**/**/x", "**/a/**/a/**/a/**/a/**/x", "a*a*a*a*a*a*a*a*a*b/**"])
def test_70_a_members_pattern_is_matched_in_bounded_time(git_repo: Path, pattern: str) -> None:
    (git_repo / "/".join(["a"] * 60)).mkdir(parents=True)
    (git_repo / ("a" * 200)).mkdir()
    text = (git_repo / "pyproject.toml").read_text()
    (git_repo / "pyproject.toml").write_text(text.replace("members = [", f'members = ["{pattern}", ', 1))
    started = time.monotonic()
    assert make_tree(git_repo).project.members
    assert time.monotonic() - started < 5


@pytest.fixture
def deep_tree(source_tree: Path) -> Iterator[Path]:
    """A source tree with a file in a path that is nearly as long as a path can be."""
    deep = f"{source_tree}/{SDK}"
    for _ in range(980):
        deep += "/d"
        os.mkdir(deep)
    Path(deep, "m.py").write_text("deep")
    yield source_tree
    # pytest, which cleans up some runs later, calls itself for each folder and would give up.
    subprocess.run(["rm", "-rf", f"{source_tree}/{SDK}/d"], check=True)


@pytest.mark.parametrize("in_git", rest_is_slow([True, False], 1))
def test_70_folders_may_be_nested_as_deep_as_their_path_can_be(deep_tree: Path, in_git: bool) -> None:
    if in_git:
        commit_all(deep_tree)
    tree = make_tree(deep_tree)
    selected = tree.select()
    assert tree.find_changes() == {}
    assert tree.find_spec(None)
    path = next(path for path in selected.files if path.endswith("d/m.py"))
    with tarfile.open(fileobj=io.BytesIO(pack(deep_tree, selected.files))) as archive:
        found = archive.extractfile(path)
        assert found is not None
        assert found.read() == b"deep"


@pytest.mark.parametrize("text", ["[tool]\nx = " + "9" * 5000, "[tool]\nx = " + "[" * 5000, "x = 9999-99-99"])
def test_70_what_a_project_file_cannot_mean_names_the_file(git_repo: Path, text: str) -> None:
    (git_repo / "pyproject.toml").write_text(text)
    with pytest.raises(LocalError, match=r"pyproject\.toml cannot be read"):
        make_tree(git_repo).select()


@pytest.mark.parametrize("moment", ["99999999999999999999999", "-1", "", "x", "253402300800000"])
def test_70_a_commit_at_an_odd_time_is_refused(git_repo: Path, moment: str) -> None:
    commit = run_git(git_repo, "cat-file", "commit", "HEAD").replace("1760000000 +0000\n\n", f"{moment} +0000\n\n")
    command = ["git", "hash-object", "-t", "commit", "-w", "--literally", "--stdin"]
    done = subprocess.run(command, cwd=git_repo, input=commit + "\n", text=True, capture_output=True, check=True)
    (git_repo / ".git" / "refs" / "heads" / "main").write_text(done.stdout)
    try:
        found = make_tree(git_repo).identify(print)
    except LocalError as error:
        assert "committer time" in error.message  # noqa: PT017 - git reads some of them as a time
    else:
        assert found is not None
        assert found.time in {0, 1}


@pytest.mark.parametrize("damage", ["object", "ref", "variable"])
def test_73_a_checkout_is_never_without_its_commit(
    git_repo: Path, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = run_git(git_repo, "rev-parse", "HEAD")
    if damage == "variable":
        monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(tmp_path / "elsewhere"))
        found = make_tree(git_repo).identify(print)
        assert found is not None
        assert found.sha == sha
        return
    if damage == "object":
        (git_repo / ".git" / "objects" / sha[:2] / sha[2:]).unlink()
    else:
        (git_repo / ".git" / "refs" / "heads" / "main").write_text("garbage\n")
    with pytest.raises(LocalError, match="git log failed"):
        make_tree(git_repo).identify(print)


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree", "trustctime", "checkstat"])
def test_73_an_edit_is_seen_whatever_the_index_says(git_repo: Path, flag: str) -> None:
    path = git_repo / SDK / "__init__.py"
    before = path.stat()
    if flag.startswith("--"):
        run_git(git_repo, "update-index", flag, f"{SDK}/__init__.py")
    else:
        run_git(git_repo, "config", f"core.{flag}", "false" if flag == "trustctime" else "minimal")
    path.write_bytes(path.read_bytes()[::-1] if before.st_size > 1 else b"#\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert list(make_tree(git_repo).find_changes()) == [f"{SDK}/__init__.py"]


@pytest.mark.parametrize(
    ("setting", "reason"),
    [("core.autocrlf=true", "line endings"), ("core.symlinks=false", "link"), ("core.fileMode=false", "executable")],
)
def test_74_a_clone_that_differs_says_why(git_repo: Path, tmp_path: Path, setting: str, reason: str) -> None:
    (git_repo / SDK / "link").symlink_to("__init__.py")
    (git_repo / SDK / "run.sh").write_text("#!/bin/sh\n")
    (git_repo / SDK / "run.sh").chmod(0o755)
    commit_all(git_repo)
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", "-c", setting, str(git_repo), str(clone))
    if setting == "core.fileMode=false":
        (clone / SDK / "run.sh").chmod(0o644)
    changes = make_tree(clone).find_changes()
    assert changes
    assert all(reason in why for why in changes.values())


def test_74_what_the_commit_itself_asks_for_is_no_difference(git_repo: Path, tmp_path: Path) -> None:
    content = b"large" * 100
    digest = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n"
    (git_repo / SDK / "run.bat").write_bytes(b"echo\necho\n")
    (git_repo / SDK / "model.bin").write_text(pointer)
    (git_repo / SDK / "other.bin").write_text(pointer)
    commit_all(git_repo)
    (git_repo / ".gitattributes").write_text("*.bat text eol=crlf\n*.bin filter=lfs\n")
    commit_all(git_repo)
    clone = tmp_path / "clone"
    run_git(tmp_path, "clone", "-q", str(git_repo), str(clone))
    assert (clone / SDK / "run.bat").read_bytes() == b"echo\r\necho\r\n"
    (clone / SDK / "model.bin").write_bytes(content)
    assert make_tree(clone).find_changes() == {}
    (clone / SDK / "model.bin").write_bytes(b"other")
    assert list(make_tree(clone).find_changes()) == [f"{SDK}/model.bin"]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs")
def test_72_times_on_a_tmpfs_prove_nothing() -> None:
    assert not keeps_times(Path("/dev/shm"))
    assert keeps_times(Path("/")) or Path("/proc/self/mountinfo").read_text().count(" / / ") != 1


@pytest.mark.parametrize("in_git", [True, False])
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user for a while")
def test_79_excluding_an_unreadable_folder_works(
    source_tree: Path, in_git: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_git:
        commit_all(source_tree)
    (source_tree / SDK / "closed").mkdir(mode=0)
    nobody = 65534
    for path in (source_tree, *source_tree.rglob("*")):
        os.chown(path, nobody, nobody, follow_symlinks=False)
    folder = source_tree.parent
    while folder != folder.parent:
        folder.chmod(folder.stat().st_mode | 0o055)
        folder = folder.parent
    monkeypatch.setenv("HOME", str(source_tree))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    os.seteuid(nobody)
    try:
        with pytest.raises(LocalError, match=r"cannot be read: .*closed") as caught:
            make_tree(source_tree).select()
        pattern = caught.value.fix.rpartition("EXCLUDE=")[2]
        assert f"{SDK}/__init__.py" in make_tree(source_tree, exclude=(pattern,)).select().files
    finally:
        os.seteuid(0)
