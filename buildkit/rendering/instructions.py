r"""A Dockerfile's text as instructions that know where they stand in it, so that single words can be replaced.

Written here because no library from the registry serves: `dockerfile-parse` takes the lines of a heredoc for
instructions (a FROM in one becomes a stage), ends an instruction at an empty continuation line, loses one that the end
of the file continues, and knows neither `# check=` nor a byte order mark; `dockerfile`, BuildKit's own parser, comes
compiled for few machines and forgets comments and columns. The tests hold this scanner against the latter. The rules
are those of https://github.com/moby/buildkit/blob/master/frontend/dockerfile/parser/parser.go.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTIVE = re.compile(r"\s*#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_DIRECTIVES = frozenset({"syntax", "escape", "check"})
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_HEREDOC = re.compile(r"[0-9]*<<(-?)([^<]+)")
_OPENING = re.compile(r"\s*(ONBUILD\s+)?(\S+)", re.IGNORECASE)
_HOLDS_HEREDOC = frozenset({"ADD", "COPY", "RUN"})
_BOM = "\ufeff"


@dataclass(frozen=True)
class Word:
    """A word of an instruction, quotes and escapes still in it, and its offsets in the text."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        keyword: In capitals; of an ONBUILD, that of its trigger.
        line: Its first, from 1.
        start: Offset of its first line in the text.
        end: Offset behind its last line, heredocs included.
        flags: The leading words that begin with `--`.
        words: The others.
        rest: The others as they were written, line continuations and comments taken out.
        trigger: Whether it stands behind ONBUILD.
    """

    keyword: str
    line: int
    start: int
    end: int
    flags: tuple[Word, ...]
    words: tuple[Word, ...]
    rest: str
    trigger: bool


@dataclass(frozen=True)
class ScannedText:
    """The instructions of a Dockerfile, and what the directives at its top say, by name in small letters."""

    instructions: tuple[Instruction, ...]
    directives: dict[str, str]

    @property
    def escape(self) -> str:
        r"""The character that escapes and continues lines: a backslash or a backtick."""
        return "`" if self.directives.get("escape") == "`" else "\\"


def scan_instructions(text: str) -> ScannedText:
    """Return the instructions of a Dockerfile.

    Raises:
        LocalError: A heredoc has no end.
    """
    directives = dict(_read_directives(text))
    scanned = ScannedText((), directives)
    return ScannedText(tuple(_Scanner(text, scanned.escape).scan()), directives)


def is_directive(line: str) -> bool:
    """Return whether a line, as one of the first of a file, would be a directive."""
    match = _DIRECTIVE.fullmatch(line.rstrip("\r\n"))
    return match is not None and match[1].lower() in _DIRECTIVES


def read_json_list(rest: str) -> list[str] | None:
    """Return the strings of an instruction in JSON form, None where it is in shell form."""
    if not rest.lstrip().startswith("["):
        return None
    try:
        values = json.loads(rest)
    except ValueError:
        return None
    return values if all(isinstance(value, str) for value in values) else None


def remove_quotes(word: str, escape: str) -> str:
    """Return a word without its quotes and escapes."""
    sign = re.escape(escape)
    parts = []
    for match in re.finditer(rf"'([^']*)'|\"((?:{sign}.|[^\"{sign}])*)\"|{sign}(.)|([^'\"])", word, re.DOTALL):
        part = match[match.lastindex or 0]
        # Between double quotes, only these signs need the escape, and only before these it goes.
        parts.append(re.sub(rf"{sign}([\"${sign}])", r"\1", part) if match[0][0] == '"' else part)
    return "".join(parts)


def quote_value(value: str, escape: str) -> str:
    r"""Return `value` in double quotes, as it stands behind ARG where `escape` is the escaping character.

    >>> print(quote_value('costs "$5"', "\\"))
    "costs \"\$5\""
    """
    return '"' + "".join(escape + char if char in {'"', "$", escape} else char for char in value) + '"'


def _read_directives(text: str) -> Iterator[tuple[str, str]]:
    for match in _LINE.finditer(text.removeprefix(_BOM)):
        if not is_directive(match[0]):
            return
        name, _, value = match[0].strip().lstrip("#").partition("=")
        yield name.strip().lower(), value.strip()


class _Scanner:
    """Reads lines into instructions; keeps of each character that counts where it stood."""

    def __init__(self, text: str, escape: str) -> None:
        self.lines = [(match.start(), match[0]) for match in _LINE.finditer(text)]
        self.size = len(text)
        self.at = 0
        sign = re.escape(escape)
        self.continues = re.compile(rf"(?<!{sign}){sign}[ \t]*\Z")
        self.word = _compile_word(escape)

    def scan(self) -> Iterator[Instruction]:
        while self.at < len(self.lines):
            first, line = self.lines[self.at]
            if not line.removeprefix(_BOM).strip() or _is_comment(line.removeprefix(_BOM)):
                self.at += 1
                continue
            number = self.at + 1
            joined, offsets = self._join_lines()
            yield self._read(joined, offsets, number, first)

    def _join_lines(self) -> tuple[str, list[int]]:
        """Return one instruction in one line, and the offset of each of its characters."""
        parts: list[str] = []
        offsets: list[int] = []
        ended = False
        while not ended and self.at < len(self.lines):
            start, line = self.lines[self.at]
            self.at += 1
            if parts and (not line.strip() or _is_comment(line)):
                continue  # BuildKit warns of an empty line here, and reads on
            content = line.rstrip("\r\n")
            skipped = len(_BOM) if start == 0 and content.startswith(_BOM) else 0
            kept = self.continues.sub("", content)[skipped:]
            ended = len(kept) + skipped == len(content)
            parts.append(kept)
            offsets.extend(range(start + skipped, start + skipped + len(kept)))
        return "".join(parts), offsets

    def _read(self, joined: str, offsets: list[int], number: int, start: int) -> Instruction:
        opening = _OPENING.match(joined)
        trigger, keyword, behind = (bool(opening[1]), opening[2].upper(), opening.end()) if opening else (False, "", 0)
        found = list(self.word.finditer(joined, behind))
        count = next((n for n, match in enumerate(found) if match[0] == "--" or match[0][:2] != "--"), len(found))
        rest = joined[found[count].start() :] if count < len(found) else ""
        words = [Word(match[0], offsets[match.start()], offsets[match.end() - 1] + 1) for match in found]
        if keyword in _HOLDS_HEREDOC and read_json_list(rest) is None:
            self._skip_heredocs(joined, number)
        end = self.lines[self.at][0] if self.at < len(self.lines) else self.size
        return Instruction(keyword, number, start, end, tuple(words[:count]), tuple(words[count:]), rest, trigger)

    def _skip_heredocs(self, joined: str, number: int) -> None:
        for indented, name in _find_heredocs(joined):
            ended = False
            while not ended and self.at < len(self.lines):
                line = self.lines[self.at][1].rstrip("\r\n")
                ended = (line.lstrip("\t") if indented else line) == name
                self.at += 1
            if not ended:
                raise LocalError(f"line {number} of the Dockerfile begins a heredoc without an end: {name!r}", "end it")


def _compile_word(escape: str) -> re.Pattern[str]:
    sign = re.escape(escape)
    unit = rf"{sign}.|'[^']*(?:'|\Z)|\"(?:{sign}.|[^\"{sign}])*(?:\"|\Z)|[^\s'\"{sign}]|{sign}\Z"
    return re.compile(rf"(?:{unit})+", re.DOTALL)


# BuildKit looks for heredocs with the backslash, whatever the file's own escape; a quote without an end hides them.
_HEREDOC_WORD = re.compile(r"""(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^\s'"\\])+""", re.DOTALL)
_BALANCED = re.compile(r"""(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^'"\\])*\\?""", re.DOTALL)


def _find_heredocs(joined: str) -> Iterator[tuple[bool, str]]:
    """Yield of each heredoc whether it is indented by tabs, and the line that ends it."""
    if "<<" not in joined or not _BALANCED.fullmatch(joined):
        return
    for word in _HEREDOC_WORD.findall(joined):
        if match := _HEREDOC.fullmatch(word):
            yield match[1] == "-", remove_quotes(match[2], "\\")


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")
