"""References and tags, held against a second reading of the grammar, letter by letter, and against docker's client."""

from __future__ import annotations

import shutil
import string
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from buildkit.errors import SettingError
from buildkit.reference import MAX_TAG_LENGTH, Reference, check_tag, parse_reference

LOWER, DIGITS = string.ascii_lowercase, string.digits
HEX = string.hexdigits.lower()[:16]
ZEROS = "0" * 64

ACCEPTED = [
    "ubuntu",
    "debian:12",
    "nikolaik/python-nodejs:python3.12-nodejs22",
    "ghcr.io/acme/server:1.0",
    "localhost/a",
    "localhost:5000/x_y__z--a.b",
    "host:5000",
    "[::1]:5000/a",
    f"a/{ZEROS}",
    f"ghcr.io/a/b:1@sha256:{ZEROS}",
    f"a@sha512:{ZEROS}{ZEROS}",
    "a:" + "x" * 128,
    "a" * 247,
    f"{ZEROS}:1",
    "a/" + "b" * 253,
    "r.io/" + "a" * 255,
]
REFUSED = [
    "",
    " ",
    "a b",
    "a\n",
    "a:1\n",
    "Upper/case",
    "a/Upper",
    "a//b",
    "/a",
    "a/",
    "a:",
    "a@",
    ":1",
    "a:.1",
    "a:-1",
    "a..b",
    "a___b",
    "a-_b",
    "-a",
    "a-",
    "\u0430",
    "a:1\u0661",
    ZEROS,
    "a:" + "x" * 129,
    "a" * 248,
    "a/" + "b" * 254,
    "a@sha256:" + "0" * 63,
    "a@sha256:" + "A" * 64,
    "a@md5:" + "0" * 32,
    f"a@sha256:{ZEROS}@sha256:{ZEROS}",
    "-a.b/c",
    "a-.b/c",
    "a.b./c",
    "a:/d",
    "a.b:1:2/c",
    "https://a/b",
    "[fe80::1%eth0]/a",
]

TAG_TEXTS = st.text(st.sampled_from("aZ0_.-/:@ \n\u0661é"), max_size=6)
WORDS = [
    "a",
    "b1",
    "A",
    "0",
    "localhost",
    "r.io",
    "[::1]",
    ":5000",
    "\u0130",
    "sha256:" + "0" * 64,
    "sha256:" + "0" * 63,
]
JOINTS = [".", "_", "__", "___", "-", "--", "/", ":", "@", "\n", " ", "$", "\\"]
PIECES = st.sampled_from([*WORDS, *JOINTS])
TEXTS = st.lists(PIECES, max_size=9).map("".join)
REFERENCES = st.builds(
    Reference,
    registry=st.sampled_from([None, "localhost", "r.io", "A.B:80", "[::1]:5000"]),
    repository=st.lists(st.sampled_from(["a", "b--c", "d.e__f"]), max_size=3).map(
        lambda words: "/".join(["x", *words])
    ),
    tag=st.sampled_from([None, "1", "_", "x" * 128]),
    digest=st.sampled_from([None, f"sha256:{ZEROS}"]),
)


def is_tag(text: str) -> bool:
    word = string.ascii_letters + DIGITS + "_"
    return 0 < len(text) <= 128 and text[0] in word and all(char in word + ".-" for char in text)


def is_component(text: str) -> bool:
    """Lowercase words, joined by one dot, one or two underscores, or any number of hyphens."""
    separators = "".join("x" if char in LOWER + DIGITS else char for char in text)
    if not text or separators[0] != "x" or separators[-1] != "x" or set(separators) - set("x._-"):
        return False
    joints = [joint for joint in separators.split("x") if joint]
    return all(joint in {".", "_", "__"} or set(joint) == {"-"} for joint in joints)


def is_registry(text: str) -> bool:
    if text.startswith("["):
        host, bracket, port = text.partition("]")
        named = bool(bracket) and bool(host[1:]) and all(char in string.hexdigits + ":" for char in host[1:])
        colon, port = port[:1], port[1:]
    else:
        host, colon, port = text.partition(":")
        labels = host.split(".")
        named = all(
            label and not set(label) - set(string.ascii_letters + DIGITS + "-") and "-" not in {label[0], label[-1]}
            for label in labels
        )
    ported = (colon == "" and port == "") or (colon == ":" and 1 <= len(port) <= 5 and not set(port) - set(DIGITS))
    return named and ported


def is_digest(text: str) -> bool:
    name, _, value = text.partition(":")
    return len(value) == {"sha256": 64, "sha384": 96, "sha512": 128}.get(name) and not set(value) - set(HEX)


def is_reference(text: str) -> bool:
    name, at, digest = text.partition("@")
    first, slash, rest = name.partition("/")
    registry = first if slash and (set(".:") & set(first) or first == "localhost") else ""
    path, colon, tag = (rest if registry else name).partition(":")
    counted = path if registry or "/" in path else f"library/{path}"
    return (
        (not at or is_digest(digest))
        and (not registry or is_registry(registry))
        and all(is_component(part) for part in path.split("/"))
        and (not colon or is_tag(tag))
        and len(counted) <= 255
        and (len(text) != 64 or bool(set(text) - set(HEX)))
    )


def accepts(text: str) -> bool:
    try:
        parse_reference(text)
    except SettingError:
        return False
    return True


@pytest.mark.parametrize("text", ACCEPTED)
def test_references_that_docker_takes_come_back_as_they_were(text: str) -> None:
    assert str(parse_reference(text)) == text
    assert is_reference(text)


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_reference_is_refused_with_its_value_and_a_fix(text: str) -> None:
    assert not is_reference(text)
    with pytest.raises(SettingError) as caught:
        parse_reference(text, "BASE_IMAGE")
    assert caught.value.message.startswith("BASE_IMAGE is not an image reference: ")
    assert "\n" not in caught.value.message
    assert "BASE_IMAGE" in caught.value.fix


@given(TEXTS)
@example("a.b/c:1@sha256:" + "f" * 64)
@settings(max_examples=1500)
def test_grammar_agrees_with_its_second_reading(text: str) -> None:
    assert accepts(text) == is_reference(text)


@given(st.text())
def test_any_text_at_all_is_judged_the_same(text: str) -> None:
    assert accepts(text) == is_reference(text)


@given(REFERENCES)
def test_parts_put_together_again_are_the_reference(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


def test_parts_of_a_full_reference() -> None:
    digest = f"sha256:{ZEROS}"
    assert parse_reference(f"ghcr.io:443/acme/server:1.0@{digest}") == Reference(
        "ghcr.io:443", "acme/server", "1.0", digest
    )


def test_colon_without_a_slash_is_a_tag_not_a_port() -> None:
    assert parse_reference("host:5000") == Reference(None, "host", "5000", None)


def test_overlong_value_is_shown_cut() -> None:
    with pytest.raises(SettingError) as caught:
        parse_reference("A" * 10_000)
    assert len(caught.value.message) < 500


@given(TAG_TEXTS)
@example("x" * 128)
@example("x" * 129)
def test_tags_agree_with_their_second_reading(text: str) -> None:
    if is_tag(text):
        assert check_tag(text) == text
    else:
        with pytest.raises(SettingError, match="tag 3"):
            check_tag(text, 3)


def test_overlong_tag_names_the_limit() -> None:
    with pytest.raises(SettingError) as caught:
        check_tag("x" * (MAX_TAG_LENGTH + 1), 2)
    assert "tag 2 has 129 characters" in caught.value.message
    assert "128" in caught.value.fix


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker's client is not installed")
@pytest.mark.parametrize("text", [*ACCEPTED, *REFUSED])
def test_docker_takes_all_that_is_accepted_here(text: str) -> None:
    done = subprocess.run(
        ["docker", "--host", "unix:///nonexistent", "pull", "--quiet", "--", text],
        capture_output=True,
        text=True,
        check=False,
    )
    # The reference is read before the daemon is looked for.
    taken = "connect to the docker daemon" in done.stderr.lower()
    stricter_here = {"Upper/case"}  # older engines refuse a registry that is told apart by its capitals alone
    assert taken == (text in ACCEPTED or text in stricter_here), done.stderr
