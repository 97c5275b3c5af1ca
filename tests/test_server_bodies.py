"""The two forms of `POST /build`, however they are cut and whatever is in them."""

from __future__ import annotations

import base64
import json
import random
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit.server.fields import MAX_FIELD_BYTES, BuildFields
from buildkit.server.json_body import JsonBody
from buildkit.server.multipart_body import MultipartBody
from buildkit.server.refusals import InvalidBody
from buildkit.server.upload import open_body

CONTEXT = bytes(range(256)) * 5 + b"\xff\xff\xfe\x3f\xfb"
TEXT = base64.b64encode(CONTEXT).decode()
BOUNDARY = "0123abcd"


def read(body: bytes, *, content_type: str = "application/json", size: int = 1 << 20) -> tuple[BuildFields, bytes]:
    reader = open_body(content_type)
    pieces = [reader.read(body[start : start + size]) for start in range(0, len(body), size)]
    return reader.close(), b"".join(pieces)


def read_json(body: bytes | str, size: int = 1 << 20) -> tuple[BuildFields, bytes]:
    return read(body if isinstance(body, bytes) else body.encode(), size=size)


def read_form(body: bytes, size: int = 1 << 20) -> tuple[BuildFields, bytes]:
    return read(body, content_type=f"multipart/form-data; boundary={BOUNDARY}", size=size)


def write_form(*parts: tuple[str, str]) -> bytes:
    text = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'
        + ('; filename="context.tar.gz"\r\nContent-Type: application/gzip' if name == "context" else "")
        + f"\r\n\r\n{value}\r\n"
        for name, value in parts
    )
    return f"{text}--{BOUNDARY}--\r\n".encode()


FIELDS = {"target_image": "a/b:ü", "tags": ["x:1", 'y"\\:2'], "context": TEXT, "context_sha256": "0" * 64}
EXPECTED = BuildFields("a/b:ü", ("x:1", 'y"\\:2'), "0" * 64)
FORM = write_form(
    ("target_image", "a/b:ü"), ("tags", "x:1"), ("context", TEXT), ("tags", 'y"\\:2'), ("context_sha256", "0" * 64)
)


@settings(deadline=None)
@given(st.permutations(list(FIELDS)), st.integers(1, 200), st.booleans(), st.sampled_from([None, 2]))
def test_json_in_any_order_and_cut_anywhere(order: list[str], size: int, ascii_: bool, indent: int | None) -> None:
    body = json.dumps({name: FIELDS[name] for name in order}, ensure_ascii=ascii_, indent=indent)
    assert read_json(body, size) == (EXPECTED, CONTEXT)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 10_000])
def test_escapes_in_the_context_are_read(size: int) -> None:
    slashes = TEXT.replace("/", "\\/").replace("+", "\\u002b").replace("A", "\\u0041")
    lines = "\\r\\n".join(slashes[start : start + 7000] for start in range(0, len(slashes), 7000))
    assert read_json(f'{{"context":"{lines}","target_image":"a:b"}}', size)[1] == CONTEXT


@settings(deadline=None)
@given(st.integers(1, 200))
def test_a_form_cut_anywhere(size: int) -> None:
    assert read_form(FORM, size) == (EXPECTED, CONTEXT)


def test_a_form_with_wrapped_base64() -> None:
    wrapped = base64.encodebytes(CONTEXT).decode()
    assert read_form(write_form(("context", wrapped), ("target_image", "a:b")), 100)[1] == CONTEXT


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("", "ends before its object"),
        ("[]", "'[' where '{' is expected"),
        ("{}", "a field's name is not a string: it begins with '}'"),
        ("nul", "'n' where"),
        ('{"context":"QQ=="}', "there is no `target_image`"),
        ('{"target_image":"a:b"}', "there is no `context`"),
        ('{"context":null,"target_image":"a:b"}', "'n' where"),
        ('{"context":["QQ=="],"target_image":"a:b"}', "'[' where"),
        ('{"target_image":1}', "`target_image` is not a string: it begins with '1'"),
        ('{"tags":"a:b"}', "'\"' where '[' is expected"),
        ('{"tags":["a:b",]}', "a tag is not a string"),
        ('{"tags":["a:b" "c:d"]}', "'\"' where ',' or ']' is expected"),
        ('{"tags":[["a:b"]]}', "a tag is not a string"),
        ('{"platform":"linux/amd64"}', "there is no field 'platform'"),
        ('{"target_image":"a","target_image":"b"}', "`target_image` is given twice"),
        ('{"target_image":"\\ud800"}', "`target_image` is not a valid JSON string"),
        ('{"target_image":"\\q"}', "`target_image` is not a valid JSON string"),
        ('{"target_image":"a\nb"}', "`target_image` is not a valid JSON string"),
        (b'{"target_image":"\xff"}', "`target_image` is not UTF-8"),
        ('{"target_image":"a:b","context":"QQ=="} x', "something after the JSON object"),
        ('{"target_image":"a:b","context":"QQ=="', "ends before its object"),
        ('{"target_image":"a:b","context":"QQ=', "ends before its object"),
        ('{"target_image":"a:b","context":"QQ="}', "its length is not a multiple of 4"),
        ('{"target_image":"a:b","context":"QQ==QQ=="}', "`context` is not base64"),
        ('{"target_image":"a:b","context":"Q!=="}', "`context` is not base64"),
        ('{"target_image":"a:b","context":"Q\\"=="}', "`context` is not base64"),
        ('{"target_image":"a:b","context":"Q\\\\=="}', "`context` is not base64"),
        ('{"target_image":"a:b","context":"Q\\u12=="}', "`context` is not base64"),
        ('{"target_image":"a:b","context":"Qü=="}', "`context` is not base64"),
        ('{"target_image":"a:b","context":"QUFB\nQUFB"}', "contains a line break"),
        ('{"target_image":"%s"' % ("a" * MAX_FIELD_BYTES), "larger than 64 KiB"),
        ('{"target_image":"%s' % ("a" * 2 * MAX_FIELD_BYTES), "larger than 64 KiB"),
        ('{"tags":[%s' % ('"",' * MAX_FIELD_BYTES), "larger than 64 KiB"),
        (" " * 2 * MAX_FIELD_BYTES, "larger than 64 KiB"),
    ],
)
@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_other_json_is_rejected(body: bytes | str, detail: str, size: int) -> None:
    with pytest.raises(InvalidBody) as caught:
        read_json(body, size)
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "ends before its last boundary"),
        (b"--other\r\n", "not a multipart form"),
        (FORM[:-6], "ends before its last boundary"),
        (write_form(("target_image", "a:b")), "there is no `context`"),
        (write_form(("context", "QQ==")), "there is no `target_image`"),
        (write_form(("context", "QQ")), "there is no `target_image`"),
        (write_form(("context", "Q"), ("target_image", "a:b")), "not a multiple of 4"),
        (write_form(("context", "\x1f\x8b\x08\0")), "`context` is not base64"),
        (write_form(("context", "QQ=="), ("context", "QQ==")), "`context` is given twice"),
        (write_form(("platform", "x")), "there is no field 'platform'"),
        (FORM.replace(b'name="tags"', b'title="tags"'), "has no name"),
        (write_form(("target_image", "a" * MAX_FIELD_BYTES + "a")), "larger than 64 KiB"),
        (write_form(*[("tags", "")] * 4000), "larger than 64 KiB"),
        (FORM.replace("ü".encode(), b"\xff"), "`target_image` is not UTF-8"),
    ],
)
@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_other_forms_are_rejected(body: bytes, detail: str, size: int) -> None:
    with pytest.raises(InvalidBody) as caught:
        read_form(body, size)
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'a' * 999}",
    ],
)
def test_other_types_are_rejected(content_type: str) -> None:
    with pytest.raises(InvalidBody):
        open_body(content_type)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 300), st.integers(0, 2000), st.booleans())
def test_damage_anywhere_gives_no_other_error(noise: bytes, size: int, at: int, replace: bool) -> None:
    for body, reader in ((json.dumps(FIELDS).encode(), read_json), (FORM, read_form)):
        damaged = body[:at] + noise + body[at + len(noise) * replace :]
        with suppress(InvalidBody):
            reader(damaged, size)


def is_accepted(value: object) -> bool:
    """Return whether a value has the shape of a body: the two required fields, and texts in all of them."""
    return (
        isinstance(value, dict)
        and {"context", "target_image"} <= value.keys()
        and all(isinstance(field, str) for field in value.values())
    )


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda each: st.lists(each) | st.dictionaries(st.sampled_from(list(FIELDS)), each),
    ).filter(lambda value: not is_accepted(value))
)
def test_json_of_any_other_shape_is_rejected(value: object) -> None:
    with pytest.raises(InvalidBody):
        read_json(json.dumps(value))


@pytest.mark.parametrize("form", ["json", "multipart"])
def test_memory_does_not_grow_with_the_context(form: str) -> None:
    block = base64.b64encode(random.Random(1).randbytes(3 << 18))
    body: JsonBody | MultipartBody
    if form == "json":
        body, start = JsonBody(), b'{"target_image":"a:b","context":"'
    else:
        body, start = (
            MultipartBody(BOUNDARY.encode()),
            write_form(("target_image", "a:b"), ("context", "")),
        )
        start = start[: start.rindex(b"\r\n--")]
    tracemalloc.start()
    try:
        body.read(start)
        for _ in range(60):
            body.read(block)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(block)
