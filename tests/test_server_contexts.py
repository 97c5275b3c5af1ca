"""Contexts as they arrive: real archives, whole, damaged and hostile; what is stored of them, and what is not."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import resource
import stat
import subprocess
import sys
import tarfile
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildkit.archive import tar
from buildkit.server.contexts import Contexts
from buildkit.server.incoming import Limits
from buildkit.server.records import Build
from buildkit.server.refusals import InvalidContext, Refused, TooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DOCKERFILE = b"ARG BASE=debian:12\nFROM ${BASE} AS base\nFROM base\nRUN true\n"
LIMITS = Limits(10_000_000, 50_000_000)
Entry = tuple[str, bytes | str | dict[str, object]]

compress_bytes = partial(gzip.compress, mtime=0)  # pytest names cases after their data, which must always be the same


def pack(*entries: Entry, kind: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar: contents for a file, text for a symbolic link, attributes for anything else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as file:
        for path, content in entries:
            info = tarfile.TarInfo(path)
            if isinstance(content, bytes):
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
                continue
            given_ = {"type": tarfile.SYMTYPE, "linkname": content} if isinstance(content, str) else content
            for name, value in given_.items():
                setattr(info, name, value)
            file.addfile(info)
    return buffer.getvalue()


def compress(*entries: Entry) -> bytes:
    return compress_bytes(pack(*entries))


GOOD = compress(
    ("./", {"type": tarfile.DIRTYPE}), ("./Dockerfile", DOCKERFILE), ("a/b.py", b"x" * 700), ("l", "a/b.py")
)
SOURCE = compress_bytes(tar.format_file("src/m.py", 3, 0, executable=False) + b"abc" + tar.format_padding(3))
LINK_SOURCE = compress_bytes(tar.format_symlink("out", "/etc", 0))
SOURCE_SHA256, LINK_SHA256 = hashlib.sha256(SOURCE).hexdigest(), hashlib.sha256(LINK_SOURCE).hexdigest()
BUILD = Build(
    id="b", status="QUEUED", target_image="a:b", tags=(), base_image="", owner="o", context_sha256="",
    source_sha256=None, idempotency_key=None, created_at=0, started_at=None, finished_at=None, attempts=0, image=None,
    error=None, step="", builder="", cancel_requested=False, retry_of=None,
)  # fmt: skip


@pytest.fixture
def contexts(tmp_path: Path) -> Contexts:
    return Contexts(tmp_path / "contexts")


def store(contexts: Contexts, data: bytes, size: int = 1 << 20, limits: Limits = LIMITS) -> Build:
    with contexts.receive(limits) as incoming:
        for start in range(0, len(data), size):
            incoming.write(data[start : start + size])
        return replace(BUILD, context_sha256=incoming.finish().sha256)


def store_source(contexts: Contexts, data: bytes) -> None:
    with contexts.receive_source(hashlib.sha256(data).hexdigest(), LIMITS) as incoming:
        incoming.write(data)
        incoming.finish()


def read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


@pytest.mark.parametrize("size", [1, 13, 512, 1 << 20])
def test_a_context_is_stored_once_by_digest(contexts: Contexts, tmp_path: Path, size: int) -> None:
    for _ in range(2):
        with contexts.receive(LIMITS) as incoming:
            for start in range(0, len(GOOD), size):
                incoming.write(GOOD[start : start + size])
            found = incoming.finish()
    sha256 = hashlib.sha256(GOOD).hexdigest()
    assert (found.sha256, found.size_bytes, found.base_image) == (sha256, len(GOOD), "debian:12")
    assert found.dockerfile == DOCKERFILE.decode()
    (path,) = (tmp_path / "contexts").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    build = replace(BUILD, context_sha256=sha256)
    assert contexts.has(build)
    assert read_all(contexts.open(build)) == GOOD
    assert contexts.list_files(build) == [("Dockerfile", len(DOCKERFILE)), ("a/b.py", 700)]
    assert contexts.read_dockerfile(build) == DOCKERFILE.decode()


@pytest.mark.parametrize("size", [5, 1000, 1 << 20])
def test_many_members_are_one_archive(contexts: Contexts, size: int) -> None:
    whole = gzip.decompress(GOOD)
    members = b"".join(compress_bytes(whole[start : start + 7]) for start in range(0, len(whole), 7))
    build = store(contexts, members, size)
    assert contexts.list_files(build) == [("Dockerfile", len(DOCKERFILE)), ("a/b.py", 700)]


def test_two_members_are_one_archive(contexts: Contexts) -> None:
    store_source(contexts, SOURCE)
    assert contexts.has_source(SOURCE_SHA256)
    with contexts.receive(LIMITS) as incoming:
        incoming.write(GOOD)
        context = incoming.finish(SOURCE_SHA256)
    build = replace(BUILD, context_sha256=context.sha256, source_sha256=SOURCE_SHA256)
    whole = read_all(contexts.open(build))
    with tarfile.open(fileobj=io.BytesIO(whole), mode="r:gz") as file:
        assert {"src/m.py", "./Dockerfile", "a/b.py"} <= set(file.getnames())
    assert [path for path, _ in contexts.list_files(build)] == ["src/m.py", "Dockerfile", "a/b.py"]
    os.close(contexts.open(build))  # an engine that stops reading
    contexts.delete_unused({context.sha256})
    assert contexts.has(replace(build, source_sha256=None))
    assert not contexts.has(build)
    with pytest.raises(FileNotFoundError):
        contexts.open(build)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_paths_of_any_format_are_read(contexts: Contexts, kind: int) -> None:
    path = "/".join(["folder" * 5] * 6) if kind == tarfile.USTAR_FORMAT else "ü" * 120 + "/" + "b" * 200
    data = compress_bytes(pack((path, b"1"), ("Dockerfile", DOCKERFILE), ("to", "x" * 90), kind=kind))
    assert contexts.list_files(store(contexts, data))[0] == (path, 1)


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "the context is empty"),
        (b"hello", "not gzip"),
        (b"PK\3\4" * 100, "not gzip"),
        (compress_bytes(b""), "its tar has no end"),
        (compress_bytes(b"hello " * 1000), "not a tar"),
        (compress(), "no Dockerfile at its top level"),
        (compress(("a/Dockerfile", DOCKERFILE)), "no Dockerfile at its top level"),
        (compress(("Dockerfile", "a/Dockerfile")), "no Dockerfile at its top level"),
        (compress(("../Dockerfile", DOCKERFILE)), "'../Dockerfile' leads out"),
        (compress(("a/../../b", b""), ("Dockerfile", DOCKERFILE)), "leads out"),
        (compress(("/etc/passwd", b"")), "'/etc/passwd' leads out"),
        (compress(("ü" * 200 + "/../../x", b"")), "leads out"),
        (compress(("a", "/etc"), ("a/passwd", b"")), "below the symbolic link 'a'"),
        (
            compress(("a", "/etc"), ("b", {"type": tarfile.LNKTYPE, "linkname": "a"}), ("b/c", b"")),
            "below the symbolic link 'b'",
        ),
        (compress(("b", {"type": tarfile.LNKTYPE, "linkname": "../../etc/shadow"})), "leads out"),
        (compress(("b", {"type": tarfile.BLKTYPE})), "neither a file nor a directory nor a link"),
        (compress(("b", {"type": tarfile.GNUTYPE_SPARSE})), "neither a file nor a directory nor a link"),
        (compress(("b", {"pax_headers": {"GNU.sparse.realsize": "9"}})), "sparse file"),
        (compress(("a\x1b[31m/../b", b"")), r"a\x1b[31m"),
        (compress(("Dockerfile", b" " * 1_000_001)), "the size of 'Dockerfile' in the tar is invalid"),
        (compress(("Dockerfile", DOCKERFILE))[:-9], "the context is cut"),
        (compress_bytes(pack(("Dockerfile", DOCKERFILE))[:1024]), "its tar has no end"),
        (compress_bytes(pack(("Dockerfile", DOCKERFILE))[:520]), "its tar has no end"),
        (compress_bytes(pack(("Dockerfile", DOCKERFILE)) + b"more"), "after the end of the tar"),
        (GOOD + b"more", "the context is damaged"),
        (compress_bytes(bytes(60_000_000)), "larger than 50000000 bytes once it is decompressed"),
        (compress_bytes(tar.format_file("big", 8**11 - 1, 0, executable=False)), "its tar has no end"),
    ],
)
@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_other_contexts_are_rejected_and_nothing_is_kept(
    contexts: Contexts, tmp_path: Path, data: bytes, detail: str, size: int
) -> None:
    with pytest.raises(InvalidContext) as caught:
        store(contexts, data, size)
    assert detail in caught.value.detail
    assert not list((tmp_path / "contexts").iterdir())


def test_a_context_that_is_too_large_is_rejected_at_once(contexts: Contexts, tmp_path: Path) -> None:
    incoming = contexts.receive(Limits(100, 1000))
    incoming.write(GOOD[:100])
    with pytest.raises(TooLarge) as caught:
        incoming.write(b"x")
    assert caught.value.status == 413
    assert not list((tmp_path / "contexts").iterdir())


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (GOOD, "without the end of the tar"),
        (b"", "without the end of the tar"),
        (compress_bytes(tar.format_file("a", 9, 0, executable=False)), "without the end of the tar"),
        (SOURCE[:-2], "the context is cut"),
        (compress(("../a", b"")), "leads out"),
    ],
)
def test_other_source_parts_are_rejected(contexts: Contexts, tmp_path: Path, data: bytes, detail: str) -> None:
    with pytest.raises(InvalidContext, match=detail):
        store_source(contexts, data)
    assert not list((tmp_path / "contexts").iterdir())


def test_a_source_part_must_have_its_digest(contexts: Contexts) -> None:
    with contexts.receive_source(LINK_SHA256, LIMITS) as incoming:
        incoming.write(SOURCE)
        with pytest.raises(InvalidContext, match=f"is {SOURCE_SHA256}, not {LINK_SHA256}"):
            incoming.finish()
    assert not any(map(contexts.has_source, (SOURCE_SHA256, LINK_SHA256, "../x", "")))


def test_the_two_parts_are_checked_together(contexts: Contexts) -> None:
    store_source(contexts, LINK_SOURCE)
    for source, detail in ((LINK_SHA256, "below the symbolic link 'out'"), (SOURCE_SHA256, "is not stored")):
        with contexts.receive(LIMITS) as incoming:
            incoming.write(compress(("Dockerfile", DOCKERFILE), ("out/passwd", b"")))
            with pytest.raises(InvalidContext, match=detail):
                incoming.finish(source)


def test_what_a_killed_server_left_is_removed(contexts: Contexts, tmp_path: Path) -> None:
    with contexts.receive(LIMITS) as incoming:
        incoming.write(GOOD)
        assert len(list((tmp_path / "contexts").iterdir())) == 1
        Contexts(tmp_path / "contexts")
        assert not list((tmp_path / "contexts").iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    code = """
import errno, resource, signal, sys, os
from pathlib import Path
from buildkit.server.contexts import Contexts
from buildkit.server.incoming import Limits
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
incoming = Contexts(Path(sys.argv[1])).receive(Limits())
try:
    incoming.write(sys.stdin.buffer.read())
    incoming.finish()
except OSError as error:
    assert error.errno == errno.EFBIG
    sys.exit(7)
"""
    data = compress_bytes(pack(("Dockerfile", DOCKERFILE), ("r", os.urandom(3_000_000))), 0)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], input=data, check=False)
    assert done.returncode == 7
    assert not list((tmp_path / "c").iterdir())


@given(st.integers(0, len(GOOD)), st.binary(max_size=40), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_of_the_gzip_anywhere_gives_no_other_error(
    contexts: Contexts, tmp_path: Path, at: int, noise: bytes, compressed: bool
) -> None:
    data = GOOD if compressed else gzip.decompress(GOOD)
    damaged = data[:at] + noise + data[at + len(noise) :]
    contexts.delete_unused(set())
    is_stored = False
    with suppress(Refused):
        store(contexts, damaged if compressed else compress_bytes(damaged))
        is_stored = True
    assert len(list((tmp_path / "contexts").iterdir())) == is_stored


@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_header_with_a_right_checksum_gives_no_other_error(
    contexts: Contexts, changes: Sequence[tuple[int, int]]
) -> None:
    data = bytearray(pack(("ü" * 60, b"x"), ("Dockerfile", DOCKERFILE)))
    for at, value in changes:
        data[at % len(data)] = value
    for start in range(0, len(data), 512):
        if any(data[start : start + 512]):
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    with suppress(Refused):
        store(contexts, compress_bytes(data))


def test_memory_does_not_grow_with_the_context(contexts: Contexts) -> None:
    block = os.urandom(1 << 20)
    limits = Limits(1 << 30, 1 << 40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contexts.receive(limits) as incoming:
        incoming.write(compress_bytes(tar.format_file("big", 200 << 20, 0, executable=False), 0))
        for _ in range(200):
            incoming.write(compress_bytes(block, 0))
        incoming.write(compress_bytes(pack(("Dockerfile", DOCKERFILE))))
        assert incoming.finish().size_bytes > 200 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024
