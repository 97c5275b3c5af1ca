"""Which files may be packed in a tree that is no workspace: what git tracks, and what the build needs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from buildkit.errors import LocalError
from tests.checkouts import PROJECTS, commit_all, run_git
from tests.trees import check_explained, explain, find_changes, put, select


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A checkout that is no uv workspace."""
    source = Path(shutil.copytree(PROJECTS / "requirements-app", tmp_path / "service"))
    put(source, "vendor/lib/m.py", "docs/index.md", "built/app.js", "Makefile")
    (source / ".gitignore").write_text("built/\n*.log\n")
    commit_all(source)
    return source


def test_a_tree_that_is_no_workspace_is_packed_whole(service: Path) -> None:
    files = select(service).files
    assert {"Makefile", "app/main.py", "common/greeting.py", "docs/index.md", "vendor/lib/m.py"} <= set(files)
    assert not {".env", "built/app.js"} & set(files)
    check_explained(service)
    (service / ".git").rename(service.parent / "git")
    assert {*files, "built/app.js"} == set(select(service).files)  # and nothing is ignored outside git
    check_explained(service)


def test_what_git_does_not_track_is_left_out_of_it_and_told(service: Path) -> None:
    put(service, "new.py", "app/new.py", "app/x.log", "nested/m.py")
    commit_all(service / "nested")
    selected = select(service)
    assert not {"new.py", "app/new.py", "nested/m.py"} & set(selected.files)
    (warning,) = selected.warnings
    assert warning.startswith("not packed, because git does not track them: app/new.py, nested/, new.py; `git add`")
    assert find_changes(service) == []
    assert "git does not track it" in explain(service, "nested/m.py").reason
    check_explained(service)
    run_git(service, "add", "app/new.py")
    assert "app/new.py" in select(service, include=["new.py"]).files
    assert "new.py" in select(service, include=["new.py"]).files
    assert find_changes(service) == ["app/new.py"]


def test_what_the_build_needs_is_packed_although_git_does_not_track_it(service: Path) -> None:
    (service / "pyproject.toml").write_text('[project]\nname = "app"\n')
    commit_all(service)
    put(service, "uv.lock")
    selected = select(service)
    assert ("uv.lock" in selected.files, selected.warnings) == (True, [])
    assert find_changes(service) == ["uv.lock"]
    check_explained(service)


def test_a_submodule_that_is_not_checked_out_is_told_unless_it_is_left_out(service: Path) -> None:
    put(service.parent, "inner/m.py")
    commit_all(service.parent / "inner")
    run_git(service, "submodule", "--quiet", "add", str(service.parent / "inner"), "vendor/inner")
    commit_all(service)
    assert "vendor/inner/m.py" in select(service).files
    run_git(service, "submodule", "--quiet", "deinit", "--force", "vendor/inner")
    assert list(select(service).submodules) == ["vendor/inner"]
    assert list(select(service, include=["inner"]).submodules) == ["vendor/inner"]
    assert list(select(service, exclude=["/vendor/inner/"]).submodules) == []


def test_leaving_out_the_whole_package_is_an_error(service: Path) -> None:
    with pytest.raises(LocalError, match=r"app/main\.py is needed .*; common/greeting\.py is needed") as caught:
        select(service, exclude=["*.py"])
    assert caught.value.fix == "remove '*.py' from EXCLUDE"
    assert "common/greeting.py" not in select(service, exclude=["common"]).files
