"""The GitLab CI/CD component: valid YAML in GitLab's two documents, whose script runs the right commands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
COMPONENT = ROOT / "templates/image/template.yml"
INPUT = re.compile(r"\$\[\[ inputs\.([\w-]+) \]\]")


def load() -> tuple[dict[str, dict[str, str]], str]:
    """Return the inputs of the component, and its jobs as text."""
    header, jobs = COMPONENT.read_text("utf-8").split("\n---\n")
    inputs: dict[str, dict[str, str]] = yaml.safe_load(header)["spec"]["inputs"]
    return inputs, jobs


def test_every_input_is_described_and_used() -> None:
    inputs, jobs = load()
    assert set(INPUT.findall(jobs)) == set(inputs)
    assert all("description" in given for given in inputs.values())


def test_inputs_reach_the_script_as_variables_alone() -> None:
    """What is put into the text of a script could be anything, as in GitHub's actions."""
    (job,) = yaml.safe_load(load()[1]).values()
    assert not INPUT.search("\n".join(job["script"]))


@pytest.mark.parametrize(
    ("build", "commands"),
    [("", ["all"]), ("false", ["all"]), ("true", ["all", "build"]), ("push", ["all", "build --push"]), ("no", None)],
)
def test_the_job_runs_the_tool_and_hands_on_the_image(tmp_path: Path, build: str, commands: list[str] | None) -> None:
    (job,) = yaml.safe_load(load()[1]).values()
    for name in ("pip", "runtime-build"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $@" >>asked\necho "an-image:$1"\n')
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "BUILD": build, "REQUIREMENT": "runtime-build==1.2"}
    script = "\n".join(job["script"])
    done = subprocess.run(["sh", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, check=False)
    if commands is None:
        assert done.returncode == 2
        return
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asked").read_text().splitlines() == [
        "pip install --quiet runtime-build==1.2",
        *(f"runtime-build {command}" for command in commands),
    ]
    assert (tmp_path / "image.env").read_text() == f"IMAGE=an-image:{commands[-1].split()[0]}\n"
    assert job["artifacts"]["reports"]["dotenv"] == "image.env"
