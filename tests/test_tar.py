"""Tar headers, read back by the standard library and by GNU tar."""

from __future__ import annotations

import io
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildkit.archive.tar import BLOCK_BYTES, format_directory, format_end, format_file, format_padding, format_symlink

if TYPE_CHECKING:
    from pathlib import Path

MTIME = 1_760_000_000
COMPONENTS = st.binary(min_size=1, max_size=120).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b".."}
)
PATHS = st.lists(COMPONENTS, min_size=1, max_size=5).map(
    lambda parts: b"/".join(parts).decode("utf-8", "surrogateescape")
)


def read_back(entries: bytes) -> list[tarfile.TarInfo]:
    data = entries + format_end(len(entries))
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="surrogateescape") as archive:
        return archive.getmembers()


@given(PATHS, st.binary(max_size=2000), st.booleans())
def test_every_name_and_content_is_read_back(path: str, content: bytes, executable: bool) -> None:
    header = format_file(path, len(content), MTIME, executable=executable)
    padded = content + format_padding(len(content))
    assert len(header) % BLOCK_BYTES == len(padded) % BLOCK_BYTES == 0
    data = header + padded
    with tarfile.open(fileobj=io.BytesIO(data + format_end(len(data))), mode="r:") as archive:
        (member,) = archive.getmembers()
        extracted = archive.extractfile(member)
        assert extracted is not None
        assert extracted.read() == content
    assert member.name == path
    assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", MTIME)
    assert member.mode == (0o755 if executable else 0o644)
    assert member.isreg()


@given(PATHS, PATHS)
def test_every_link_is_read_back(path: str, target: str) -> None:
    (member,) = read_back(format_symlink(path, target, MTIME))
    assert (member.name, member.linkname, member.issym(), member.size) == (path, target, True, 0)


@given(PATHS)
def test_every_folder_is_read_back(path: str) -> None:
    (member,) = read_back(format_directory(path, MTIME))
    assert (member.name, member.isdir(), member.mode) == (path, True, 0o755)


def test_checksum_of_the_heaviest_header() -> None:
    heaviest = "\udcff" * 100
    assert read_back(format_symlink(heaviest, heaviest, 8**11 - 1))[0].linkname == heaviest
    prefixed = "\x7f" * 155 + "/" + "\x7f" * 100
    assert read_back(format_symlink(prefixed, "\x7f" * 100, 8**11 - 1))[0].name == prefixed


@pytest.mark.parametrize(
    ("path", "extended"),
    [
        ("a" * 100, False),
        ("a" * 101, True),
        ("d" * 155 + "/" + "f" * 100, False),
        ("d" * 156 + "/" + "f" * 100, True),
        ("d" * 100 + "/" + "e" * 100 + "/f", True),
        ("grün", True),
        ("\udcff", True),
    ],
)
def test_pax_only_where_ustar_has_no_room(path: str, extended: bool) -> None:
    header = format_file(path, 0, MTIME, executable=False)
    assert (len(header) > BLOCK_BYTES) is extended
    assert read_back(header)[0].name == path


@pytest.mark.parametrize("size", [0, 8**11 - 1, 8**11, 10**15])
def test_sizes_beyond_8_gib_are_read_back(size: int) -> None:
    header = format_file("large", size, MTIME, executable=False)
    with tarfile.open(fileobj=io.BytesIO(header), mode="r:") as archive:
        member = archive.next()
    assert member is not None
    assert member.size == size


@pytest.mark.parametrize("length", [90, 91, 92, 93, 980, 981, 982, 983, 984, 9975, 9980, 9990])
def test_length_of_a_pax_record_counts_its_own_digits(length: int) -> None:
    path = "/".join(["n" * 80] * (length // 81 + 2))[:length].rstrip("/") + "é"
    assert read_back(format_file(path, 0, MTIME, executable=False))[0].name == path


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 9216, 10240])
def test_end_fills_a_whole_record(size: int) -> None:
    entries = format_file("a", size, MTIME, executable=False) + bytes(size) + format_padding(size)
    data = entries + format_end(len(entries))
    assert len(data) % 10240 == 0
    assert data.endswith(bytes(1024))


def test_gnu_tar_reads_every_kind_of_entry(tmp_path: Path) -> None:
    deep = "/".join(["folder" * 15] * 4)
    entries = b"".join(
        [
            format_directory("dir", MTIME),
            format_file("dir/run.sh", 3, MTIME, executable=True),
            b"hi\n" + format_padding(3),
            format_symlink("dir/link", "run.sh", MTIME),
            format_file(f"{deep}/grün", 0, MTIME, executable=False),
            format_file("raw-\udcff", 0, MTIME, executable=False),
        ]
    )
    (tmp_path / "a.tar").write_bytes(entries + format_end(len(entries)))
    listed = subprocess.run(
        ["tar", "--numeric-owner", "--full-time", "--utc", "--quoting-style=literal", "-tvf", "a.tar"],
        cwd=tmp_path,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    # It takes the raw name and says that it does not know the keyword by which POSIX marks one.
    assert listed.stderr == b"tar: Ignoring unknown extended header keyword 'hdrcharset'\n"
    lines = [line.split(None, 5) for line in listed.stdout.splitlines()]
    assert [(line[0], line[1], line[5]) for line in lines] == [
        (b"drwxr-xr-x", b"0/0", b"dir/"),
        (b"-rwxr-xr-x", b"0/0", b"dir/run.sh"),
        (b"lrwxrwxrwx", b"0/0", b"dir/link -> run.sh"),
        (b"-rw-r--r--", b"0/0", f"{deep}/grün".encode()),
        (b"-rw-r--r--", b"0/0", b"raw-\xff"),
    ]
    assert {(line[3], line[4]) for line in lines} == {(b"2025-10-09", b"08:53:20")}
