"""The stages of a Dockerfile, compared with what BuildKit's own parser finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit.errors import LocalError
from buildkit.stages import parse_stages
from buildkit.template import quote_value

TEXTS = sorted((Path(__file__).parent / "dockerfiles").glob("*.Dockerfile"))
# `RUN cat << EOF` is missing here: newer versions of BuildKit take it for a heredoc, older ones do not.
LINES = (
    "FROM a AS b",
    "  from a",
    "RUN x \\",
    "RUN x \\ \t",
    "RUN x \\\\",
    "RUN x `",
    "\\",
    "`",
    "  y",
    "",
    "   ",
    "# a comment \\",
    "  # escape=`",
    "# escape=`",
    "# syntax=docker/dockerfile:1",
    "ARG A=1 B \\",
    'C="x y"',
    "RUN <<EOF",
    "RUN cat <<-EOF 3<<B && \\",
    'COPY <<-"EOF" --chown=1 /x',
    "ADD --chmod=644 <<E'O'F /x",
    "ONBUILD RUN <<B",
    'RUN ["cat", "<<EOF"]',
    'RUN echo "<<EOF" \\<<EOF',
    "RUN echo it's <<EOF",
    "RUN cat <<<EOF x<<EOF",
    "ENV A=<<EOF",
    "EOF",
    "\tEOF",
    "B",
    "COPY --from=b --link x y",
    "RUN --mount=type=cache,target=/x -- --flag",
)
Extents = list[tuple[str, int, int]]


def list_extents(text: str) -> Extents | None:
    """Return the keyword of each instruction and its first and last line, or None if the text is refused."""
    try:
        parsed = parse_stages(text, "Dockerfile", {})
    except LocalError:
        return None
    items = [*parsed.preamble, *(item for stage in parsed.stages for item in stage.instructions)]
    return [(item.name, item.start_line, item.end_line) for item in items]


def list_buildkit_extents(text: str) -> Extents | None:
    """Return the same according to BuildKit, or None if it refuses the text."""
    dockerfile = pytest.importorskip("dockerfile", reason="BuildKit's parser is not available for this machine")
    try:
        commands = dockerfile.parse_string(text)
    except dockerfile.GoParseError:
        return None
    return [((item.cmd or "").upper(), item.start_line, item.end_line) for item in commands]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_instructions_begin_and_end_where_they_do_for_buildkit(path: Path, line_end: str) -> None:
    text = path.read_text("utf-8").replace("\n", line_end)
    assert list_extents(text) == list_buildkit_extents(text)
    assert list_extents(text)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=12), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_lines_are_read_as_buildkit_reads_them_or_refused(lines: list[str], line_end: str, ends: bool) -> None:
    text = line_end.join(["FROM a", *lines]) + line_end * ends
    expected, found = list_buildkit_extents(text), list_extents(text)
    if expected is not None and found is not None:
        assert found == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM a\nRUN <<EOF\nx\n", "line 2: unterminated heredoc"),
        ("FROM a\nRUM x\n", "line 2: unknown instruction: RUM"),
        ("FROM a b\n", "line 1: FROM takes an image"),
        ("FROM\n", "line 1: FROM takes an image"),
        ("ARG A=1\n", "there is no FROM"),
        ("FROM a\nONBUILD RUN <<EOF\nFROM b\nEOF\n", "line 4: unknown instruction"),
        ("FROM a\nONBUILD RUN <<RUN\nFROM b\nRUN\n", "heredoc in ONBUILD"),
        ("# escape=x\nFROM a\n", "line 1: invalid escape token"),
        ("ARG A=${x\nFROM a\n", "cannot be read"),
        ("FROM ${x\n", "cannot be read"),
        ("FROM a AS 'x\n", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(LocalError, match="Dockerfile cannot be read: ") as caught:
        parse_stages(text, "Dockerfile", {})
    assert words in caught.value.message


def test_an_escape_directive_counts_only_at_the_top_and_after_other_directives() -> None:
    assert parse_stages("# check=skip=all\n# EsCape = `\nFROM a\n", "x", {}).escape == "`"
    for above in ("\n", "# a comment\n", "# other=directive\n"):
        assert parse_stages(f"{above}# escape=`\nFROM a\n", "x", {}).escape == "\\"


def test_a_byte_order_mark_is_not_part_of_the_first_keyword() -> None:
    assert [stage.base for stage in parse_stages("\ufefffrom a\n", "x", {}).stages] == ["a"]


@settings(deadline=None)
@given(st.text(st.characters(blacklist_categories=("C", "Z"), whitelist_characters=" ")), st.sampled_from(["\\", "`"]))
def test_a_quoted_value_is_one_word_that_means_the_value(value: str, escape: str) -> None:
    directive = "# escape=`\n" if escape == "`" else ""
    parsed = parse_stages(f"{directive}ARG A={quote_value(value, escape)}\nFROM a\n", "x", {})
    (argument,) = parsed.preamble
    assert argument.args == [f"A={quote_value(value, escape)}"]
    assert parsed.values == {"A": value}
