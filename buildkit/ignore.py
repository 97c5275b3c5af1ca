"""Ignore rules: which paths a `.dockerignore` or a setting's patterns exclude, and which line decided it.

Two dialects. Docker's is `DockerignorePattern`; `tests/dockerignore.json` holds what a real docker kept under each of
258 files. Git's is pathspec's own. Paths are POSIX, relative to the root, without a leading `./`.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, TypeVar

from pathspec import GitIgnoreSpec
from pathspec.pattern import RegexPattern
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from buildkit.dockerignore import clean_pattern, translate_pattern
from buildkit.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_NAMED_GROUP = re.compile(r"\(\?P<\w+>")
_ANYWHERE = "^(?:.+/)?"  # how pathspec begins a pattern without a slash

P = TypeVar("P", bound=RegexPattern)


@dataclass(frozen=True)
class Rule:
    """One line that excludes paths, or brings them back.

    Attributes:
        pattern: As written, `!` and all, without the space around it.
        source: The file (`.dockerignore`) or the setting (`EXCLUDE`) that it stands in.
        line: Counted from 1.
        include: Whether it brings back what an earlier line excluded.
    """

    pattern: str
    source: str
    line: int
    include: bool


class DockerignorePattern(RegexPattern):
    """One line of a `.dockerignore` as a pattern for pathspec; it matches a path and everything below it.

    Anchored at the root, `**` crosses folders.
    """

    __slots__ = ()

    @classmethod
    def pattern_to_regex(cls, pattern: str) -> tuple[str | None, bool | None]:  # type: ignore[override]  # text only
        """Return the regular expression, and whether it excludes; twice None for a comment or a blank line.

        Raises:
            ValueError: Docker refuses the pattern.
        """
        text = pattern.strip()
        if pattern.startswith("#") or not text:
            return None, None
        excludes = not text.startswith("!")
        cleaned = clean_pattern(text.removeprefix("!").strip())
        if not cleaned:
            raise ValueError("there is nothing behind the `!`")
        return rf"^(?:{translate_pattern(cleaned)})(?:/|\Z)", excludes


class IgnoreRules:
    """Ordered rules, of which the last that matches a path or one of its folders decides."""

    def __init__(self, rules: Sequence[Rule], patterns: Sequence[RegexPattern], reachable: Iterable[str] = ()) -> None:
        """Keep `rules` with the pattern of each.

        Args:
            reachable: Folders that are walked though a rule excludes them, since another may bring back what is inside.
        """
        self._rules = tuple(rules)
        self._patterns = tuple(patterns)
        self._reachable = frozenset(reachable)
        self._runs = [*_join_runs(self._patterns)][::-1]
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
        """Return the rule that decides over the file at `path`, or None where no rule matches it.

        Tries the patterns one by one, without what makes `excludes` fast, so that one can be held against the other.
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
        pairs = zip(reversed(self._rules), reversed(self._patterns), strict=True)
        return next((rule for rule, pattern in pairs if pattern.match_file(path)), None)


class _GitignoreRules(IgnoreRules):
    """The same for git's dialect, where a pattern for files weighs more than one for folders, whatever their order."""

    def __init__(self, rules: Sequence[Rule], patterns: Sequence[GitIgnoreSpecPattern]) -> None:
        super().__init__(rules, patterns)
        self._spec = GitIgnoreSpec(patterns, backend="simple")
        self._all_exclude = not any(rule.include for rule in rules)
        # A class may match the slash behind a folder (`[^a]`) and then nothing below it: such a pattern prunes nothing.
        self._folder_patterns = [
            pattern for rule, pattern in zip(rules, patterns, strict=True) if "[" not in rule.pattern
        ]

    def excludes(self, path: str) -> bool:
        return self._matches(path) if self._all_exclude else self._spec.match_file(path)

    def prunes(self, directory: str) -> bool:
        if not directory or not self._all_exclude:
            return False
        return any(pattern.match_file(f"{directory}/") for pattern in self._folder_patterns)

    def explain(self, path: str) -> Rule | None:
        index = self._spec.check_file(path).index
        return None if index is None else self._rules[index]


def parse_dockerignore(text: str, source: str) -> IgnoreRules:
    """Return the rules of a `.dockerignore`, as docker reads it.

    Args:
        source: What the file is called in errors and in `explain`.

    Raises:
        SettingError: Docker refuses a line.
    """
    rules, patterns = _parse_lines(text.removeprefix("\ufeff").split("\n"), source, DockerignorePattern)
    # Docker compares the text of a pattern, wildcards and all: `!pkg/*/keep` opens `pkg` and nothing below it.
    cleaned = (clean_pattern(rule.pattern.removeprefix("!").strip()) for rule in rules if rule.include)
    return IgnoreRules(rules, patterns, {folder for path in cleaned for folder in _list_folders(path)})


def parse_gitignore(lines: Iterable[str], source: str) -> IgnoreRules:
    """Return the rules of gitignore patterns, which exclude what they match.

    As pathspec reads them: unlike git's own, a `!` for files reaches into excluded folders.

    Args:
        source: The setting that they come from, for errors and `explain`.

    Raises:
        SettingError: A line is no pattern; git would pass over it in silence.
    """
    return _GitignoreRules(*_parse_lines(lines, source, _parse_git_pattern))


def _parse_lines(lines: Iterable[str], source: str, parse: Callable[[str], P]) -> tuple[list[Rule], list[P]]:
    rules: list[Rule] = []
    patterns: list[P] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        try:
            pattern = parse(line)
        except ValueError as error:
            message = f"{source}, line {number}: {text!r} is not a pattern: {error}"
            raise SettingError(message, f"correct or delete line {number} of {source}") from error
        if pattern.include is not None:
            rules.append(Rule(text, source, number, include=not pattern.include))
            patterns.append(pattern)
    return rules, patterns


def _parse_git_pattern(line: str) -> GitIgnoreSpecPattern:
    pattern = GitIgnoreSpecPattern(line)
    if pattern.include is None and line.strip() and not line.startswith("#"):
        raise ValueError("it can match nothing")
    return pattern


def _join_runs(patterns: Sequence[RegexPattern]) -> Iterator[tuple[Callable[[str], object], bool]]:
    """Yield each run of patterns with one sign as the matcher of all of them, and whether they exclude."""
    for excludes, run in groupby(patterns, key=lambda pattern: bool(pattern.include)):
        texts = [_NAMED_GROUP.sub("(?:", pattern.regex.pattern) for pattern in run if pattern.regex]
        yield _join(texts), excludes


def _join(expressions: Sequence[str]) -> Callable[[str], object]:
    """Return a matcher of them all; what begins alike is tried once, which is what makes it fast."""
    beginnings: dict[str, list[str]] = {}
    for expression in expressions:
        beginning = next(text for text in (_ANYWHERE, "^", "") if expression.startswith(text))
        beginnings.setdefault(beginning, []).append(expression.removeprefix(beginning))
    joined = "|".join(f"{beginning}(?:{'|'.join(ends)})" for beginning, ends in beginnings.items())
    compiled = re.compile(joined)
    return compiled.search if "" in beginnings else compiled.match


def _list_folders(path: str) -> Iterator[str]:
    """Yield the folders that lead to `path`, and `path` itself: `a/b` gives `a`, `a/b`."""
    return accumulate(path.split("/"), "{}/{}".format) if path else iter(())
