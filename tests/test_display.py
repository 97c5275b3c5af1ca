"""Text made safe for a terminal, terminal sequences in logs, and sizes for people."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildkit.display import escape_controls, format_size, keep_colours, strip_sequences
from buildkit.errors import LocalError

LOGS = st.lists(st.one_of(st.text(), st.sampled_from(["\x1b[1;31m", "\x1b[0m", "\x1b[2K", "\x1b]0;t\x07", "\x1b["])))
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("ünïcode ✅ 漢字", "ünïcode ✅ 漢字"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\rb\nc\td", r"a\rb\nc\td"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\u200bb\ufeff", r"a\u200bb\ufeff"),
        ("a\u2028b", r"a\u2028b"),
        (b"\xff.txt".decode("utf-8", "surrogateescape"), r"\xff.txt"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_might_obey_is_written_as_an_escape(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


def test_what_is_kept_stays() -> None:
    assert escape_controls("a\n\tb\x1b", keep="\n") == "a\n\\tb\\x1b"


@given(st.text())
def test_any_text_becomes_one_safe_line_that_can_be_encoded(text: str) -> None:
    shown = escape_controls(text)
    assert not [char for char in shown if unicodedata.category(char) in UNSAFE]
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")
    assert escape_controls(shown) == shown


def test_errors_are_safe_whatever_is_put_into_them() -> None:
    error = LocalError("a\x1bb\nc", "rm 'x\u202e'")
    assert (error.message, error.fix) == (r"a\x1bb\nc", r"rm 'x\u202e'")


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (61_440, "61.4 kB"), (3_200_000, "3.2 MB"), (10**15, "1000.0 TB")],
)
def test_sizes_for_people(size_bytes: int, shown: str) -> None:
    assert format_size(size_bytes) == shown


@pytest.mark.parametrize(
    ("text", "kept", "stripped"),
    [
        ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[2K\x1b[1Aup", "up", "up"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab", "ab"),
        ("\x1bPq#0\x1b\\a\x1bMb", "ab", "ab"),
        ("\x1b]0;no end", r"\x1b]0;no end", "\x1b]0;no end"),
        ("\x1b[31", r"\x1b[31", "\x1b[31"),
        ("\x1b[?25la\rb\x9b31m\u202e", r"a\rb\x9b31m\u202e", "a\rb\x9b31m\u202e"),
    ],
)
def test_colours_are_kept_or_removed_and_other_sequences_disappear(text: str, kept: str, stripped: str) -> None:
    assert keep_colours(text) == kept
    assert strip_sequences(text) == stripped


@given(LOGS)
def test_colours_are_the_only_sequences_of_a_log(parts: list[str]) -> None:
    kept = keep_colours("".join(parts))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", kept)
    assert escape_controls(plain) == plain
    assert keep_colours(kept) == kept
