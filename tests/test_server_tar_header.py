"""Headers of a tar, as `tarfile` reads them: real ones, damaged ones and those of other programs."""

from __future__ import annotations

import tarfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from buildkit.server.tar_header import Header, InvalidHeader, parse_header

KINDS = [b"0", b"1", b"2", b"3", b"5", b"\0", b"L", b"S", b"x", b"g", b"7"]
NUMBERS = [
    b"0000644\0",
    b"   644 \0",
    b"     0 \0",
    bytes(8),
    b"644\0junk",
    b" " * 8,
    b"\x80" + bytes(6) + b"\x07",
    b"\xff" * 8,
]
BAD_NUMBERS = [b"0000648\0", b"-000644\0", b"6_4\0\0\0\0\0", b"0x12345\0", b"6 4 4  \0"]


def make(**attributes: object) -> bytes:
    info = tarfile.TarInfo("a/b.py")
    for name, value in attributes.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")[-512:]


def sign(block: bytes, *, signed: bool = False) -> bytes:
    """Return a block with its checksum."""
    blank = block[:148] + b" " * 8 + block[156:]
    total = sum(byte - 256 * (signed and byte > 127) for byte in blank)
    return block[:148] + b"%06o\0 " % (total & 0o777777) + block[156:]


def read_with_tarfile(block: bytes) -> Header | None:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return Header(info.name, info.type, info.size, info.linkname)


def read(block: bytes) -> Header | None:
    try:
        found = parse_header(block)
    except InvalidHeader:
        return None
    return found._replace(name=found.name.rstrip("/")) if found.kind == tarfile.DIRTYPE else found


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=25),
    st.sampled_from(KINDS),
    st.integers(-(2**40), 2**70),
    st.booleans(),
)
@example("a/", b"\0", 0, False)
@example("a" * 24, b"0", 8**11, False)
def test_what_tarfile_writes_is_read_as_tarfile_reads_it(name: str, kind: bytes, size: int, is_signed: bool) -> None:
    block = sign(make(name=name, type=kind, size=size, linkname=name[::-1]), signed=is_signed)
    assert read(block) == read_with_tarfile(block)


@pytest.mark.parametrize("magic", [b"ustar\x0000", b"ustar  \0", bytes(8)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_belongs_to_the_name_unless_the_kind_is_gnu_s(magic: bytes, kind: bytes) -> None:
    block = bytearray(make(type=kind))
    block[257:265], block[345:349] = magic, b"pre\0"
    signed = sign(bytes(block))
    assert read(signed) == read_with_tarfile(signed)


@pytest.mark.parametrize("field", [100, 108, 116, 124, 136, 329, 337])
@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_are_read_however_they_are_written(field: int, number: bytes) -> None:
    block = sign(make()[:field] + number + make()[field + 8 :])
    assert read(block) == read_with_tarfile(block) != None  # noqa: E711 - the end of a chain


@pytest.mark.parametrize("field", [100, 108, 116, 124, 136, 329, 337])
@pytest.mark.parametrize("number", BAD_NUMBERS)
def test_what_is_no_number_is_refused(field: int, number: bytes) -> None:
    with pytest.raises(InvalidHeader, match="invalid number"):
        parse_header(sign(make()[:field] + number + make()[field + 8 :]))


@given(st.integers(0, 511), st.integers(1, 255))
def test_a_changed_byte_is_noticed(position: int, change: int) -> None:
    block = bytearray(make(size=5))
    block[position] ^= change
    changed = bytes(block)
    if 148 <= position < 156:
        assert read(changed) in {None, read(make(size=5))}
    else:
        with pytest.raises(InvalidHeader):
            parse_header(changed)
