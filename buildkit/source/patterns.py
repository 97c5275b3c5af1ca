"""Patterns and pathspec: git's dialect as it reads it, for settings; Docker's as a pattern class for it."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

from pathspec import GitIgnoreSpec
from pathspec.pattern import RegexPattern
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from buildkit.source.ignore import IgnoreRules, Rule, parse_lines, translate_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NAMED_GROUP = re.compile(r"\(\?P<\w+>")


class DockerignorePattern(RegexPattern):
    """One line of a `.dockerignore` as a pattern for pathspec, for those who match by it themselves.

    What packs matches by `ignore.IgnoreRules`, which gives the same answers and also knows which folders Docker enters.

    >>> from pathspec import PathSpec
    >>> PathSpec.from_lines(DockerignorePattern, ["*.md", "!README.md"]).match_file("docs/guide.md")
    False
    """

    @classmethod
    def pattern_to_regex(cls, pattern: str) -> tuple[str | None, bool | None]:  # type: ignore[override]  # text only
        """Return the regular expression, and whether it excludes; twice None for a comment or a blank line.

        Raises:
            ValueError: Docker refuses the pattern.
        """
        return translate_line(pattern) or (None, None)


class GitignoreRules(IgnoreRules):
    """Rules as in git: a pattern for files weighs more than one for folders, whatever their order."""

    def __init__(
        self, rules: Sequence[Rule], expressions: Sequence[str], patterns: Sequence[GitIgnoreSpecPattern]
    ) -> None:
        """Keep `rules` with the expression of each, and pathspec's own pattern for what the expression cannot say."""
        super().__init__(rules, expressions)
        self._spec = GitIgnoreSpec(patterns, backend="simple")
        self._all_exclude = not any(rule.include for rule in rules)
        # A class may match the slash behind a folder (`[^a]`) and then nothing below it: such a pattern prunes nothing.
        self._folder_patterns = [pattern for pattern in patterns if "[" not in str(pattern)]

    def excludes(self, path: str) -> bool:
        """Return whether the file at `path` is left out."""
        return self._matches(path) if self._all_exclude else self._spec.match_file(path)

    def prunes(self, directory: str) -> bool:
        """Return whether nothing below `directory` is kept; never where a `!` might bring something back."""
        if not directory or not self._all_exclude:
            return False
        return any(pattern.match_file(f"{directory}/") for pattern in self._folder_patterns)

    def explain(self, path: str) -> Rule | None:
        """Return the rule that decides over the file at `path`, or None where no rule matches it."""
        index = self._spec.check_file(path).index
        return None if index is None else self._rules[index]


def parse_gitignore(lines: Iterable[str], source: str) -> GitignoreRules:
    """Return the rules of gitignore patterns, which exclude what they match.

    As pathspec reads them: unlike git's own, a `!` for files reaches into excluded folders.

    Args:
        source: The setting that they come from, for errors and `explain`.

    Raises:
        SettingError: A line is no pattern; git would pass over it in silence.
    """
    patterns: list[GitIgnoreSpecPattern] = []

    def translate(line: str) -> tuple[str, bool] | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # `re` on `[[`, which git takes as it stands
            pattern = GitIgnoreSpecPattern(line)
        if pattern.include is None or pattern.regex is None:
            if line.strip() and not line.startswith("#"):
                raise ValueError("it can match nothing")
            return None
        patterns.append(pattern)
        return _NAMED_GROUP.sub("(?:", pattern.regex.pattern), pattern.include

    rules, expressions = parse_lines(lines, source, translate)
    return GitignoreRules(rules, expressions, patterns)
