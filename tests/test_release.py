"""What a release consists of: one version, a changelog, and an action whose inputs reach the tool safely."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def check(root: Path, tag: str) -> subprocess.CompletedProcess[str]:
    (root / ".ci").mkdir(exist_ok=True)
    for name in (".ci/check_release.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    program = [sys.executable, str(root / ".ci/check_release.py"), tag]
    return subprocess.run(program, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("tag", "changelog", "problem"),
    [
        (f"v{VERSION}", f"## [Unreleased]\n\n## [{VERSION}] - 2026-11-24\n\n- Everything.\n", ""),
        ("v9.9.9", "", f"pyproject.toml says version {VERSION}"),
        (f"v{VERSION}", "## [Unreleased]\n\n- Everything.\n", "has no section"),
        (f"v{VERSION}", f"## [{VERSION}] - 2026-11-24\n\n## [0.0.1] - 2026-01-01\n\n- Old.\n", "nothing in it"),
    ],
)
def test_a_tag_is_a_release_if_version_and_changelog_agree(
    tmp_path: Path, tag: str, changelog: str, problem: str
) -> None:
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    ended = check(tmp_path, tag)
    assert ended.returncode == bool(problem)
    assert problem in ended.stderr


def test_the_action_passes_inputs_in_the_environment_alone() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    used = set()
    for step in action["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
        used |= {name for text in step.get("env", {}).values() for name in re.findall(r"inputs\.([\w-]+)", text)}
    assert used == set(action["inputs"])


@pytest.mark.parametrize(
    ("build", "attest", "commands"),
    [
        ("", "", ["all"]),
        ("false", "", ["all"]),
        ("true", "false", ["all", "build"]),
        ("push", "", ["all", "build --push"]),
        ("push", "true", ["all", "build --push --attest"]),
        ("maybe", "", None),
        ("push", "perhaps", None),
    ],
)
def test_the_action_runs_the_tool(tmp_path: Path, build: str, attest: str, commands: list[str] | None) -> None:
    """The step's own script, with a `uvx` that writes down what it is asked."""
    (script,) = [
        step for step in yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))["runs"]["steps"] if "run" in step
    ]
    asked = tmp_path / "asked"
    (tmp_path / "uvx").write_text(f'#!/bin/sh\necho "$ENGINE/$@" >>{asked}\n')
    (tmp_path / "uvx").chmod(0o755)
    inputs = {"BUILD": build, "ATTEST": attest, "REQUIREMENT": "/the/action"}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **inputs}
    ended = subprocess.run(["bash", "-euo", "pipefail", "-c", script["run"]], env=environment, check=False)
    assert ended.returncode == (2 if commands is None else 0)
    if commands is not None:
        start = f"{'buildx' if attest == 'true' else ''}/--quiet --from /the/action runtime-build "
        assert asked.read_text().splitlines() == [f"{start}{command}" for command in commands]


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_are_yaml_with_the_least_permissions(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text("utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
