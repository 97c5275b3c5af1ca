"""How the packages of an image are installed: what is told apart, and in which order the Dockerfile does it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildkit.installation import name_version, name_versions, needs_whole_source
from buildkit.source.dependencies import Dependencies, DependencyKind, GitDescription, VersionTool
from tests.rendering import PROJECT, VERSION, Tree, render

if TYPE_CHECKING:
    from collections.abc import Mapping

SEPARATE = Path(__file__).parents[1] / "templates/programs/separate.py"
DESCRIPTION = GitDescription("v1.2.3-4-g0506352", "1.2.4.dev4+g0506352")
KINDS = {
    DependencyKind.PYLOCK: "pylock.toml",
    DependencyKind.POETRY_LOCK: "poetry.lock",
    DependencyKind.PDM_LOCK: "pdm.lock",
    DependencyKind.REQUIREMENTS: "requirements.txt",
    DependencyKind.PROJECT: "pyproject.toml",
    DependencyKind.SETUP: "setup.py",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "requirements.txt").write_text("six==1.17.0\n")
    return tmp_path


def make_tree(source: Path, kind: DependencyKind, **changes: object) -> Tree:
    path = KINDS.get(kind, "")
    files = tuple(sorted({path, "pyproject.toml"} - {""}))
    if kind is DependencyKind.REQUIREMENTS:
        files = (path,)
    project = PROJECT._replace(members=(), dependencies=Dependencies(kind, path, files), **changes)  # type: ignore[arg-type]  # values by name
    return Tree(path=source, project=project)


def read_stage(text: str, name: str) -> str:
    """Return the instructions of a stage."""
    _, below = re.split(rf"^FROM \S+ AS {name}\n", text, maxsplit=1, flags=re.MULTILINE)
    return re.split(r"^FROM ", below, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["source", "binary-minimal"])
def test_the_third_party_layers_depend_on_the_list_of_packages_alone(
    source: Path, kind: DependencyKind, target: str
) -> None:
    text = render(target, tree=make_tree(source, kind)).text
    stage = read_stage(text, "deps")
    copied = [line for line in stage.splitlines() if line.startswith("COPY") and ".runtime-build" not in line]
    assert copied == ["COPY --from=lock /lock/ /lock/"]
    assert "uv pip install --python /agent-server/.venv/bin/python" in stage
    assert "FROM uv-tool AS deps" in text
    for run in re.findall(r"^RUN (?:--mount=\S+ \\?\s*)*((?:.*\\\n)*.*)$", text, re.MULTILINE):
        subprocess.run(["sh", "-n"], input=run, text=True, check=True)


def test_a_lock_is_read_by_the_tool_that_wrote_it_and_its_hashes_are_kept(source: Path) -> None:
    poetry = read_stage(render(tree=make_tree(source, DependencyKind.POETRY_LOCK)).text, "lock")
    assert 'uv tool run --python "$(cat /lock/python)" --from "poetry==${POETRY_VERSION}"' in poetry
    assert "--all-groups" not in poetry
    development = read_stage(render("source", tree=make_tree(source, DependencyKind.POETRY_LOCK)).text, "lock")
    assert "--all-groups" in development
    pdm = read_stage(render(tree=make_tree(source, DependencyKind.PDM_LOCK)).text, "lock")
    assert "pdm export --output /tmp/third-party.txt --prod" in pdm
    assert "hashes" not in poetry + pdm


def test_only_what_no_file_lists_needs_the_whole_source(source: Path) -> None:
    whole = {kind for kind in KINDS if "COPY . ./" in read_stage(render(tree=make_tree(source, kind)).text, "lock")}
    assert whole == {DependencyKind.PROJECT, DependencyKind.SETUP}
    (source / "requirements.txt").write_text("-e .[web]\nsix\n")
    stage = read_stage(render(tree=make_tree(source, DependencyKind.REQUIREMENTS)).text, "lock")
    assert "COPY . ./" in stage
    assert "uv pip compile" in stage


@pytest.mark.parametrize(
    ("line", "is_own"),
    [
        ("-e .", True),
        (".", True),
        (".[web]", True),
        ("./libs/words", True),
        ("../words", True),
        ("--editable=./libs/words", True),
        ("words @ file:///project/libs/words", True),
        ("words[all] @ file:libs/words ; python_version > '3'", True),
        ("-e git+https://example.com/words.git#egg=words", False),
        ("words @ git+https://example.com/words.git", False),
        ("words==1.0", False),
        ("-r ./more.txt", False),
        ("# .", False),
    ],
)
def test_a_folder_of_the_source_is_not_a_third_party_package(tmp_path: Path, line: str, is_own: bool) -> None:
    (tmp_path / "list.txt").write_text(f"six==1.17.0 \\\n    --hash=sha256:0\n{line}\n")
    (tmp_path / "out").mkdir()
    subprocess.run([sys.executable, SEPARATE, "list.txt", "out"], cwd=tmp_path, check=True)
    assert ((tmp_path / "out/own.txt").read_text() != "") is is_own
    assert (f"\n{line}\n" in (tmp_path / "out/list.txt").read_text()) is not is_own
    assert "--hash=sha256:0" in (tmp_path / "out/list.txt").read_text()
    found = needs_whole_source(tmp_path, Dependencies(DependencyKind.REQUIREMENTS, "list.txt", ("list.txt",)))
    assert found is is_own


def test_a_folder_is_named_relative_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    lines = [f"words[all] @ file://{tmp_path}/libs/words ; python_version > '3'", f"-e file://{tmp_path}"]
    (tmp_path / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    subprocess.run([sys.executable, SEPARATE, "list.txt", "out"], cwd=tmp_path, check=True)
    own = (tmp_path / "out/own.txt").read_text().splitlines()
    assert own == ["./libs/words[all] ; python_version > '3'", "-e ./."]


def test_the_folders_of_a_pylock_are_left_out_of_it(tmp_path: Path) -> None:
    packages = [
        '[[packages]]\nname = "six"\nversion = "1.17.0"\n',
        '[[packages]]\nname = "own"\ndirectory = { path = ".", editable = true }\n',
        '[[packages]]\nname = "words"\n\n[packages.directory]\npath = "libs/words"\n',
    ]
    (tmp_path / "pylock.toml").write_text('lock-version = "1.0"\n\n' + "\n".join(packages))
    (tmp_path / "out").mkdir()
    subprocess.run([sys.executable, SEPARATE, "pylock.toml", "out"], cwd=tmp_path, check=True)
    left = (tmp_path / "out/pylock.toml").read_text()
    assert re.findall(r'name = "(\w+)"', left) == ["six"]
    assert left.startswith('lock-version = "1.0"')
    assert (tmp_path / "out/own.txt").read_text() == "./.\n./libs/words\n"


@pytest.mark.parametrize(
    ("versions", "names"),
    [
        ({}, []),
        (
            {"Tiny.Service": VersionTool.SETUPTOOLS_SCM},
            ["SETUPTOOLS_SCM_PRETEND_VERSION", "SETUPTOOLS_SCM_PRETEND_VERSION_FOR_TINY_SERVICE"],
        ),
        ({"a": VersionTool.UV_DYNAMIC, "b": VersionTool.UV_DYNAMIC}, ["UV_DYNAMIC_VERSIONING_BYPASS"]),
        ({"a": VersionTool.POETRY_DYNAMIC}, ["POETRY_DYNAMIC_VERSIONING_BYPASS"]),
        ({"a": VersionTool.PDM}, ["PDM_BUILD_SCM_VERSION"]),
    ],
)
def test_each_build_plugin_is_given_the_version(versions: Mapping[str, VersionTool], names: list[str]) -> None:
    given = name_versions(PROJECT._replace(git_versions=versions), DESCRIPTION)
    assert given == dict.fromkeys(names, "1.2.4.dev4+g0506352")


@pytest.mark.parametrize("kind", [*KINDS, DependencyKind.UV_LOCK])
def test_a_version_from_git_does_not_reach_the_third_party_layers(source: Path, kind: DependencyKind) -> None:
    tree = make_tree(source, kind, git_versions={"tiny": VersionTool.HATCH_VCS})
    tree.description = DESCRIPTION
    text = render(tree=tree).text
    assert "1.2.4.dev4+g0506352" in read_stage(text, "builder")
    assert "1.2.4.dev4+g0506352" not in read_stage(text, "deps")
    assert "FROM lock AS deps" not in text or "1.2.4.dev4" not in read_stage(text, "lock")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("v1.2.3-4-g0506352", "v1.2.3-4-g0506352"),
        ("v1.2.3-0-g0506352", "v1.2.3"),
        ("0506352", "0506352-python"),
        ("unknown", "0506352-python"),
        ("v1.2.3-4-gfffffff", "0506352-python"),
    ],
)
def test_the_images_version_is_what_git_describe_says_of_the_packed_commit(text: str, version: str) -> None:
    description = GitDescription(text, "1")
    assert name_version(VERSION, description) == version
    assert name_version(replace(VERSION, dirty=True), description) == f"{version}-dirty"


def test_build_packages_are_in_the_stages_that_build_and_not_in_the_image(source: Path) -> None:
    text = render(tree=make_tree(source, DependencyKind.SETUP), build_packages=("libpq-dev",)).text
    assert "libpq-dev" in read_stage(text, "uv-tool")
    assert text.count("libpq-dev") == read_stage(text, "uv-tool").count("libpq-dev")
