"""The sdist and the wheel, each installed in a fresh environment of every Python on this machine, and used."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.checkouts import PROJECTS
from tests.pythons import find_other_pythons

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PYTHONS = [sys.executable, *find_other_pythons()]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The sdist and the wheel of this checkout; the wheel is built from the sdist, as a release does."""
    folder = tmp_path_factory.mktemp("packages")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    subprocess.run(["tar", "-xzf", sdist, "-C", folder], check=True)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=folder / sdist.name.removesuffix(".tar.gz"), check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: "-".join(Path(path).parts[-3:]))
def test_installed_package_packs_a_checkout(
    tmp_path: Path, packages: Mapping[str, Path], python: str, kind: str
) -> None:
    """With its dependencies from the registry that pip is set to; without a network, the test is skipped."""
    home, source = tmp_path / "environment", PROJECTS / "workspace-today"
    subprocess.run([python, "-m", "venv", home], check=True)
    pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    installed = subprocess.run([*pip, str(packages[kind])], capture_output=True, text=True, check=False)
    if "No matching distribution" in installed.stderr or "Connection" in installed.stderr:
        pytest.skip("the dependencies cannot be had here")
    assert installed.returncode == 0, installed.stderr
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TARGET": "source-minimal"}
    for arguments in (["--version"], ["--list"], ["all", f"--source-dir={source}"], ["context", "--diff"]):
        run = [str(home / "bin/runtime-build"), *arguments]
        if arguments[0] == "context":
            run.append(f"--source-dir={source}")
        done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert len(list((tmp_path / "runtime-build").glob("*.tar.gz"))) == 1


def test_classifiers_name_the_versions_that_ci_tests() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    classified = {text.rpartition(" ")[2] for text in project["classifiers"] if " :: Python :: 3." in text}
    workflow = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    assert classified
    assert {version for version in classified if f'"{version}"' not in workflow} == set()
