"""Archives of real trees, read back by the standard library and by GNU tar."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit.archive.compressor import BLOCK_BYTES, find_compressor
from buildkit.archive.stream import PackingOptions
from buildkit.archive.writer import ArchiveWriter, PackedArchive, SourcePart
from buildkit.errors import FileChanged, FileVanished, LocalError
from buildkit.secret import ApiKey
from tests.pythons import find_other_pythons

MTIME = 1_760_000_000
NAMES = st.sampled_from([b"a", b"b", b"Z", b"a b", b"-", "ü".encode(), b"\xff", b"x" * 101, b"y" * 200, b"a.py", b"{}"])
CONTENTS = st.one_of(st.binary(max_size=1500), st.sampled_from([b"", bytes(512), b"x" * BLOCK_BYTES]))
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=4).map(b"/".join), st.tuples(CONTENTS, st.booleans()), max_size=12
)


def choose(compression: str = "zlib-1", secrets: tuple[bytes, ...] = (), max_bytes: int = 10**12) -> PackingOptions:
    return PackingOptions(MTIME, find_compressor(compression), max_bytes, secrets)


def pack(
    source: Path, files: list[str], generated: dict[str, bytes] | None = None, **options: Any
) -> tuple[bytes, PackedArchive]:
    file = io.BytesIO()
    writer = ArchiveWriter(file, choose(**options))
    writer.pack_source(source, files)
    packed = writer.finish(generated or {})
    return file.getvalue(), packed


def read_files(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        return {
            member.name: found.read() for member in archive if (found := archive.extractfile(member)) and member.isreg()
        }


@settings(max_examples=60, deadline=None)
@given(TREES)
def test_any_tree_packs_to_what_tarfile_reads_back(tree: dict[bytes, tuple[bytes, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wanted = {}
        for name, (content, executable) in tree.items():
            path = os.fsencode(folder) + b"/" + name
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as file:
                    file.write(content)
            except OSError:  # a file stands where this one needs a folder, or the other way round
                continue
            os.chmod(path, 0o700 if executable else 0o600)
            wanted[os.fsdecode(name)] = (content, executable)
        data, packed = pack(Path(folder), sorted(wanted))
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        members = archive.getmembers()
        regular = [member for member in members if member.isreg()]
        assert [member.name for member in regular] == sorted(wanted)
        for member in regular:
            extracted = archive.extractfile(member)
            assert extracted is not None
            assert (extracted.read(), member.mode == 0o755) == wanted[member.name]
    folders = {member.name for member in members if member.isdir()}
    assert folders == {str(parent) for name in wanted for parent in Path(name).parents} - {"."}
    assert {(member.uid, member.gid, member.mtime) for member in members} <= {(0, 0, MTIME)}
    tar = gzip.decompress(data)
    assert (packed.context_bytes, packed.context_sha256) == (len(tar), hashlib.sha256(tar).hexdigest())
    assert (packed.archive_bytes, packed.archive_sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_gnu_tar_extracts_the_tree_as_it_was(tmp_path: Path) -> None:
    source, there = tmp_path / "source", tmp_path / "there"
    (source / "pkg" / "deep").mkdir(parents=True)
    there.mkdir()
    (source / "pkg" / "run.sh").write_bytes(b"#!/bin/sh\n" * 1000)
    (source / "pkg" / "run.sh").chmod(0o755)
    (source / "pkg" / "deep" / "grün").write_text("grün")
    (source / "pkg" / "link").symlink_to("deep/grün")
    (source / "pkg" / "dangling").symlink_to("nowhere")
    os.link(source / "pkg" / "run.sh", source / "pkg" / "twin.sh")
    files = ["pkg/dangling", "pkg/deep/grün", "pkg/link", "pkg/run.sh", "pkg/twin.sh"]
    (tmp_path / "a.tar.gz").write_bytes(pack(source, files)[0])
    subprocess.run(["tar", "-xzpf", tmp_path / "a.tar.gz", "-C", there], check=True)
    assert subprocess.run(["diff", "-r", "--no-dereference", source, there], check=False).returncode == 0
    assert os.access(there / "pkg" / "twin.sh", os.X_OK)
    assert not os.access(there / "pkg" / "deep" / "grün", os.X_OK)
    assert (there / "pkg" / "run.sh").stat().st_mtime == MTIME


GENERATED = {"Dockerfile": b"FROM x", ".runtime-build/health.sh": b"exit 0"}


def test_generated_files_come_last_in_order_with_their_folders(tmp_path: Path) -> None:
    for name in ("A", "Z.py", "a"):
        (tmp_path / name).write_text(name)
    data, _ = pack(tmp_path, ["A", "Z.py", "a"], GENERATED)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        names = archive.getnames()
    assert names == ["A", "Z.py", "a", ".runtime-build", ".runtime-build/health.sh", "Dockerfile"]
    assert read_files(data)["Dockerfile"] == b"FROM x"


def test_the_source_is_a_gzip_member_without_the_end_of_the_tar(tmp_path: Path) -> None:
    files = write_tree(tmp_path)
    data, packed = pack(tmp_path, files, GENERATED)
    member = zlib.decompressobj(31)
    source = member.decompress(data)
    assert packed.source == SourcePart(len(data) - len(member.unused_data), len(source))
    assert gzip.decompress(data) == source + gzip.decompress(member.unused_data)
    with tarfile.open(fileobj=io.BytesIO(source + bytes(1024)), mode="r:") as archive:
        assert archive.getnames() == ["pkg", *files]
    assert pack(tmp_path, files, {"Dockerfile": b"FROM y"})[0].startswith(data[: packed.source.archive_bytes])


@pytest.mark.parametrize("compression", ["zlib-1", "isal-2"])
@pytest.mark.parametrize("files", [True, False])
def test_a_copied_source_gives_the_same_archive_as_packing(tmp_path: Path, compression: str, *, files: bool) -> None:
    paths = write_tree(tmp_path) if files else []
    data, packed = pack(tmp_path, paths, {"Dockerfile": b"FROM y"}, compression=compression)
    file = io.BytesIO()
    writer = ArchiveWriter(file, choose(compression))
    writer.copy_source(io.BytesIO(data), packed.source)
    copied = writer.finish(GENERATED)
    assert (file.getvalue(), copied) == pack(tmp_path, paths, GENERATED, compression=compression)


@pytest.mark.parametrize("damage", ["cut", "flip", "longer"])
def test_a_source_that_is_no_longer_what_was_packed_is_not_copied(tmp_path: Path, damage: str) -> None:
    data, packed = pack(tmp_path, write_tree(tmp_path), GENERATED)
    part, damaged = packed.source, bytearray(data)
    if damage == "cut":
        del damaged[part.archive_bytes - 4 :]
    elif damage == "flip":
        damaged[part.archive_bytes // 2] ^= 0xFF
    else:
        part = part._replace(context_bytes=part.context_bytes + 512)
    with pytest.raises(FileChanged, match="the earlier archive changed"):
        ArchiveWriter(io.BytesIO(), choose()).copy_source(io.BytesIO(damaged), part)


@pytest.mark.parametrize("command", [["tar", "-tzf"], [sys.executable, "-m", "tarfile", "-l"]])
def test_others_list_both_members(tmp_path: Path, command: list[str]) -> None:
    files = write_tree(tmp_path / "source")
    (tmp_path / "a.tar.gz").write_bytes(pack(tmp_path / "source", files, GENERATED)[0])
    done = subprocess.run([*command, tmp_path / "a.tar.gz"], capture_output=True, text=True, check=True)
    listed = [name.strip().rstrip("/") for name in done.stdout.splitlines()]
    assert listed == ["pkg", *files, ".runtime-build", ".runtime-build/health.sh", "Dockerfile"]


def write_tree(folder: Path) -> list[str]:
    (folder / "pkg").mkdir(parents=True)
    for number in range(40):
        (folder / "pkg" / f"m{number:02}.py").write_bytes(b"text %d\n" % number * 3000)
    (folder / "pkg" / "run").write_text("#!")
    (folder / "pkg" / "run").chmod(0o755)
    (folder / "pkg" / "link").symlink_to("run")
    return sorted(f"pkg/{name}" for name in os.listdir(folder / "pkg"))


def test_neither_umask_nor_time_nor_owner_nor_place_is_in_the_bytes(tmp_path: Path) -> None:
    files = write_tree(tmp_path / "one")
    before = os.umask(0o077)
    try:
        write_tree(tmp_path / "two")
    finally:
        os.umask(before)
    for path in (tmp_path / "two").rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
        if os.geteuid() == 0:
            os.chown(path, 12345, 54321, follow_symlinks=False)
    assert pack(tmp_path / "one", files)[0] == pack(tmp_path / "two", files)[0]


@pytest.mark.parametrize("compression", ["zlib-9", "isal-0", "isal-2", "isal-3"])
def test_compressor_and_level_do_not_change_the_tar(tmp_path: Path, compression: str) -> None:
    files = write_tree(tmp_path)
    wanted = pack(tmp_path, files, GENERATED)[1].context_sha256
    assert pack(tmp_path, files, GENERATED, compression=compression)[1].context_sha256 == wanted


PACK_ELSEWHERE = """
import io, sys
from pathlib import Path
from buildkit.archive.compressor import find_compressor
from buildkit.archive.stream import PackingOptions
from buildkit.archive.writer import ArchiveWriter
writer = ArchiveWriter(io.BytesIO(), PackingOptions(1760000000, find_compressor(), 10**12))
writer.pack_source(Path(sys.argv[1]), sys.argv[2:])
print(writer.finish({}).context_sha256)
"""


def digest_elsewhere(python: str, before: str, source: Path, files: list[str], **environment: str) -> str:
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [python, "-c", before + PACK_ELSEWHERE, source, *files],
        env={"PYTHONPATH": str(root), "PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "tr_TR.ISO-8859-9"])
def test_locale_is_not_in_the_tar(tmp_path: Path, locale: str) -> None:
    files = write_tree(tmp_path)
    wanted = pack(tmp_path, files)[1].context_sha256
    assert digest_elsewhere(sys.executable, "", tmp_path, files, LC_ALL=locale) == wanted


def test_the_same_tar_without_isal(tmp_path: Path) -> None:
    files = write_tree(tmp_path)
    before = "import sys; sys.modules['isal'] = None\n"
    wanted = pack(tmp_path, files, compression="isal-2")[1].context_sha256
    assert digest_elsewhere(sys.executable, before, tmp_path, files) == wanted


def test_the_same_tar_by_every_other_python_at_hand(tmp_path: Path) -> None:
    pythons = find_other_pythons()
    if not pythons:
        pytest.skip("no other Python from 3.11 on is at hand")
    files = write_tree(tmp_path)
    wanted = pack(tmp_path, files)[1].context_sha256
    assert {python: digest_elsewhere(python, "", tmp_path, files) for python in pythons} == dict.fromkeys(
        pythons, wanted
    )


@pytest.mark.parametrize(
    "offset", [0, 100, BLOCK_BYTES - 512 - 12, BLOCK_BYTES - 512 - 1, BLOCK_BYTES, 3 * BLOCK_BYTES - 517]
)
def test_a_secret_is_found_wherever_the_blocks_are_cut(tmp_path: Path, offset: int) -> None:
    secret = b"s3cr3t-t0k3n"
    (tmp_path / "f").write_bytes(b"." * offset + secret + b"." * 9)
    with pytest.raises(LocalError, match="RUNTIME_API_KEY is in f, line 1"):
        pack(tmp_path, ["f"], secrets=(secret,))
    assert pack(tmp_path, ["f"], secrets=(b"another-token",))[1].context_bytes > offset


def test_a_secret_that_spans_two_files_is_none(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"." * 512 + b"s3cr3t-")
    (tmp_path / "g").write_bytes(b"t0k3n")
    pack(tmp_path, ["f", "g"], secrets=(b"s3cr3t-t0k3n",))


def test_a_missing_file_has_vanished(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    for path in ("gone", "folder/gone"):
        with pytest.raises(FileVanished, match="vanished"):
            pack(tmp_path, [path])
    with pytest.raises(FileVanished, match="f is no longer a folder"):
        pack(tmp_path, ["f/g"])


def test_what_became_a_folder_a_fifo_or_a_folder_link_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "folder" / "f").touch()
    for path in ("folder", "fifo"):
        with pytest.raises(FileVanished, match="no longer a file"):
            pack(tmp_path, [path])
    with pytest.raises(FileVanished, match="no longer a folder"):
        pack(tmp_path, ["link/f"])


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite", "replace", "touch"])
def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path, change: str) -> None:
    path, other = tmp_path / "f", tmp_path / "other"
    path.write_bytes(bytes(3 * BLOCK_BYTES))
    other.write_bytes(b"y" * 3 * BLOCK_BYTES)

    def interfere(read_bytes: int, _: int) -> None:
        if read_bytes != BLOCK_BYTES:
            return
        if change == "grow":
            with path.open("ab") as file:
                file.write(b"more")
        elif change == "shrink":
            os.truncate(path, 2 * BLOCK_BYTES)
        elif change == "rewrite":
            with path.open("r+b") as file:
                file.write(b"x" * BLOCK_BYTES)
        elif change == "touch":
            os.utime(path, (1, 1))
        else:
            other.replace(path)

    writer = ArchiveWriter(io.BytesIO(), choose(), interfere)
    with pytest.raises(FileChanged, match="f changed while it was read"):
        writer.pack_source(tmp_path, ["f"])


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../x", "a/../../x", "inside/../../x", "out/x", "."])
def test_a_link_out_of_the_tree_is_refused(tmp_path: Path, target: str) -> None:
    source = tmp_path / "source"
    (source / "inside").mkdir(parents=True)
    (tmp_path / "x").touch()
    (source / "out").symlink_to(tmp_path)
    (source / "link").symlink_to(target)
    if target == ".":
        assert pack(source, ["link"])[1].context_bytes
        return
    with pytest.raises(LocalError, match="leaves the source tree") as caught:
        pack(source, ["link"])
    assert target in caught.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_are_all_named(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"f{number:02}").touch(mode=0)
    with pytest.raises(LocalError, match=r"cannot read f00, .*f09 and 2 more"):
        pack(tmp_path, sorted(os.listdir(tmp_path)))


def test_a_sparse_file_beyond_8_gib_has_its_size_in_the_header(tmp_path: Path) -> None:
    size = 8**11 + 1
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)

    class Enough(Exception):
        pass

    def stop(read_bytes: int, _: int) -> None:
        if read_bytes >= 4 * BLOCK_BYTES:
            raise Enough

    written = io.BytesIO()
    with pytest.raises(Enough):
        ArchiveWriter(written, choose(), stop).pack_source(tmp_path, ["large"])
    with tarfile.open(fileobj=io.BytesIO(written.getvalue()), mode="r|gz") as archive:
        member = archive.next()
    assert member is not None
    assert (member.name, member.size) == ("large", size)


@pytest.mark.parametrize("offset", [0, 3, BLOCK_BYTES - 512 - 20, BLOCK_BYTES - 512 - 14, BLOCK_BYTES])
def test_a_private_key_block_is_named_wherever_the_blocks_are_cut(tmp_path: Path, offset: int) -> None:
    (tmp_path / "a").write_bytes(b"the words PRIVATE KEY alone are fine\n")
    (tmp_path / "b").write_bytes(b"." * offset + b"\n-----BEGIN RSA PRIVATE KEY-----\n")
    (tmp_path / "c").write_bytes(b"-----BEGIN PUBLIC KEY-----\n")
    read = ArchiveWriter(io.BytesIO(), choose()).pack_source(tmp_path, ["a", "b", "c"])
    assert read.warnings == ["a private key is packed: b, line 2"]


@pytest.mark.parametrize("key", ["s3cr3t-t0k3n+/?", "schl\u00fcssel-\u00e9\u00e8", "k\u20acy-\U0001f511-longer"])
def test_the_key_is_found_in_each_form_that_is_not_encrypted(tmp_path: Path, key: str) -> None:
    raw = key.encode()
    pad = [b"", b"u", b"us"]
    forms = [
        raw,
        *(key.encode(f"utf-16-{order}") for order in ("le", "be")),
        *(encode(before + raw + b"\n") for encode in (base64.b64encode, base64.urlsafe_b64encode) for before in pad),
        *(raw.hex().encode(), raw.hex().upper().encode()),
        *(quote(key).encode() for quote in (urllib.parse.quote, urllib.parse.quote_plus)),
        urllib.parse.quote(key, safe="").lower().encode() if key.islower() else raw,
        json.dumps(key).encode(),
        "".join(f"\\u{unit:04x}" for unit in memoryview(key.encode("utf-16-le")).cast("H")).encode(),
        "".join(f"\\u{unit:04X}" for unit in memoryview(key.encode("utf-16-le")).cast("H")).encode(),
    ]
    for form in forms:
        (tmp_path / "f").write_bytes(b"first\n" + form + b"\n")
        with pytest.raises(LocalError, match="RUNTIME_API_KEY is in f, line 2") as caught:
            pack(tmp_path, ["f"], secrets=ApiKey(key).encoded_forms)
        assert key not in caught.value.message
        assert key not in ApiKey(key).scrub(form.decode("latin-1"))
    (tmp_path / "f").write_bytes(raw[:-1] + b" " + raw.hex()[:-2].encode())
    pack(tmp_path, ["f"], secrets=ApiKey(key).encoded_forms)
