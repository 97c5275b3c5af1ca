"""Terminal sequences: what a log keeps of them, and text without them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildkit.display import escape_controls, keep_colours, strip_sequences

texts = st.lists(st.one_of(st.text(), st.sampled_from(["\x1b[1;31m", "\x1b[0m", "\x1b[2K", "\x1b]0;t\x07", "\x1b["])))


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


@given(texts)
def test_colours_are_the_only_sequences_of_a_log(parts: list[str]) -> None:
    kept = keep_colours("".join(parts))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", kept)
    assert escape_controls(plain) == plain
    assert keep_colours(kept) == kept
