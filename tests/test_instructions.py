"""The scanner of Dockerfiles, held against BuildKit's own parser."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit.errors import LocalError
from buildkit.rendering.instructions import quote_value, read_json_list, remove_quotes, scan_instructions

TEXTS = sorted((Path(__file__).parent / "dockerfiles").glob("*.Dockerfile"))
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
    "RUN cat << EOF <<<EOF x<<EOF",
    "ENV A=<<EOF",
    "EOF",
    "\tEOF",
    "B",
    "COPY --from=b --link x y",
    "RUN --mount=type=cache,target=/x -- --flag",
)


def list_extents(text: str) -> list[tuple[str, int, int]]:
    """Return the keyword of each instruction and its first and last line, from 1."""
    found = []
    for item in scan_instructions(text).instructions:
        last = text.count("\n", 0, item.end) + (not text[: item.end].endswith("\n"))
        found.append(("ONBUILD" if item.trigger else item.keyword, item.line, last))
    return found


def list_buildkit_extents(text: str) -> list[tuple[str, int, int]] | None:
    """Return the same as BuildKit has it, None where it refuses the text."""
    dockerfile = pytest.importorskip("dockerfile", reason="BuildKit's parser is compiled for this machine nowhere")
    try:
        commands = dockerfile.parse_string(text)
    except dockerfile.GoParseError:
        return None
    return [((item.cmd or "").upper(), item.start_line, item.end_line) for item in commands]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_instructions_begin_and_end_where_buildkit_has_them(path: Path, line_end: str) -> None:
    text = path.read_text("utf-8").replace("\n", line_end)
    assert list_extents(text) == list_buildkit_extents(text)
    assert list_extents(text)


@settings(deadline=None)
@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=12), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_lines_are_read_as_buildkit_reads_them(lines: list[str], line_end: str, ends: bool) -> None:
    text = line_end.join(lines) + line_end * ends
    expected = list_buildkit_extents(text)
    if expected is not None:
        assert list_extents(text) == expected


def test_a_heredoc_without_an_end_is_refused_with_its_line() -> None:
    with pytest.raises(LocalError, match=r"line 2 .*'EOF'"):
        scan_instructions("FROM a\nRUN <<EOF\nx\n")


def test_an_escape_directive_counts_only_at_the_top_and_behind_other_directives() -> None:
    assert scan_instructions("# check=skip=all\n# EsCape = `\nFROM a\n").escape == "`"
    for above in ("\n", "# said first\n", "# other=directive\n"):
        assert scan_instructions(f"{above}# escape=`\nFROM a\n").escape == "\\"


def test_a_byte_order_mark_is_no_part_of_the_first_keyword() -> None:
    (instruction,) = scan_instructions("\ufefffrom a\n").instructions
    assert (instruction.keyword, instruction.words[0].start) == ("FROM", 6)


def test_words_are_found_where_they_stand_even_behind_a_comment_in_the_middle() -> None:
    text = "ARG A=1 \\\n# no B=2\n  C='x y' \\\n\n\tD"
    (instruction,) = scan_instructions(text).instructions
    assert [text[word.start : word.end] for word in instruction.words] == ["A=1", "C='x y'", "D"]


def test_the_json_form_is_told_from_the_shell_form() -> None:
    assert read_json_list('["a", "b c"]') == ["a", "b c"]
    assert read_json_list("[a-z]* /x") is None
    assert read_json_list("[1]") is None


@settings(deadline=None)
@given(st.text(), st.sampled_from(["\\", "`"]))
def test_a_quoted_value_is_one_word_that_means_the_value(value: str, escape: str) -> None:
    quoted = quote_value(value, escape)
    assert remove_quotes(quoted, escape) == value
    if value.isprintable():
        directive = "# escape=`\n" if escape == "`" else ""
        (instruction,) = scan_instructions(f"{directive}ARG A={quoted}\n").instructions
        assert [word.text for word in instruction.words] == [f"A={quoted}"]
