"""The rules of a `.dockerignore`, as BuildKit has read it since 2022."""

from __future__ import annotations

import posixpath
import re
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import SettingError
from buildkit.files import read_bounded
from buildkit.source.globs import translate_glob
from buildkit.source.ignore import join_expressions, parse_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from buildkit.source.ignore import Rule

DOCKERIGNORE = ".dockerignore"
_MAX_BYTES = 16_000_000

_Matched = dict[int, bool]  # by the number of a run, whether it excludes


class _Pattern(NamedTuple):
    """The pattern of a line, as docker cleans it, and a regular expression for the whole of a path."""

    text: str
    expression: str


class _Run:
    """Neighbouring rules that all exclude, or all re-include. One regular expression matches what any of them does."""

    def __init__(self, rules: Sequence[tuple[Rule, _Pattern]], *, excludes: bool) -> None:
        self.excludes = excludes
        joined = join_expressions(pattern.expression for _, pattern in rules)
        self.match = re.compile(rf"(?:{joined})\Z").match
        self._rules = rules

    def find_last(self, path: str) -> Rule:
        """Return the last rule that matches `path` or one of its folders; there is one."""
        places = [*_list_places(path)]
        return next(
            rule
            for rule, pattern in reversed(self._rules)
            if any(re.fullmatch(pattern.expression, place) for place in places)
        )

    def may_match_below(self, folder: str) -> bool:
        """Return whether a rule might match something inside `folder`."""
        for _, pattern in self._rules:
            beginning = re.split(r"[*?\[\\^]", pattern.text, maxsplit=1)[0]
            if beginning.startswith(f"{folder}/"):
                return True
            if beginning != pattern.text and f"{folder}/".startswith(beginning):
                return True
        return False


class DockerignoreRules:
    """Ordered rules. Whether a path is excluded depends on the last one that matches it or one of its folders.

    Like docker, this matches each folder on the way to a file, and skips a rule where it could change nothing. A rule
    that matched a folder applies to everything in it; one that was skipped did not match. So `*/x` and `!a` leave `a/x`
    out: when `a` itself was matched, there was nothing to re-include.

    See `MatchesUsingParentResults` in https://github.com/moby/patternmatcher.
    """

    def __init__(self, rules: Sequence[tuple[Rule, _Pattern]]) -> None:
        by_sign = groupby(rules, key=lambda pair: pair[0].include)
        self._runs = [_Run([*run], excludes=not include) for include, run in by_sign]
        self._folders: dict[str, _Matched] = {"": {}}

    def excludes(self, path: str) -> bool:
        """Return whether the file at `path` is left out."""
        above = self._match_folder(path.rpartition("/")[0])
        excluded = False
        for number, run in enumerate(self._runs):  # as `_match`, without a record of it: this is for every file
            if number in above or (run.excludes is not excluded and run.match(path)):
                excluded = run.excludes
        return excluded

    def prunes(self, folder: str) -> bool:
        """Return whether nothing below `folder` is kept, so that it need not be walked."""
        number, excluded = next(reversed(self._match_folder(folder).items()), (0, False))
        later = self._runs[number + 1 :]
        return excluded and not any(run.may_match_below(folder) for run in later if not run.excludes)

    def explain(self, path: str) -> Rule | None:
        """Return the rule that decides about the file at `path`, or None if no rule matches it."""
        matched = self._match(path, self._match_folder(path.rpartition("/")[0]))
        return self._runs[next(reversed(matched))].find_last(path) if matched else None

    def _match_folder(self, folder: str) -> _Matched:
        matched = self._folders.get(folder)
        if matched is None:
            matched = {}
            for place in _list_places(folder):
                if place not in self._folders:
                    self._folders[place] = self._match(place, matched)
                matched = self._folders[place]
        return matched

    def _match(self, path: str, above: _Matched) -> _Matched:
        """Return the runs that match `path`, given those that match the folder it is in."""
        matched: _Matched = {}
        excluded = False
        for number, run in enumerate(self._runs):
            if number in above or (run.excludes is not excluded and run.match(path)):
                matched[number] = excluded = run.excludes
        return matched


def read_dockerignore(source: Path, dockerfile: str | None) -> DockerignoreRules | None:
    """Return the rules that docker would apply to a tree, or None if it has no ignore file.

    Args:
        dockerfile: Path of the tree's own Dockerfile, if it is used: `NAME.dockerignore` beside it comes first.

    Raises:
        SettingError: The file cannot be read, or docker refuses a line.
    """
    for name in [f"{dockerfile}{DOCKERIGNORE}", DOCKERIGNORE] if dockerfile else [DOCKERIGNORE]:
        try:
            text = read_bounded(source / name, _MAX_BYTES, follow=True).decode("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"{name} cannot be read: {error}", f"save {name} as UTF-8 text") from error
        return parse_dockerignore(text, name)
    return None


def parse_dockerignore(text: str, source: str) -> DockerignoreRules:
    """Return the rules of a `.dockerignore`, as docker reads it.

    Args:
        source: The name of the file in errors and in `explain`.

    Raises:
        SettingError: Docker refuses a line.
    """
    return DockerignoreRules(parse_lines(text.removeprefix("\ufeff").split("\n"), source, _parse_line))


def _parse_line(line: str) -> tuple[_Pattern, bool] | None:
    """Return the pattern of a line, and whether it excludes; None for a comment or a blank line.

    Raises:
        ValueError: Docker refuses the pattern.
    """
    text = line.strip()
    if line.startswith("#") or not text:
        return None
    sign = "!" if text.startswith("!") else ""
    cleaned = _clean(text.removeprefix("!").strip())
    # docker removes the slash that anchors a pattern, then reads the line again: to it, `/!a` is `!a`.
    again = _clean((sign + (cleaned if cleaned == "/" else cleaned.removeprefix("/"))).strip())
    pattern = again.removeprefix("!")
    if not pattern:
        raise ValueError("there is nothing after the `!`")
    return _Pattern(pattern, translate_glob(pattern)), again == pattern


def _clean(pattern: str) -> str:
    """Return `pattern` as Go's `path.Clean` does (https://pkg.go.dev/path#Clean); an empty pattern stays empty."""
    return posixpath.normpath(re.sub("^/+", "/", pattern)) if pattern else ""


def _list_places(path: str) -> Iterator[str]:
    """Yield the folders that lead to `path`, and `path` itself: `a/b` gives `a`, `a/b`."""
    return accumulate(path.split("/"), "{}/{}".format)
