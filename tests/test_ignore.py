"""Ignore rules in both dialects, checked against a real docker, a real git and the libraries' own matchers."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
from e2b_dockerfile_utils import PatternMatcher
from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit.errors import SettingError
from buildkit.source.dockerignore import DockerignoreRules, parse_dockerignore
from buildkit.source.gitignore import GitignoreRules, parse_gitignore
from buildkit.source.ignore import Rule

OBSERVED = json.loads((Path(__file__).parent / "dockerignore.json").read_text(encoding="utf-8"))
ACCEPTED = [case for case in OBSERVED["cases"] if case["kept"] is not None]
REFUSED = [case for case in OBSERVED["cases"] if case["kept"] is None]

NAMES = st.sampled_from(["a", "b", "ab", "lib", "workspace", ".env", "a.md", "[x]", "ü", "a b"])
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
SEGMENTS = st.sampled_from(
    [
        "a",
        "b",
        "lib",
        "workspace",
        "a.md",
        "*",
        "**",
        "***",
        "?",
        "a*",
        "*b",
        "**b",
        "**.md",
        "a**",
        "[ab]",
        "[^a]",
        "a[^b]",
        "*.md",
    ]
)
LINES = st.builds(
    lambda sign, lead, segments, tail: f"{sign}{lead}{'/'.join(segments)}{tail}",
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "/"]),
    st.lists(SEGMENTS, min_size=1, max_size=4),
    st.sampled_from(["", "/"]),
)
FILES = st.lists(LINES, max_size=8)


def is_excluded_by_a_rule(rules: DockerignoreRules | GitignoreRules, path: str) -> bool:
    rule = rules.explain(path)
    return rule is not None and not rule.include


def test_every_observed_case_is_there() -> None:
    assert (len(ACCEPTED), len(REFUSED)) == (374, 4)


def test_keeps_what_a_real_docker_kept() -> None:
    wrong = {}
    for case in ACCEPTED:
        rules = parse_dockerignore(case["dockerignore"], ".dockerignore")
        for is_excluded in (rules.excludes, partial(is_excluded_by_a_rule, rules)):
            kept = {path for path in OBSERVED["files"] if not is_excluded(path)}
            if kept != set(case["kept"]):
                wrong[case["dockerignore"]] = f"kept {sorted(kept)}, docker {sorted(case['kept'])}"
    assert not wrong


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: repr(case["dockerignore"]))
def test_refuses_what_a_real_docker_refused(case: dict[str, str]) -> None:
    with pytest.raises(SettingError) as caught:
        parse_dockerignore(f"# comment\n{case['dockerignore']}", "src/.dockerignore")
    assert "src/.dockerignore, line 2: " in caught.value.message
    assert repr(case["dockerignore"].strip()) in caught.value.message
    assert "line 2 of src/.dockerignore" in caught.value.fix


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("[z-a]", "the range `z-a` runs backwards"),
        ("a[", "a `[` is never closed"),
        ("[]a]", "`]` is not allowed there"),
        ("[a-]b", "`]` is not allowed there"),
        ("[*]", "`*` is not allowed there"),
        (r"[\d]", "`d` is not allowed there"),
        (r"build\out", r"`\o` is not an escape; folders are separated by `/`"),
        ("a\\", "it ends with a backslash"),
        ("!  ", "there is nothing after the `!`"),
    ],
)
def test_a_refused_pattern_names_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_dockerignore(pattern, ".dockerignore")
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("text", "path", "excluded"),
    [
        (r"a\*", "a*", True),
        (r"a\*", "ab", False),
        (r"v\d", "v1", True),
        (r"v\d", "v٣", False),
        (r"a\z", "a", True),
        (r"[\*]", "*", True),
        ("[a-c^]", "^", True),
        ("x[^a]y", "x/y", True),
        ("a+b", "a+b", True),
        ("^a", "^a", True),
        ("^a", "a", False),
        ("^a*", "ab", True),
        ("**.md", "docs/a.md", True),
        ("**b**", "ab/c", False),
        ("*/x\n!a", "a/x", True),
        ("a\n!a/x\na*", "a/x", False),
        (" # no comment", "# no comment", True),
        ("\ufeff# comment\na", "a", True),
        ("a\n\ufeffb", "b", False),
        ("! a\n", "a", False),
        ("//a", "a", True),
        ("../a", "a", False),
        ("*\n/!a", "a", False),
        ("/ a", "a", True),
        ("!../../**", "a", True),
    ],
)
def test_reads_odd_lines_as_docker_does(text: str, path: str, excluded: bool) -> None:
    assert parse_dockerignore(text, ".dockerignore").excludes(path) is excluded


def test_a_folder_excludes_everything_below_it_at_any_depth() -> None:
    rules = parse_dockerignore("**/node_modules\n!web/app/node_modules/keep", ".dockerignore")
    assert rules.excludes("web/app/node_modules/drop/index.js")
    assert not rules.excludes("web/app/node_modules/keep/index.js")


def test_an_exception_with_a_wildcard_reaches_into_excluded_folders() -> None:
    rules = parse_dockerignore("*\n!pkg/**/*.txt", ".dockerignore")
    assert not rules.excludes("pkg/deep/er/f.txt")
    assert rules.excludes("pkg/deep/er/f.log")
    assert not rules.prunes("pkg/deep")
    assert rules.prunes("other")


def test_a_folder_is_pruned_unless_a_later_exception_may_reach_into_it() -> None:
    rules = parse_dockerignore("*\n!src\n!docs/img/*.png\nsrc/gen\n**/node_modules", ".dockerignore")
    folders = ["src", "src/gen", "src/node_modules", "docs", "docs/img", "docs/other", "doc", "node_modules"]
    assert [folder for folder in folders if not rules.prunes(folder)] == ["src", "docs", "docs/img"]


def test_a_line_for_the_root_reaches_no_package() -> None:
    project = Path(__file__).parent / "projects" / "workspace-today"
    rules = parse_dockerignore((project / ".dockerignore").read_text(encoding="utf-8"), ".dockerignore")
    files = [path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()]
    assert "openhands-sdk/openhands/sdk/workspace/__init__.py" in files
    assert [path for path in files if rules.excludes(path)] == ["AGENTS.md"]


def test_explains_by_file_and_line() -> None:
    rules = parse_dockerignore("# docs\n*.md\n!README.md \n\nworkspace/\n", ".dockerignore")
    assert rules.explain("GUIDE.md") == Rule("*.md", ".dockerignore", 2, include=False)
    assert rules.explain("README.md") == Rule("!README.md", ".dockerignore", 3, include=True)
    assert rules.explain("workspace/a/b.py") == Rule("workspace/", ".dockerignore", 5, include=False)
    assert rules.explain("pkg/workspace/a.py") is None


def test_explains_a_file_in_an_excluded_folder() -> None:
    rules = parse_dockerignore("docs\n!**/keep.md", ".dockerignore")
    assert rules.explain("docs/drop.md") == Rule("docs", ".dockerignore", 1, include=False)
    assert rules.explain("docs/keep.md") == Rule("!**/keep.md", ".dockerignore", 2, include=True)


def test_no_rules_exclude_nothing() -> None:
    for rules in (parse_dockerignore("", ".dockerignore"), parse_gitignore([], "EXCLUDE")):
        assert not rules.excludes("a/b")
        assert not rules.prunes("a")
        assert rules.explain("a/b") is None


@settings(max_examples=300, deadline=None)
@given(FILES, st.lists(PATHS, min_size=1, max_size=12))
def test_docker_dialect_agrees_with_another_port_of_dockers_matcher(lines: list[str], paths: list[str]) -> None:
    rules = parse_dockerignore("\n".join(lines), ".dockerignore")
    matcher = PatternMatcher(lines)
    for path in paths:
        assert rules.excludes(path) == matcher.matches(path), path
        assert is_excluded_by_a_rule(rules, path) == matcher.matches(path), path


def test_a_pattern_that_may_stand_anywhere_is_looked_for_anywhere() -> None:
    rules = parse_gitignore(["*/"], "EXCLUDE")
    assert rules.excludes("a/b")
    assert not rules.excludes("a")


@settings(max_examples=300, deadline=None)
@given(FILES, PATHS, PATHS)
def test_a_pruned_folder_holds_no_kept_path(lines: list[str], folder: str, rest: str) -> None:
    for rules in (parse_dockerignore("\n".join(lines), ".dockerignore"), parse_gitignore(lines, "EXCLUDE")):
        if rules.prunes(folder):
            assert is_excluded_by_a_rule(rules, f"{folder}/{rest}")
            assert rules.excludes(f"{folder}/{rest}")


@settings(max_examples=300, deadline=None)
@given(FILES, st.lists(PATHS, min_size=1, max_size=12))
def test_joined_git_rules_answer_as_one_by_one(lines: list[str], paths: list[str]) -> None:
    rules = parse_gitignore(lines, "EXCLUDE")
    for path in paths:
        assert rules.excludes(path) == is_excluded_by_a_rule(rules, path), path


@pytest.mark.parametrize(
    "lines",
    [
        ["*.pyc"],
        ["/lib/"],
        ["lib/"],
        ["docs/*.md"],
        ["**/tests/**"],
        ["a/**/b"],
        ["[ab].txt"],
        [r"\#x"],
        ["*.md", "!r.md"],
    ],
    ids=" ".join,
)
def test_git_dialect_agrees_with_git(tmp_path: Path, lines: list[str]) -> None:
    paths = [
        "a.pyc",
        "lib/a",
        "pkg/lib/a",
        "docs/a.md",
        "docs/x/a.md",
        "pkg/tests/t",
        "a/b",
        "a/x/y/b",
        "a.txt",
        "#x",
        "r.md",
    ]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text("\n".join(lines), encoding="utf-8")
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    checked = subprocess.run(
        ["git", "-C", tmp_path, "check-ignore", "--no-index", *paths], capture_output=True, text=True, check=False
    )
    rules = parse_gitignore(lines, "EXCLUDE")
    ignored = [path for path in paths if rules.excludes(path)]
    assert ignored == checked.stdout.splitlines()
    assert ignored


def test_a_setting_brings_back_files_from_excluded_folders() -> None:
    rules = parse_gitignore(["*", "!*.md"], "EXCLUDE")
    assert not rules.excludes("docs/a.md")
    assert rules.excludes("docs/a.txt")


@pytest.mark.parametrize("line", ["/", "[a", "!", "a\\"])
def test_a_git_line_that_matches_nothing_is_refused(line: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_gitignore(["*.log", line], "EXCLUDE")
    assert "EXCLUDE, line 2: " in caught.value.message


def test_git_prunes_a_folder_only_where_nothing_can_come_back() -> None:
    assert parse_gitignore(["build/", "*.log"], "EXCLUDE").prunes("pkg/build")
    assert not parse_gitignore(["build/", "*.log"], "EXCLUDE").prunes("pkg")
    assert not parse_gitignore(["build/", "!keep.txt"], "EXCLUDE").prunes("build")
    assert not parse_gitignore(["a[^b]"], "EXCLUDE").prunes("a")
