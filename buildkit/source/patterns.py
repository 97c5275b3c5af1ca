"""Gitignore patterns in settings, as pathspec reads them."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from buildkit.source.ignore import IgnoreRules, Rule, parse_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NAMED_GROUP = re.compile(r"\(\?P<\w+>")


class GitignoreRules(IgnoreRules):
    """Rules as in git: a pattern for files takes precedence over one for folders, whatever their order.

    Args:
        expressions: The regular expression of each rule.
        patterns: pathspec's own pattern of each rule, for what an expression cannot express.
    """

    def __init__(
        self, rules: Sequence[Rule], expressions: Sequence[str], patterns: Sequence[GitIgnoreSpecPattern]
    ) -> None:
        super().__init__(rules, expressions)
        self._spec = GitIgnoreSpec(patterns, backend="simple")
        self._all_exclude = not any(rule.include for rule in rules)
        # A class such as `[^a]` may match the slash after a folder, and then nothing below it: it prunes nothing.
        self._folder_patterns = [pattern for pattern in patterns if "[" not in str(pattern)]

    def excludes(self, path: str) -> bool:
        """Return whether the file at `path` is left out."""
        return self._matches(path) if self._all_exclude else self._spec.match_file(path)

    def prunes(self, directory: str) -> bool:
        """Return whether nothing below `directory` is kept; False if a `!` might re-include something."""
        if not directory or not self._all_exclude:
            return False
        return any(pattern.match_file(f"{directory}/") for pattern in self._folder_patterns)

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
    patterns: list[GitIgnoreSpecPattern] = []

    def translate(line: str) -> tuple[str, bool] | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # from `re`, about `[[`
            pattern = GitIgnoreSpecPattern(line)
        if pattern.include is None or pattern.regex is None:
            if line.strip() and not line.startswith("#"):
                raise ValueError("it cannot match anything")
            return None
        patterns.append(pattern)
        return _NAMED_GROUP.sub("(?:", pattern.regex.pattern), pattern.include

    rules, expressions = parse_lines(lines, source, translate)
    return GitignoreRules(rules, expressions, patterns)
