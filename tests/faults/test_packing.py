"""Rows 17 to 28: what a source tree may hold and do while it is packed."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from buildkit.archive.compressor import BLOCK_BYTES
from buildkit.archive.tar import format_file
from tests.runtime_api import KEY

if TYPE_CHECKING:
    from tests.commands import Command, Ended

pytestmark = pytest.mark.fault

INSIDE = "openhands-sdk/openhands/sdk"
NOBODY = 65534


def open_context(command: Command) -> tarfile.TarFile:
    """Return the archive, read by the standard library."""
    return tarfile.open(command.output / command.read_state("context")["archive"])


def pack(command: Command, code: int = 0, *texts: str, **options: Any) -> Ended:
    """Pack the checkout as it is; nothing half-done may stay under a name of ours."""
    run = command.run("all", **options).expect(code, *texts)
    assert not [name for name in command.list_output() if name.startswith(".tmp-")]
    if code:
        assert not (command.output / "context.json").exists()
        assert not list(command.output.glob("*.tar.gz"))
    return run


class Writer:
    """Writes to a file again and again until it is told to stop."""

    def __init__(self, path: Path, step: Any) -> None:
        self._step, self._path = step, path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        with self._path.open("r+b", buffering=0) as file:
            while not self._stop.is_set():
                self._step(file)
                time.sleep(0.001)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _grow(file: Any) -> None:
    file.seek(0, io.SEEK_END)
    file.write(b"x")


def _change(file: Any) -> None:
    file.seek(0)
    file.write(os.urandom(8))


def _shrink(file: Any) -> None:
    file.truncate(max(os.fstat(file.fileno()).st_size - 4096, 0))


@pytest.mark.parametrize("step", [_grow, _change], ids=["grows", "changes"])
def test_17_file_that_keeps_changing_is_named(command: Command, step: Any) -> None:
    busy = command.checkout / INSIDE / "busy.bin"
    busy.write_bytes(os.urandom(12_000_000))
    with Writer(busy, step):
        run = pack(command, 3, f"{INSIDE}/busy.bin", changing=(f"src/{INSIDE}/busy.bin",))
    assert run.err.count("reading the tree again") == 3


def test_17_file_that_shrinks_is_never_packed_torn(command: Command) -> None:
    busy = command.checkout / INSIDE / "busy.bin"
    busy.write_bytes(os.urandom(40_000_000))
    with Writer(busy, _shrink):
        run = command.run("all", changing=(f"src/{INSIDE}/busy.bin",))
    assert run.code in (0, 3)
    if run.code == 0:
        with open_context(command) as tar:
            assert len(tar.extractfile(f"{INSIDE}/busy.bin").read()) == tar.getmember(f"{INSIDE}/busy.bin").size  # type: ignore[union-attr]  # a regular file has contents


def test_18_tree_whose_files_vanish_is_packed_again_or_named(command: Command) -> None:
    folder = command.checkout / INSIDE / "many"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:04}").write_bytes(os.urandom(20_000))
    stop = threading.Event()

    def remove() -> None:
        for path in sorted(folder.iterdir(), reverse=True):
            if stop.wait(0.002):
                return
            path.unlink()

    thread = threading.Thread(target=remove)
    run = command.start("all", changing=(f"src/{INSIDE}/many",))
    thread.start()
    ended = run.wait()
    stop.set()
    thread.join()
    assert ended.code in (0, 3), ended.err
    if ended.code:
        ended.expect(3, "many/")
        assert "vanished" in ended.err or "changed" in ended.err or "gone" in ended.err
        assert not list(command.output.glob("*.tar.gz"))


def test_18_tracked_file_that_is_gone_is_left_out_with_a_warning(command: Command) -> None:
    (command.checkout / INSIDE / "py.typed").unlink()
    run = pack(command, 0)
    assert "py.typed" in run.err
    with open_context(command) as tar:
        assert f"{INSIDE}/py.typed" not in tar.getnames()


def _give(world: Path, uid: int) -> None:
    for folder, folders, names in os.walk(world):
        for name in (".", *folders, *names):
            os.chown(Path(folder) / name, uid, uid, follow_symlinks=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="root reads everything; another user's rights need root to be given")
@pytest.mark.parametrize("count", [1, 12])
def test_19_unreadable_files_are_all_found_and_ten_are_listed(command: Command, count: int) -> None:
    for number in range(count):
        (command.checkout / INSIDE / f"locked-{number:02}").write_text("x")
    _give(command.world, NOBODY)
    for number in range(count):
        (command.checkout / INSIDE / f"locked-{number:02}").chmod(0)
    run = pack(command, 3, "locked-00", order={"uid": NOBODY})
    error = run.err.splitlines()[-2]
    assert error.count("locked-") == min(count, 10)
    assert ("2 more" in error) == (count == 12)


@pytest.mark.skipif(os.geteuid() != 0, reason="root reads everything; another user's rights need root to be given")
@pytest.mark.parametrize("in_git", [True, False])
def test_19_unreadable_directory_is_named(command: Command, in_git: bool) -> None:
    (command.checkout / INSIDE / "locked").mkdir()
    (command.checkout / INSIDE / "locked" / "file").write_text("x")
    if not in_git:
        shutil.rmtree(command.checkout / ".git")
    _give(command.world, NOBODY)
    (command.checkout / INSIDE / "locked").chmod(0)
    try:
        command.run("all", order={"uid": NOBODY}).expect(3, f"{INSIDE}/locked")
    finally:
        (command.checkout / INSIDE / "locked").chmod(0o755)
    assert not list(command.output.glob("*.tar.gz"))


@pytest.mark.parametrize("in_git", [True, False])
def test_20_fifo_socket_and_device_are_skipped_unopened(command: Command, in_git: bool) -> None:
    folder = command.checkout / INSIDE
    if not in_git:
        shutil.rmtree(command.checkout / ".git")
    os.mkfifo(folder / "a-fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(folder / "a-socket"))
    special = ["a-fifo", "a-socket"]
    if os.geteuid() == 0:
        os.mknod(folder / "a-device", 0o600 | 0o020000, os.makedev(1, 3))
        special.append("a-device")
    run = pack(command)
    for name in special:
        assert f"skipped {INSIDE}/{name}" in run.err
    with open_context(command) as tar:
        assert not [name for name in tar.getnames() if "/a-" in name]
    listener.close()


def test_20_fifo_in_the_place_of_a_tracked_file_does_not_hang(command: Command) -> None:
    (command.checkout / INSIDE / "__init__.py").unlink()
    os.mkfifo(command.checkout / INSIDE / "__init__.py")
    run = command.run("all")
    assert run.code in (0, 3), run.err
    assert "__init__.py" in run.err


@pytest.mark.parametrize("name", [".dockerignore", "pyproject.toml", ".env", "uv.lock", "README.md"])
def test_20_fifo_under_a_name_that_is_read_does_not_hang(command: Command, name: str) -> None:
    (command.checkout / name).unlink(missing_ok=True)
    os.mkfifo(command.checkout / name)
    run = command.run("all")
    assert run.code in (0, 2, 3), run.err
    assert name in run.err


@pytest.mark.parametrize("link", ["/etc/hostname", "../../../../outside", "../../../../home", "/", "../../../.."])
@pytest.mark.parametrize("in_git", [True, False])
def test_21_link_that_leaves_the_tree_is_refused(command: Command, link: str, in_git: bool) -> None:
    (command.world / "outside").write_text("outside bytes")
    if not in_git:
        shutil.rmtree(command.checkout / ".git")
    (command.checkout / INSIDE / "link").symlink_to(link)
    pack(command, 3, f"{INSIDE}/link", link)


def test_21_chain_of_links_that_leaves_the_tree_is_refused(command: Command) -> None:
    (command.checkout / INSIDE / "a").symlink_to("b")
    (command.checkout / INSIDE / "b").symlink_to("../../../../home")
    pack(command, 3, "leaves the source tree")


def test_21_folder_that_is_a_link_out_is_not_entered(command: Command) -> None:
    (command.world / "outside").mkdir()
    (command.world / "outside" / "secret.txt").write_text("outside bytes")
    shutil.rmtree(command.checkout / INSIDE / "workspace")
    (command.checkout / INSIDE / "workspace").symlink_to(command.world / "outside")
    pack(command, 3, "workspace")


@pytest.mark.parametrize("name", ["LICENSE", "README.md", "uv.lock"])
def test_21_required_file_that_is_a_link_out_is_refused(command: Command, name: str) -> None:
    (command.world / "outside").write_text("outside bytes")
    (command.checkout / name).unlink()
    (command.checkout / name).symlink_to("../outside")
    pack(command, 3, name)


def test_22_loops_and_dangling_links_are_stored_as_links(command: Command) -> None:
    folder = command.checkout / INSIDE
    links = {"self": "self", "ping": "pong", "pong": "ping", "up": "..", "dangling": "nowhere", "here": "."}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    pack(command)
    with open_context(command) as tar:
        assert {name: tar.getmember(f"{INSIDE}/{name}").linkname for name in links} == links


@pytest.mark.parametrize("ignored_first", [True, False])
def test_23_hard_link_with_an_ignored_twin_is_a_file(command: Command, ignored_first: bool) -> None:
    packed, ignored = ("z-packed", "a.pyc") if ignored_first else ("a-packed", "z.pyc")
    (command.checkout / INSIDE / ignored).write_text("twin")
    os.link(command.checkout / INSIDE / ignored, command.checkout / INSIDE / packed)
    os.link(command.checkout / INSIDE / packed, command.checkout / INSIDE / "m-packed-too")
    pack(command)
    with open_context(command) as tar:
        for name in (packed, "m-packed-too"):
            assert tar.getmember(f"{INSIDE}/{name}").isreg()
            assert tar.extractfile(f"{INSIDE}/{name}").read() == b"twin"  # type: ignore[union-attr]  # a regular file has contents


ODD_NAMES = [b"latin-\xe9", b"x" * 101, b"y" * 250, ("\u00e4" * 90).encode(), b"bidi-" + "\u202e".encode() + b"gpj.exe"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=["not-utf8", "101", "250", "utf8", "bidi"])
def test_24_odd_name_is_packed_and_extracts(command: Command, name: bytes) -> None:
    (command.checkout / INSIDE / os.fsdecode(name)).write_text("odd")
    deep = command.checkout / INSIDE / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    (deep / os.fsdecode(name)).write_text("deep")
    pack(command)
    target = command.world / "extracted"
    target.mkdir()
    subprocess.run(["tar", "-xf", command.output / command.read_state("context")["archive"], "-C", target], check=True)
    assert (target / INSIDE / os.fsdecode(name)).read_text() == "odd"
    assert len([path for path in target.rglob("*") if path.is_file() and path.read_text("latin-1") == "deep"]) == 1
    command.run("context", "--files").expect(0)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\x7f", "a\tb", "a\rb"])
def test_25_control_character_in_a_name_is_refused_and_escaped(command: Command, name: str) -> None:
    (command.checkout / INSIDE / name).write_text("x")
    pack(command, 3, "control characters", INSIDE)


@pytest.mark.parametrize("name", ["back\\slash", "C:x", "con.txt", "NUL", "what?", "dot.", "Py.TYPED"])
def test_25_name_that_other_systems_refuse_is_a_warning(command: Command, name: str) -> None:
    (command.checkout / INSIDE / name).write_text("x")
    run = pack(command)
    assert "warning: " in run.err
    assert name in run.err


def test_26_file_beyond_8_gib_has_a_size_that_tar_reads() -> None:
    header = format_file("big.bin", 9 * 2**30, 0, executable=False)
    with tarfile.TarFile(fileobj=io.BytesIO(header + bytes(10240))) as tar:
        member = tar.next()
    assert member is not None
    assert (member.name, member.size) == ("big.bin", 9 * 2**30)


def test_26_context_over_the_limit_is_refused_before_the_network(command: Command, server: Any) -> None:
    command.use(server)
    (command.checkout / INSIDE / "big.bin").write_bytes(bytes(3_000_000))
    pack(command, 3, "big.bin", "EXCLUDE", MAX_CONTEXT_BYTES="2000000")
    assert server.connections == 0


def test_26_sparse_file_beyond_8_gib_is_refused_by_its_size(command: Command) -> None:
    with (command.checkout / INSIDE / "huge.bin").open("wb") as file:
        file.truncate(9 * 2**30)
    run = pack(command, 3, "huge.bin", "MAX_CONTEXT_BYTES")
    assert run.seconds < 30


def _digest(command: Command, **options: Any) -> tuple[str, str]:
    command.run("all", **options).expect(0)
    state = command.read_state("context")
    archive = (command.output / state["archive"]).read_bytes()
    assert hashlib.sha256(archive).hexdigest() == state["archive_sha256"]
    return state["context_sha256"], state["archive_sha256"]


def test_27_same_commit_gives_the_same_bytes(command: Command, pristine: Path) -> None:
    first = _digest(command)
    other = command.checkout.with_name("moved elsewhere")
    shutil.copytree(pristine, other, symlinks=True)
    for folder, _, names in os.walk(other):
        for name in names:
            path = Path(folder) / name
            if ".git" not in path.parts:
                os.utime(path, (12345, 12345))
                path.chmod(0o600)
    command.checkout = other
    command.outputs = [other / "runtime-build"]
    settings: list[dict[str, Any]] = [
        {"order": {"umask": 0o077}, "LC_ALL": "C", "TZ": "Asia/Kathmandu"},
        {"order": {"umask": 0}, "LANG": "de_DE.UTF-8", "SOURCE_DATE_EPOCH": ""},
        {"PYTHONHASHSEED": "7", "LC_ALL": "POSIX"},
    ]
    if os.geteuid() == 0:
        settings.append({"order": {"uid": NOBODY, "umask": 0o027}})
    for options in settings:
        if "uid" in options.get("order", {}):
            _give(command.world, NOBODY)
        assert _digest(command, **options) == first


def test_27_header_of_the_gzip_holds_neither_time_nor_name(command: Command) -> None:
    pack(command)
    data = (command.output / command.read_state("context")["archive"]).read_bytes()
    assert data[3] == 0
    assert data[4:8] == bytes(4)


SECRET_FILES = [
    ".env",
    ".env.local",
    ".ENV",
    ".envrc",
    ".netrc",
    ".pypirc",
    ".git-credentials",
    "id_rsa",
    "id_ed25519",
    "x.p12",
    ".aws/credentials",
    ".ssh/config",
    ".git/config",
]


@pytest.mark.parametrize("tracked", [True, False])
def test_28_secrets_in_the_tree_stay_out_even_when_tracked_or_included(command: Command, tracked: bool) -> None:
    for name in SECRET_FILES:
        path = command.checkout / INSIDE / "keys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    (command.checkout / INSIDE / "keys" / "server.pem").write_text("-----BEGIN RSA PRIVATE KEY-----\nprecious")
    (command.checkout / INSIDE / "keys" / "public.pem").write_text("-----BEGIN CERTIFICATE-----\nx")
    (command.checkout / INSIDE / "keys" / ".env.example").write_text("X=1")
    if tracked:
        shutil.rmtree(command.checkout / INSIDE / "keys" / ".git")
        subprocess.run(["git", "add", "-A", "-f"], cwd=command.checkout, check=True)
    pack(command, INCLUDE="**/keys/**")
    with open_context(command) as tar:
        packed = [name for name in tar.getnames() if "/keys/" in name and tar.getmember(name).isreg()]
        contents = b"".join(tar.extractfile(name).read() for name in packed)  # type: ignore[union-attr]  # a regular file has contents
    assert sorted(Path(name).name for name in packed) == [".env.example", "public.pem"]
    assert b"precious" not in contents


@pytest.mark.parametrize("place", ["start", "seam", "end"])
def test_28_key_in_a_packed_file_is_found_and_not_shown(command: Command, server: Any, place: str) -> None:
    path = command.checkout / INSIDE / "config.py"
    before = {"start": b"", "seam": b"\n" * (BLOCK_BYTES - len(KEY) // 2), "end": b"\n" * 70_000}[place]
    path.write_bytes(before + KEY.encode())
    command.planted.add(path)
    command.use(server)
    pack(command, 3, f"{INSIDE}/config.py, line", "RUNTIME_API_KEY")
    assert server.connections == 0


def test_28_key_in_a_name_or_a_link_is_found_and_not_shown(command: Command, server: Any) -> None:
    command.secret = "plain-key-of-some-length"
    command.use(server)
    (command.checkout / INSIDE / f"{command.secret}.txt").write_text("x")
    pack(command, 3, "RUNTIME_API_KEY is in")


def test_28_key_in_the_project_file_is_found_and_not_shown(command: Command, server: Any) -> None:
    path = command.checkout / "pyproject.toml"
    path.write_text(path.read_text() + f"# {KEY}\n")
    command.planted.add(path)
    command.use(server)
    pack(command, 3, "pyproject.toml, line")


@pytest.mark.parametrize("name", ["BUILD_ARGS", "INCLUDE", "SERVER_NAME", "CUSTOM_TAGS", "BASE_IMAGE"])
def test_28_key_in_another_setting_never_reaches_a_file(command: Command, server: Any, name: str) -> None:
    command.secret = "plain-key-of-some-length"
    command.use(server)
    value = f"A={command.secret}" if name == "BUILD_ARGS" else command.secret
    command.run("all", **{name: value}).expect(2, name, "RUNTIME_API_KEY")
    assert not command.output.exists()
