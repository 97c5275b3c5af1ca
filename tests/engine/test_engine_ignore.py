"""Which files of a folder the docker client of today sends, under ignore files that nobody has thought of."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from buildkit.errors import SettingError
from buildkit.source.dockerignore import parse_dockerignore
from buildkit.source.walk import walk_files
from tests.engine.buildkits import make_environment, run_buildkit

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = st.sampled_from(["a", "b", "ab", "aab", "lib", "x", "a.md", "^a", "a]", "*", "{a}", "!a", " a", "ü"])
TREES = st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), min_size=1, max_size=40, unique=True)
WORDS = ["a", "b", "ab", "lib", "a.md", "ü", "*", "**", "***", "?", "a*", "*b", "a*b*", "*.md", "**.md", "**b", "a**"]
ODD_WORDS = [
    "..",
    ".",
    "[ab]",
    "[^a]",
    "a[^b]",
    "*[^x]*",
    "^a",
    "^",
    "a]",
    "{a}",
    "(a|b)",
    "+",
    "a$",
    r"\*",
    r"\a",
    r"\S",
]
LINES = st.builds(
    lambda sign, lead, words, tail: f"{sign}{lead}{'/'.join(words)}{tail}",
    st.sampled_from(["", "", "!", "! ", " "]),
    st.sampled_from(["", "", "/", "./"]),
    st.lists(st.sampled_from(WORDS) | st.sampled_from([*WORDS, *ODD_WORDS]), min_size=1, max_size=4),
    st.sampled_from(["", "", "/", " "]),
)


class Client:
    """A docker client with an engine of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def list_sent(self, tree: Path, text: str) -> set[str] | None:
        """Return the files of a tree that are in the context, or None if docker refuses the ignore file."""
        dockerfile = tree.parent / "Dockerfile"
        dockerfile.write_text("FROM scratch\nCOPY . /\n")
        dockerfile.with_name("Dockerfile.dockerignore").write_text(text, encoding="utf-8")
        out = tree.parent / "out"
        command = ["docker", "buildx", "build", f"--file={dockerfile}", f"--output=type=local,dest={out}", str(tree)]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            assert "syntax error in pattern" in done.stderr or "illegal exclusion pattern" in done.stderr, done.stderr
            return None
        return {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}


@pytest.fixture(scope="module")
def client(engine_folder: Path) -> Iterator[Client]:
    folder = engine_folder / "ignore"
    environment = make_environment(folder)
    with run_buildkit(folder / "daemon", environment):
        yield Client({**environment, "DOCKER_HOST": f"unix://{folder}/daemon/d.sock"})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, st.lists(LINES, min_size=1, max_size=6))
@example(["a/b/x.py", "a/x.md", "x.py"], ["*", "!**/*.py"])
@example(["a/x", "a/b/x", "x"], ["*/x", "!a"])
@example(["a/x", "a/b"], ["a", "!a/x", "a*"])
@example(["a/b", "x"], ["!../../**"])
@example(["!a", "a"], ["/!a", "a"])
def test_the_client_of_today_keeps_what_is_packed(client: Client, paths: list[str], lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name, "tree")
        for path in paths:
            if not any(other.startswith(f"{path}/") for other in paths):
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).touch()
        text = "\n".join(lines)
        assert list_packed(tree, text) == client.list_sent(tree, text)


def list_packed(tree: Path, text: str) -> set[str] | None:
    """Return the files of a tree that its ignore file leaves in, or None if it is refused."""
    try:
        rules = parse_dockerignore(text, ".dockerignore")
    except SettingError:
        return None
    return {path for path in walk_files(tree, os.listdir(tree), rules.prunes) if not rules.excludes(path)}
