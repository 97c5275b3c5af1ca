"""What a project file says: members, what is packed by default, what must be there; and nothing that it could crash."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildkit.errors import LocalError
from buildkit.source.dependencies import DependencyKind
from buildkit.source.project import find_spec, read_project
from tests.checkouts import PROJECTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from buildkit.models import Project

UNREADABLE_README = "[build-system]\nbuild-backend = 'hatchling.build'\n[project]\nreadme = 'gone.md'"
OCTOBER = ("openhands/agent_server", "openhands/sdk", "openhands/tools", "openhands/workspace")
TODAY = ("openhands-agent-server", "openhands-sdk", "openhands-tools", "openhands-workspace")


def write_project(folder: Path, text: str, *paths: str) -> Path:
    """Make a source tree with that project file; a path with a slash at its end becomes a member."""
    for path in ("uv.lock", *paths):
        target = folder / path
        if path.endswith("/"):
            target.mkdir(parents=True)
            (target / "pyproject.toml").touch()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def refuse(folder: Path, text: str, *paths: str) -> LocalError:
    with pytest.raises(LocalError) as caught:
        read_project(write_project(folder, text, *paths))
    assert caught.value.fix
    return caught.value


def read(name: str) -> Project:
    return read_project(PROJECTS / name)


def test_members_beside_one_another() -> None:
    assert read("workspace-today").members == TODAY
    assert set(read("workspace-today").roots) == {"pyproject.toml", "uv.lock", "LICENSE", "README.md", *TODAY}


def test_members_inside_one_folder_that_is_packed_whole() -> None:
    project = read("workspace-october")
    assert project.members == OCTOBER
    assert "openhands" in project.roots
    assert not [root for root in project.roots if root.startswith("openhands/")]
    assert "MANIFEST.in" in project.roots


def test_globs_of_members_and_those_excluded() -> None:
    assert read("glob-members").members == ("packages/alpha", "packages/beta")


@pytest.mark.parametrize("name", ["single-package", "path-source"])
def test_without_a_workspace_the_whole_tree_is_packed(name: str) -> None:
    project = read(name)
    assert (project.members, project.roots) == ((), ())


def test_sources_named_by_path_belong_to_a_workspace(tmp_path: Path) -> None:
    text = "[tool.uv.workspace]\nmembers = ['a']\n[tool.uv.sources]\nfoo = {path = 'vendor/foo'}"
    roots = read_project(write_project(tmp_path, text, "a/", "vendor/foo/x.py", "vendor/other/x.py")).roots
    assert "vendor/foo" in roots
    assert "vendor/other" not in roots


def test_required_is_what_the_build_cannot_do_without() -> None:
    assert read("single-package").required == ("README.md", "pyproject.toml", "uv.lock")
    assert "openhands-sdk/pyproject.toml" in read("workspace-today").required


def test_a_dockerfile_of_the_sources_own_requires_nothing(tmp_path: Path) -> None:
    assert read_project(tmp_path, is_built=False).required == ()
    assert read_project(write_project(tmp_path, UNREADABLE_README), is_built=False).required == ()


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ('[tool.uv.build-backend]\nmodule-name = "mod"', "src/mod"),
        ('[tool.uv.build-backend]\nmodule-name = "mod"\nmodule-root = ""', "mod"),
        ('[tool.hatch.build.targets.wheel]\npackages = ["lib/mod"]', "lib/mod"),
        ('[tool.setuptools.packages.find]\nwhere = ["lib"]\ninclude = ["mod*"]', "lib/mod"),
        ('[tool.setuptools.packages.find]\ninclude = ["mod", "mod.*"]', "mod"),
        ('[tool.setuptools]\npackages = ["mod.sub"]', "mod"),
        ('[tool.flit.module]\nname = "mod"', "mod"),
        ('[[tool.poetry.packages]]\ninclude = "mod"\nfrom = "lib"', "lib/mod"),
        ('[[tool.poetry.packages]]\ninclude = "mod"', "mod"),
        ('[[tool.poetry.packages]]\ninclude = "mod/**/*"', "mod"),
        ('[tool.poetry]\nname = "My-Mod"', "my_mod"),
        ('[project]\nname = "my-mod.x"', "my_mod_x"),
        ('[project]\nname = "Mod"', "mod"),
        ('[project]\nname = "mod"', "MOD"),
        ('[project]\nname = "mod"', "src/mod"),
        ('[project]\nname = "other"', "src/mod"),
        ("", "mod"),
    ],
)
def test_package_is_found_where_each_backend_says(tmp_path: Path, text: str, module: str) -> None:
    paths = [f"{module}/__init__.py", "docs/conf.py", "tests/test_mod.py"]
    assert read_project(write_project(tmp_path, text, *paths)).packages == (module,)


def test_every_package_that_poetry_includes_is_found(tmp_path: Path) -> None:
    text = '[tool.poetry]\npackages = [{include = "mod/**/*"}, {include = "third_party/**/*"}, {include = "x.lock"}]'
    paths = ["mod/__init__.py", "third_party/__init__.py", "x.lock"]
    assert read_project(write_project(tmp_path, text, *paths)).packages == ("mod", "third_party")


def test_module_that_is_one_file_is_a_package_too(tmp_path: Path) -> None:
    assert read_project(write_project(tmp_path, '[project]\nname = "mod"', "mod.py")).packages == ("mod.py",)


def test_root_of_a_workspace_may_be_a_member_of_it(tmp_path: Path) -> None:
    text = '[tool.uv.workspace]\nmembers = [".", "a"]\n[build-system]\nrequires = ["x"]\n[project]\nname = "mod"'
    project = read_project(write_project(tmp_path, text, "a/", "mod/__init__.py"))
    assert project.members == ("a",)
    assert {"a", "mod"} <= set(project.roots)


def test_a_tree_without_a_project_file_has_no_dependencies(tmp_path: Path) -> None:
    project = read_project(tmp_path)
    assert project.dependencies.kind is DependencyKind.NONE
    assert project.required == ()


def test_workspace_without_a_lock_file_says_how_to_make_it(tmp_path: Path) -> None:
    write_project(tmp_path, "[tool.uv.workspace]\nmembers = ['a']", "a/")
    (tmp_path / "uv.lock").unlink()
    with pytest.raises(LocalError) as caught:
        read_project(tmp_path)
    assert caught.value.message == "missing in the source directory: uv.lock"
    assert "uv lock" in caught.value.fix


@pytest.mark.parametrize(
    "line",
    ['readme = "docs/README.rst"', 'readme = {file = "docs/README.rst"}', 'license = {file = "docs/README.rst"}'],
)
def test_file_without_which_the_backend_does_not_build_is_required(tmp_path: Path, line: str) -> None:
    text = f"[build-system]\nbuild-backend = 'hatchling.build'\n[project]\n{line}"
    assert "docs/README.rst" in refuse(tmp_path, text, "src/x.py").message
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.rst").touch()
    assert "docs/README.rst" in read_project(tmp_path).required


@pytest.mark.parametrize("system", ["", "[build-system]\nbuild-backend = 'setuptools.build_meta'\n"])
def test_file_that_the_build_can_do_without_is_not_required(tmp_path: Path, system: str) -> None:
    write_project(tmp_path, f"{system}[project]\nreadme = 'README.md'\nlicense = {{file = 'LICENSE'}}", "src/x.py")
    assert read_project(tmp_path).required == ("pyproject.toml", "uv.lock")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.uv.workspace]\nmembers = ['bare']", "'bare' has no pyproject.toml"),
        ("[tool.uv.workspace]\nmembers = ['../x']", "outside the source directory"),
        ("[tool.uv.workspace]\nmembers = ['/x']", "outside the source directory"),
        ("[tool.uv.workspace]\nmembers = ['a**']", "is not a valid pattern"),
        ('[tool.uv.workspace]\nmembers = ["a\\u0000"]', "control character"),
        ("[tool.uv.sources]\nx = {path = '../x'}", "outside the source directory"),
        ("[tool.uv.sources]\nx = {path = 'gone'}", "'gone', which is missing"),
        ("[build-system]\nbuild-backend = 'x'\n[project]\nreadme = '/etc/passwd'", "outside the source directory"),
        ("not toml", "cannot be read"),
        ("x = 1\nx = 2", "cannot be read"),
    ],
)
def test_project_file_that_cannot_be_followed_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refuse(tmp_path, text, "bare/x").message


def test_member_that_is_locked_must_be_there(tmp_path: Path) -> None:
    write_project(tmp_path, "[tool.uv.workspace]\nmembers = ['a', 'gone']", "a/")
    assert read_project(tmp_path).members == ("a",)  # uv does without it, too
    (tmp_path / "uv.lock").write_text('[[package]]\nname = "gone"\nsource = { editable = "gone" }\n')
    with pytest.raises(LocalError, match="'gone' is missing"):
        read_project(tmp_path)


def test_workspace_without_members_and_lock_is_none(tmp_path: Path) -> None:
    write_project(tmp_path, "[tool.uv.workspace]\nmembers = ['gone']", "mod/__init__.py", "requirements.txt")
    (tmp_path / "uv.lock").unlink()
    project = read_project(tmp_path)
    assert (project.roots, project.packages) == ((), ("mod",))


def test_project_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(LocalError, match="cannot be read"):
        read_project(tmp_path)


@pytest.mark.parametrize(
    ("paths", "spec"),
    [
        ((), None),
        (("a/one.spec",), "a/one.spec"),
        (("a/one.spec", "a/two.spec"), None),
        (("a/one.spec", "b/agent-server.spec"), "b/agent-server.spec"),
        (("a/build/old.spec", "a/.venv/x.spec", "a/one.spec"), "a/one.spec"),
        (("top.spec",), "top.spec"),
    ],
)
def test_spec_is_the_only_one_or_the_one_that_has_the_name(
    tmp_path: Path, paths: tuple[str, ...], spec: str | None
) -> None:
    write_project(tmp_path, "", "a/x", "b/x", *paths)
    assert find_spec(tmp_path, ["a", "b"], None) == spec


def test_spec_that_is_named_must_be_there(tmp_path: Path) -> None:
    write_project(tmp_path, "", "a/one.spec")
    assert find_spec(tmp_path, ["a"], "./a/one.spec") == "a/one.spec"
    for wrong in ("a/two.spec", "../x.spec", "/x.spec", "a"):
        with pytest.raises(LocalError, match="PYINSTALLER_SPEC"):
            find_spec(tmp_path, ["a"], wrong)


KEYS = [
    "project",
    "tool",
    "uv",
    "workspace",
    "members",
    "exclude",
    "sources",
    "path",
    "name",
    "readme",
    "license",
    "file",
]
KEYS += ["build-system", "package", "build-backend", "module-name", "module-root", "hatch", "build", "targets", "wheel"]
KEYS += ["packages", "setuptools", "find", "where", "flit", "module", "poetry", "include", "from"]
WORDS = st.sampled_from(["", ".", "a", "a/*", "**", "a**", "[", "..", "/", "a/../b", "a\u0000", "\ud7ff", "x" * 300])
VALUES = st.recursive(
    st.booleans() | st.integers(0, 9) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


def to_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {to_toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(to_toml(inner) for inner in value) + "]"
    return json.dumps(value)


@given(st.dictionaries(st.sampled_from(["project", "tool", "build-system"]), VALUES))
def test_any_project_file_at_all_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, tables: Mapping[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("source")
    write_project(folder, "".join(f"{name} = {to_toml(value)}\n" for name, value in tables.items()), "a/", "src/x")
    try:
        assert "pyproject.toml" in read_project(folder).required
    except (LocalError, OSError) as error:
        assert "Traceback" not in str(error)  # noqa: PT017 - both ends are right
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("label", ["Source", "source-code", "Repository", "GitHub"])
def test_source_url_of_the_project_or_of_the_first_member_that_has_one(tmp_path: Path, label: str) -> None:
    workspace = '[tool.uv.workspace]\nmembers = ["a", "b"]\n'
    write_project(tmp_path, workspace, "a/", "b/")
    assert read_project(tmp_path).source_url is None
    (tmp_path / "b" / "pyproject.toml").write_text(f'[project.urls]\n"{label}" = "https://example.com/b"\n')
    assert read_project(tmp_path).source_url == "https://example.com/b"
    (tmp_path / "pyproject.toml").write_text(f'{workspace}[project.urls]\n{label} = "https://example.com/root"\n')
    assert read_project(tmp_path).source_url == "https://example.com/root"


def test_a_member_whose_project_file_is_invalid_is_named(tmp_path: Path) -> None:
    write_project(tmp_path, '[tool.uv.workspace]\nmembers = ["a"]', "a/")
    (tmp_path / "a" / "pyproject.toml").write_text("not toml")
    with pytest.raises(LocalError, match=r"^a/pyproject\.toml cannot be read"):
        read_project(tmp_path)


def test_files_that_setup_py_names_are_required(tmp_path: Path) -> None:
    shutil.copytree(PROJECTS / "setup-py", tmp_path / "tree")
    assert read_project(tmp_path / "tree").required == ("README.rst", "setup.py")


def test_files_that_members_need_are_required(tmp_path: Path) -> None:
    write_project(tmp_path, "[tool.uv.workspace]\nmembers = ['a']", "a/")
    (tmp_path / "a" / "pyproject.toml").write_text(UNREADABLE_README)
    with pytest.raises(LocalError, match=r"a/gone\.md"):
        read_project(tmp_path)
