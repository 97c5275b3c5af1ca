"""Ignore rules: which paths a `.dockerignore` or a setting's patterns exclude, and which line decides.

There are two dialects. Docker's is read here; `tests/dockerignore.json` has what a real docker kept under each of 258
files. Git's is read by pathspec, in `patterns`. Paths are POSIX, relative to the root, without a leading `./`.
"""

from __future__ import annotations

import posixpath
import re
import warnings
from functools import cached_property
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import SettingError
from buildkit.source.dockerignore import clean_pattern, translate_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# How most expressions begin and end: a joined expression is fast because it tries what they share only once.
_BEGINNINGS = ("^(?:.*/)?", "^(?:.+/)?", "^", "")
_ENDINGS = (r"(?:/|\Z)", "")


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


class IgnoreRules:
    """Ordered rules; the last one that matches a path or one of its folders decides.

    Args:
        expressions: The regular expression of each rule, which matches at the start of a path.
        reachable: Folders that are walked even if a rule excludes them, because another may re-include what is inside.
    """

    def __init__(self, rules: Sequence[Rule], expressions: Sequence[str], reachable: Iterable[str] = ()) -> None:
        self._rules = tuple(rules)
        self._expressions = tuple(expressions)
        self._reachable = frozenset(reachable)
        self._runs = [*_join_runs(self._rules, self._expressions)][::-1]
        self._pruned: dict[str, bool] = {"": False}

    def excludes(self, path: str) -> bool:
        """Return whether the file at `path` is left out."""
        directory = path.rpartition("/")[0]
        pruned = self._pruned.get(directory)
        if pruned is None:
            pruned = self.prunes(directory)
        return pruned or self._matches(path)

    def prunes(self, directory: str) -> bool:
        """Return whether nothing below `directory` is kept, so that it need not be walked."""
        pruned = False
        for folder in _list_folders(directory):
            known = self._pruned.get(folder)
            if known is None:
                known = self._pruned[folder] = pruned or (folder not in self._reachable and self._matches(folder))
            pruned = known
        return pruned

    def explain(self, path: str) -> Rule | None:
        """Return the rule that decides about the file at `path`, or None if no rule matches it.

        Tries the patterns one by one, without the shortcuts of `excludes`, so that each can be checked by the other.
        """
        for folder in _list_folders(posixpath.dirname(path)):
            rule = self._find_last(folder)
            if rule and not rule.include and folder not in self._reachable:
                return rule
        return self._find_last(path)

    def _matches(self, path: str) -> bool:
        for match, excludes in self._runs:
            if match(path):
                return excludes
        return False

    def _find_last(self, path: str) -> Rule | None:
        pairs = zip(reversed(self._rules), reversed(self._compiled), strict=True)
        return next((rule for rule, compiled in pairs if compiled.match(path)), None)

    @cached_property
    def _compiled(self) -> list[re.Pattern[str]]:
        return [compile_quietly(expression) for expression in self._expressions]


def parse_dockerignore(text: str, source: str) -> IgnoreRules:
    """Return the rules of a `.dockerignore`, as docker reads it.

    Args:
        source: The name of the file in errors and in `explain`.

    Raises:
        SettingError: Docker refuses a line.
    """
    lines = text.removeprefix("\ufeff").split("\n")
    rules, expressions = parse_lines(lines, source, _translate_line)
    # Docker compares the text of a pattern, wildcards and all: `!pkg/*/keep` opens `pkg` and nothing below it.
    cleaned = (clean_pattern(rule.pattern.removeprefix("!").strip()) for rule in rules if rule.include)
    return IgnoreRules(rules, expressions, {folder for path in cleaned for folder in _list_folders(path)})


def parse_lines(
    lines: Iterable[str], source: str, translate: Callable[[str], tuple[str, bool] | None]
) -> tuple[list[Rule], list[str]]:
    """Return the rules among `lines` and the expression of each.

    Args:
        translate: Returns the expression of a line and whether it excludes; raises ValueError if it is not a pattern.

    Raises:
        SettingError: A line is not a pattern.
    """
    rules: list[Rule] = []
    expressions: list[str] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        try:
            translated = translate(line)
        except ValueError as error:
            message = f"{source}, line {number}: {text!r} is not a pattern: {error}"
            raise SettingError(message, f"correct or delete line {number} of {source}") from error
        if translated is not None:
            expression, excludes = translated
            rules.append(Rule(text, source, number, include=not excludes))
            expressions.append(expression)
    return rules, expressions


def compile_quietly(expression: str) -> re.Pattern[str]:
    """Return the compiled expression, without the warning that a later Python may read `[[` differently."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return re.compile(expression)


def _translate_line(line: str) -> tuple[str, bool] | None:
    """Return the expression of a line of a `.dockerignore`, and whether it excludes; None for a comment or blank line.

    The expression matches a path and everything below it. It is anchored at the root, and `**` crosses folders.

    Raises:
        ValueError: Docker refuses the pattern.
    """
    text = line.strip()
    if line.startswith("#") or not text:
        return None
    cleaned = clean_pattern(text.removeprefix("!").strip())
    if not cleaned:
        raise ValueError("there is nothing after the `!`")
    return rf"^{translate_pattern(cleaned)}(?:/|\Z)", not text.startswith("!")


def _join_runs(rules: Sequence[Rule], expressions: Sequence[str]) -> Iterator[tuple[Callable[[str], object], bool]]:
    """Yield each run of rules that all exclude, or all re-include, as one matcher, and whether they exclude."""
    pairs = zip(rules, expressions, strict=True)
    for include, run in groupby(pairs, key=lambda pair: pair[0].include):
        joined = [expression for _, expression in run]
        compiled = compile_quietly(_join(joined))
        # Some of pathspec's expressions match anywhere in a path: `*/` is every path with a slash.
        is_anchored = all(expression.startswith("^") for expression in joined)
        yield compiled.match if is_anchored else compiled.search, not include


def _join(expressions: Iterable[str]) -> str:
    """Return one expression that matches what any of them matches."""
    alike: dict[tuple[str, str], list[str]] = {}
    for expression in dict.fromkeys(expressions):
        beginning = next(text for text in _BEGINNINGS if expression.startswith(text))
        ending = next(text for text in _ENDINGS if expression.endswith(text))
        middle = expression.removeprefix(beginning).removesuffix(ending)
        alike.setdefault((beginning, ending), []).append(middle)
    return "|".join(f"{start}(?:{'|'.join(middles)}){end}" for (start, end), middles in alike.items())


def _list_folders(path: str) -> Iterator[str]:
    """Yield the folders that lead to `path`, and `path` itself: `a/b` gives `a`, `a/b`."""
    return accumulate(path.split("/"), "{}/{}".format) if path else iter(())
