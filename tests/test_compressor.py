"""The gzip stream: what comes out again, what its bytes depend on, what happens when it cannot be written."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import re
import subprocess
import sys
import threading
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit.archive.compressor import BLOCK_BYTES, GzipWriter, find_compressor

COMPRESSIONS = ["isal-0", "isal-1", "isal-2", "isal-3", "zlib-1", "zlib-6", "zlib-9"]
WITHOUT_ISAL = "import sys; sys.modules['isal'] = None\n"


def compress(data: bytes, compression: str) -> bytes:
    file = io.BytesIO()
    with GzipWriter(file.write, find_compressor(compression)) as writer:
        for start in range(0, len(data), BLOCK_BYTES):
            writer.write(data[start : start + BLOCK_BYTES])
    return file.getvalue()


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 12 * BLOCK_BYTES + 7])
def test_what_went_in_comes_out(compression: str, size: int) -> None:
    data = (b"what people pack is text, mostly " * (size // 33 + 1))[:size]
    packed = compress(data, compression)
    assert gzip.decompress(packed) == data
    member = find_compressor(compression).start_reading()
    assert member.decompress(packed) == data
    assert member.eof


@pytest.mark.parametrize("compression", ["isal-2", "zlib-1"])
def test_a_damaged_member_is_noticed(compression: str) -> None:
    packed = bytearray(compress(b"text of all kinds " * 500, compression))
    packed[len(packed) // 2] ^= 0xFF
    compressor = find_compressor(compression)
    member = compressor.start_reading()
    with contextlib.suppress(compressor.error):
        member.decompress(bytes(packed))
    assert not member.eof


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=5000), st.sampled_from(COMPRESSIONS))
def test_the_same_bytes_every_time(data: bytes, compression: str) -> None:
    assert compress(data, compression) == compress(data, compression)


def test_header_holds_no_name_no_time_and_no_system() -> None:
    assert compress(b"x", "zlib-1")[:10] == compress(b"x", "isal-2")[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


def test_the_default_level_does_not_depend_on_the_processor() -> None:
    assert find_compressor().describe() | {"version": ""} == {"name": "isal", "version": "", "level": 2}


def test_without_isal_it_is_zlib_at_level_1() -> None:
    code = WITHOUT_ISAL + "from buildkit.archive.compressor import find_compressor; print(find_compressor().describe())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str({"name": "zlib", "version": zlib.ZLIB_RUNTIME_VERSION, "level": 1})


def test_isal_by_name_is_not_replaced_by_another_if_it_is_missing() -> None:
    code = WITHOUT_ISAL + "from buildkit.archive.compressor import find_compressor; find_compressor('isal-1')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize(
    "compression", ["isal", "isal-", "isal-4", "isal-12", "zlib-0", "zlib-10", "gzip-6", "6", "-", "isal-²"]
)
def test_an_unknown_compressor_is_refused(compression: str) -> None:
    with pytest.raises(ValueError, match=re.escape(compression)):
        find_compressor(compression)


class FullDisk(io.BytesIO):
    """Takes the header and then nothing more."""

    def write(self, data: Any) -> int:
        if self.tell() >= 10:
            raise OSError(errno.ENOSPC, "no space left")
        return super().write(data)


@pytest.mark.parametrize("blocks", [1, 40])
def test_a_full_disk_is_raised_in_the_thread_that_reads_and_nobody_hangs(blocks: int) -> None:
    def write_all() -> None:
        with GzipWriter(FullDisk().write, find_compressor()) as writer:
            for _ in range(blocks):
                writer.write(bytes(BLOCK_BYTES))

    with pytest.raises(OSError, match="no space left"):
        write_all()


def test_a_failure_of_the_reader_ends_the_compressor_too() -> None:
    def fail_midway() -> None:
        with GzipWriter(io.BytesIO().write, find_compressor()) as writer:
            writer.write(bytes(BLOCK_BYTES))
            raise ZeroDivisionError

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        fail_midway()
    assert threading.active_count() == before
