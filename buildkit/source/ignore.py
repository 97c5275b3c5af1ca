"""What both dialects of ignore rules share: Docker's is read in `dockerignore`, git's in `gitignore`.

Paths are POSIX, relative to the root, without a leading `./`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from buildkit.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Pattern = TypeVar("Pattern")

# How most expressions begin: a joined expression is fast because it tries what they share only once.
_BEGINNINGS = ("(?:.*/)?+[^/]*", "(?:.*/)?+", "(?:.*/)?", "^(?:.+/)?[^/]*", "^(?:.+/)?", "^", "")


class Rule(NamedTuple):
    """One line that excludes paths, or re-includes them.

    Attributes:
        pattern: As written, with its `!`, without the space around it.
        source: The file (`.dockerignore`) or the setting (`EXCLUDE`) that contains it.
        line: Counted from 1.
        include: Whether it re-includes what an earlier line excluded.
    """

    pattern: str
    source: str
    line: int
    include: bool


def parse_lines(
    lines: Iterable[str], source: str, parse: Callable[[str], tuple[Pattern, bool] | None]
) -> list[tuple[Rule, Pattern]]:
    """Return the rules among `lines`, each with its pattern.

    Args:
        parse: Returns the pattern of a line and whether it excludes, or None for a comment or a blank line; raises
            ValueError if the line is not a pattern.

    Raises:
        SettingError: A line is not a pattern.
    """
    parsed: list[tuple[Rule, Pattern]] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        try:
            found = parse(line)
        except ValueError as error:
            message = f"{source}, line {number}: {text!r} is not a pattern: {error}"
            raise SettingError(message, f"correct or delete line {number} of {source}") from error
        if found is not None:
            pattern, excludes = found
            parsed.append((Rule(text, source, number, include=not excludes), pattern))
    return parsed


def join_expressions(expressions: Iterable[str]) -> str:
    """Return one regular expression that matches what any of them matches."""
    alike: dict[str, list[str]] = {}
    for expression in dict.fromkeys(expressions):
        beginning = next(text for text in _BEGINNINGS if expression.startswith(text))
        alike.setdefault(beginning, []).append(expression.removeprefix(beginning))
    return "|".join(f"{beginning}(?:{'|'.join(rest)})" for beginning, rest in alike.items())
