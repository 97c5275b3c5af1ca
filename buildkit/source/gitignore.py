"""Gitignore patterns in settings, as pathspec reads them."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from buildkit.source.ignore import join_expressions, parse_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from buildkit.source.ignore import Rule

_NAMED_GROUP = re.compile(r"\(\?P<\w+>")


class GitignoreRules:
    """Rules as in git: a pattern for files takes precedence over one for folders, whatever their order."""

    def __init__(self, rules: Sequence[Rule], patterns: Sequence[GitIgnoreSpecPattern]) -> None:
        self._rules = rules
        self._spec = GitIgnoreSpec(patterns, backend="simple")
        # Without an exception, it does not matter which pattern matches.
        self._any = None if any(rule.include for rule in rules) else _join_patterns(patterns)
        # A class such as `[^a]` may match the slash after a folder, and then nothing below it: it prunes nothing.
        self._folder_patterns = [pattern for pattern in patterns if "[" not in str(pattern)]

    def excludes(self, path: str) -> bool:
        """Return whether the file at `path` is left out."""
        return self._spec.match_file(path) if self._any is None else self._any.match(path) is not None

    def prunes(self, folder: str) -> bool:
        """Return whether nothing below `folder` is kept; False if a `!` might re-include something."""
        if not folder or self._any is None:
            return False
        return any(pattern.match_file(f"{folder}/") for pattern in self._folder_patterns)

    def explain(self, path: str) -> Rule | None:
        """Return the rule that decides about the file at `path`, or None if no rule matches it."""
        index = self._spec.check_file(path).index
        return None if index is None else self._rules[index]


def parse_gitignore(lines: Iterable[str], source: str) -> GitignoreRules:
    """Return the rules of gitignore patterns, which exclude what they match.

    Unlike in git, a `!` for files applies inside excluded folders, as in pathspec.

    Args:
        source: The setting that contains them, for errors and `explain`.

    Raises:
        SettingError: A line is not a pattern; git would ignore it silently.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # from `re`: a later Python may read `[[` differently
        parsed = parse_lines(lines, source, _parse_line)
        return GitignoreRules([rule for rule, _ in parsed], [pattern for _, pattern in parsed])


def _parse_line(line: str) -> tuple[GitIgnoreSpecPattern, bool] | None:
    pattern = GitIgnoreSpecPattern(line)
    if pattern.include is not None:
        return pattern, pattern.include
    if line.strip() and not line.startswith("#"):
        raise ValueError("it cannot match anything")
    return None


def _join_patterns(patterns: Iterable[GitIgnoreSpecPattern]) -> re.Pattern[str]:
    """Return one expression that matches, from the start of a path, what any of the patterns finds in it."""
    expressions = [_NAMED_GROUP.sub("(?:", pattern.regex.pattern) for pattern in patterns if pattern.regex]
    # Some are found anywhere in a path: `*/` is every path with a slash.
    anchored = (text if text.startswith("^") else f".*{text}" for text in expressions)
    return re.compile(join_expressions(anchored) or "(?!)")  # which matches nothing
