"""Where the packages of a tree come from, and its version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from buildkit.errors import LocalError
from buildkit.source.checkout import describe
from buildkit.source.dependencies import DependencyKind, VersionTool, list_named, normalize
from buildkit.source.metadata import read_package
from buildkit.source.project import read_project
from tests.checkouts import PROJECTS, commit_all, run_git
from tests.test_checks import write

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.source.dependencies import Dependencies

POETRY_DYNAMIC = """
[build-system]
requires = ["poetry-core", "poetry-dynamic-versioning>=1"]
[tool.poetry-dynamic-versioning]
enable = true
"""
IN_ORDER = ["uv.lock", "pylock.toml", "poetry.lock", "pdm.lock", "requirements.txt", "pyproject.toml", "setup.py"]
KINDS = ["uv.lock", "pylock.toml", "poetry.lock", "pdm.lock", "requirements", "project", "setup.py", "none"]


def read(source: Path, requirements: str | None = None) -> Dependencies:
    return read_project(source, requirements).dependencies


@pytest.mark.parametrize(("first", "kind"), list(enumerate(KINDS)))
def test_the_first_that_exists_is_used(tmp_path: Path, first: int, kind: str) -> None:
    texts = {"pyproject.toml": "[project]\nname = 'x'\n", "requirements.txt": "iniconfig\n"}
    for name in IN_ORDER[first:]:
        write(tmp_path, name, texts.get(name, ""))
    found = read(tmp_path)
    assert found.kind == kind
    assert found.path == (IN_ORDER[first] if first < len(IN_ORDER) else "")
    assert found.kind.is_locked is (first < 4)


@pytest.mark.parametrize(
    ("name", "kind", "files"),
    [
        ("single-package", "uv.lock", ("pyproject.toml", "uv.lock")),
        ("poetry-app", "poetry.lock", ("poetry.lock", "pyproject.toml")),
        ("pdm-app", "pdm.lock", ("pdm.lock", "pyproject.toml")),
        (
            "requirements-app",
            "requirements",
            ("requirements.txt", "requirements/constraints.txt", "requirements/web.txt"),
        ),
        ("setup-py", "setup.py", ("setup.py",)),
        ("scm-package", "requirements", ("requirements.txt",)),
    ],
)
def test_files_are_all_that_is_read_to_install_them(name: str, kind: str, files: tuple[str, ...]) -> None:
    found = read(PROJECTS / name)
    assert (found.kind, found.files) == (kind, files)


def test_the_file_that_requirements_names_is_used_whatever_else_there_is(tmp_path: Path) -> None:
    write(tmp_path, "uv.lock")
    write(
        tmp_path, "deploy/prod.txt", "-r ../base.txt\n-r ../../outside.txt\n-r https://example.com/x.txt\n-c gone.txt\n"
    )
    write(tmp_path, "base.txt", "--requirement=deploy/prod.txt\niniconfig\n")
    found = read(tmp_path, "./deploy/prod.txt")
    assert (found.kind, found.path) == (DependencyKind.REQUIREMENTS, "deploy/prod.txt")
    assert found.files == ("base.txt", "deploy/prod.txt")
    for wrong in ("gone.txt", "deploy", "../outside.txt"):
        with pytest.raises(LocalError, match="REQUIREMENTS"):
            read(tmp_path, wrong)


def test_a_requirements_file_that_requires_nothing_is_not_used_beside_a_project(tmp_path: Path) -> None:
    write(tmp_path, "requirements.txt", "# see pyproject.toml\n-e .\n")
    assert read(tmp_path).kind is DependencyKind.REQUIREMENTS
    write(tmp_path, "pyproject.toml", "[project]\nname = 'x'\n")
    assert read(tmp_path).kind is DependencyKind.PROJECT


@pytest.mark.parametrize(
    ("path", "text", "names"),
    [
        ("uv.lock", 'version = 1\n\n[[package]]\nname = "ini_Config"\nversion = "1"\n', {"ini-config"}),
        ("pylock.toml", 'lock-version = "1.0"\n[[packages]]\nname = "a"\n\n[[packages]]\nname = "b"\n', {"a", "b"}),
        ("poetry.lock", '[[package]]\r\nname = "a"\r\n\r\n[package.dependencies]\r\nname = "b"\r\n', {"a"}),
        (
            "requirements.txt",
            "a==1 # x\n b[extra]>=2\n\nc ; python_version < '3'\n./d\n-e e\n--f\nG @ https://x\n",
            set("abcg"),
        ),
        ("pyproject.toml", '[project]\nname = "x"\ndependencies = ["a>=1", "B"]\n', {"a", "b"}),
        ("pyproject.toml", '[tool.poetry]\nname = "x"\n[tool.poetry.dependencies]\npython = "^3"\na = "*"\n', {"a"}),
        (
            "setup.py",
            "from setuptools import setup\nNEEDED = ['a', 'b>1']\nsetup(install_requires=NEEDED)\n",
            {"a", "b"},
        ),
        ("setup.py", "import setuptools\nsetuptools.setup(install_requires=open('x').readlines())\n", set()),
        ("setup.py", "this is not Python", set()),
        ("setup.cfg", "[metadata]\nname = x\n[options]\ninstall_requires =\n    a\n    b>1\n", {"a", "b"}),
    ],
)
def test_the_names_that_each_format_has(tmp_path: Path, path: str, text: str, names: set[str]) -> None:
    write(tmp_path, "pyproject.toml")  # which uv and Poetry read along with their locks
    (tmp_path / path).write_bytes(text.encode())
    assert list_named(tmp_path, read(tmp_path), read_package(tmp_path).project) == names


def test_names_are_normalized() -> None:
    assert normalize("Foo__Bar.-baz") == "foo-bar-baz"


def test_scripts_names_and_pythons_are_read_from_each_format() -> None:
    found = {name: read_project(PROJECTS / name) for name in ("poetry-app", "pdm-app", "setup-py", "scm-package")}
    assert {name: project.name for name, project in found.items()} == {
        "poetry-app": "Cook-Book",
        "pdm-app": "pdm-app",
        "setup-py": "Tiny.Service",
        "scm-package": "pair-chat",
    }
    assert {name: sorted(project.scripts) for name, project in found.items()} == {
        "poetry-app": ["cook"],
        "pdm-app": ["pdm-app"],
        "setup-py": ["tinyctl", "tinyd"],
        "scm-package": ["pair"],
    }
    assert {name: project.requires_python for name, project in found.items()} == {
        "poetry-app": ">=3.11,<4,<3.14",
        "pdm-app": ">=3.11",
        "setup-py": ">=3.6",
        "scm-package": ">=3.10,<3.13",
    }
    assert all(project.is_package for project in found.values())


@pytest.mark.parametrize(
    ("text", "tool"),
    [
        ('[build-system]\nrequires = ["setuptools>=68", "setuptools_scm[toml]>=8"]', VersionTool.SETUPTOOLS_SCM),
        (
            '[build-system]\nrequires = ["hatchling", "hatch-vcs"]\n[tool.hatch.version]\nsource = "vcs"',
            VersionTool.HATCH_VCS,
        ),
        ('[build-system]\nrequires = ["hatchling", "uv-dynamic-versioning"]', VersionTool.UV_DYNAMIC),
        ('[tool.hatch.version]\nsource = "uv-dynamic-versioning"', VersionTool.UV_DYNAMIC),
        (POETRY_DYNAMIC, VersionTool.POETRY_DYNAMIC),
        ('[tool.pdm.version]\nsource = "scm"', VersionTool.PDM),
        ('[build-system]\nrequires = ["hatchling"]\n[tool.hatch.version]\npath = "x/__init__.py"', None),
        ('[tool.pdm.version]\nsource = "file"', None),
    ],
)
def test_what_takes_the_version_from_git(tmp_path: Path, text: str, tool: VersionTool | None) -> None:
    write(tmp_path, "pyproject.toml", f'{text}\n[project]\nname = "X"\ndynamic = ["version"]\n')
    assert read_project(tmp_path).git_versions == ({"X": tool} if tool else {})


def test_a_version_that_is_written_down_does_not_come_from_git(tmp_path: Path) -> None:
    text = '[build-system]\nrequires = ["setuptools", "setuptools-scm"]\n[project]\nname = "x"\nversion = "1"\n'
    write(tmp_path, "pyproject.toml", text)
    assert read_project(tmp_path).git_versions == {}
    write(tmp_path, "setup.py", "from setuptools import setup\nsetup(use_scm_version=True)\n")
    assert read_project(tmp_path).git_versions == {"x": VersionTool.SETUPTOOLS_SCM}


@pytest.mark.parametrize(
    ("tag", "at_tag", "after"),
    [
        ("v1.2.3", "1.2.3", "1.2.4.dev1+g"),
        ("1.2", "1.2", "1.3.dev1+g"),
        ("release-2.0rc1", "2.0rc1", "2.1.dev1+g"),
        ("server/v0.9.0-beta.2", "0.9.0-beta.2", "0.9.1.dev1+g"),
        ("nightly", "0.0.dev0+g", "0.0.dev0+g"),
    ],
)
def test_the_version_of_a_commit(git_repo: Path, tag: str, at_tag: str, after: str) -> None:
    run_git(git_repo, "tag", tag)
    assert describe(git_repo).version.startswith(at_tag)
    assert describe(git_repo).text.startswith(f"{tag}-0-g")
    write(git_repo, "README.md", "edited")
    commit_all(git_repo)
    assert describe(git_repo).version.startswith(after)


def test_the_version_of_a_commit_without_tags_and_of_no_commit(git_repo: Path, tmp_path: Path) -> None:
    short = run_git(git_repo, "rev-parse", "--short", "HEAD")
    assert describe(git_repo) == (short, f"0.0.dev0+g{short}")
    (tmp_path / "empty").mkdir()
    run_git(tmp_path / "empty", "init", "-q")
    assert describe(tmp_path / "empty").version == "0.0.dev0"


def test_files_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_bytes(b"# coding: latin-1\n# \xe9\nfrom setuptools import setup\nsetup(name='x')\n")
    assert read_project(tmp_path).name == "x"
    (tmp_path / "requirements.txt").write_bytes("iniconfig\n".encode("utf-16"))
    with pytest.raises(LocalError, match=r"requirements\.txt cannot be read") as caught:
        read_project(tmp_path)
    assert caught.value.fix == "save requirements.txt as UTF-8 text"
