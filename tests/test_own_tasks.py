"""A `tasks.py` of a project: its own defaults, its own root, its own name for our tasks; and this repository's."""

from __future__ import annotations

import shutil
import sys
import tarfile
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.checkouts import commit_all
from tests.commands import PACKAGE_ROOT, SOURCE, Command

if TYPE_CHECKING:
    from pathlib import Path


def write_tasks(folder: Path, text: str) -> Command:
    """Return invoke, run in a project that has a `tasks.py` of its own."""
    (folder / "tasks.py").write_text(textwrap.dedent(text))
    return Command(folder, SOURCE | {"PYTHONDONTWRITEBYTECODE": "1"}, (sys.executable, "-m", "invoke"))


def test_another_project_states_its_own_defaults(source_tree: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    source_tree.rename(project / "server")
    commit_all(project)
    invoke = write_tasks(
        project,
        """
        from buildkit.tasks import make_collection
        ns = make_collection(__file__, SOURCE_DIR="server", CUSTOM_TAGS="ours", OUTPUT_DIR="out", ALLOW_DIRTY=True)
        """,
    )
    (project / "server" / "deep").mkdir()
    invoke.outputs = [project / "out"]
    run = invoke.run("all", folder=project / "server" / "deep").succeed()
    assert (project / "out" / "context.json").exists()
    assert run.result.endswith("-ours.tar.gz")
    assert invoke.run("context", "--json").succeed().record["files"] > 10
    assert invoke.run("version", CUSTOM_TAGS="theirs").result.endswith("-theirs")


def test_another_project_may_put_the_tasks_below_a_name_of_its_own(git_repo: Path) -> None:
    invoke = write_tasks(
        git_repo,
        """
        from invoke import Collection, task
        from buildkit.tasks import make_collection

        @task
        def hello(c):
            print("hello")

        ns = Collection(hello)
        ns.add_collection(make_collection(__file__, CUSTOM_TAGS="ours"), name="image")
        """,
    )
    assert invoke.run("hello").succeed().out == "hello\n"
    assert invoke.run("image.version").succeed().result.endswith("-ours")


@pytest.mark.parametrize(
    ("default", "said"), [('SOURCE_DIRECTORY="x"', "SOURCE_DIR"), ("CUSTOM_TAGS=['a']", "CUSTOM_TAGS")]
)
def test_wrong_default_of_a_project_is_told_as_every_error(git_repo: Path, default: str, said: str) -> None:
    invoke = write_tasks(
        git_repo, f"from buildkit.tasks import make_collection\nns = make_collection(__file__, {default})\n"
    )
    invoke.run("version").fail(2, said, "tasks.py")


def test_this_repository_packs_its_example(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(
        PACKAGE_ROOT / "examples", clone / "examples", ignore=shutil.ignore_patterns("__pycache__", ".venv")
    )
    shutil.copy(PACKAGE_ROOT / "tasks.py", clone)
    sha = commit_all(clone)
    invoke = Command(clone, {"PYTHONDONTWRITEBYTECODE": "1"}, (sys.executable, "-m", "invoke"))
    assert invoke.run("all").succeed().result == f"runtime-build/agent-server-{sha[:7]}-python.tar.gz"
    with tarfile.open(clone / "runtime-build" / invoke.read_state("context")["archive"]) as tar:
        assert {"Dockerfile", "pyproject.toml", "openhands/agent_server/app.py"} <= set(tar.getnames())
