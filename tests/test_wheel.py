"""The wheel, in an environment of its own: what is in it, and that it works without a checkout of this project."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.commands import PACKAGE_ROOT, Command

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a fresh environment that the wheel was installed into."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    install = [str(home / "bin" / "pip"), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # What it depends on is here already; that it is declared is what the first command of the README shows.
    (library,) = home.glob("lib/python3*/site-packages")
    (library / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin" / "runtime-build"


@pytest.fixture
def command(git_repo: Path, installed: Path) -> Command:
    """The installed command in a checkout of somebody else's, with no path to this one."""
    command = Command(git_repo, {"TARGET": "source-minimal"}, (str(installed),))
    del command.environment["PYTHONPATH"]
    return command


def test_wheel_holds_package_templates_and_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "templates").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert f"buildkit/templates/{path.relative_to(ROOT / 'templates').as_posix()}" in names
    for path in (ROOT / "buildkit").rglob("*.py"):
        assert path.relative_to(ROOT).as_posix() in names
    assert "buildkit/py.typed" in names
    assert [name for name in names if name.endswith("/LICENSE")]
    assert not [name for name in names if name.startswith(("tests/", "examples/", "benchmarks/"))]


@pytest.mark.slow
def test_list_works_from_any_folder(command: Command, tmp_path: Path) -> None:
    for folder in (tmp_path, Path("/")):
        assert "context" in command.run("--list", folder=folder).succeed().out


@pytest.mark.slow
def test_version_of_the_command_is_that_of_the_wheel(command: Command, wheel: Path) -> None:
    version = wheel.name.split("-")[1]
    assert version in command.run("--version").succeed().out


@pytest.mark.slow
def test_package_comes_from_the_wheel_and_finds_its_templates(command: Command) -> None:
    run = command.run("all").succeed()
    assert run.result.endswith("-python.tar.gz")
    python = Path(command.program[0]).with_name("python")
    code = "import buildkit; print(buildkit.__file__)"
    done = subprocess.run([python, "-c", code], cwd="/", env=command.environment, capture_output=True, check=True)
    assert str(PACKAGE_ROOT) not in done.stdout.decode()


@pytest.mark.slow
def test_checkout_and_wheel_pack_the_same(command: Command, git_repo: Path) -> None:
    command.run("all").succeed()
    record = command.read_state("context")
    here = Command(git_repo, {"TARGET": "source-minimal"})
    here.run("all").succeed()
    assert here.read_state("context") == record


@pytest.mark.slow
def test_folder_without_a_project_is_told_what_is_missing(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command.outputs = [tmp_path / "empty" / "runtime-build"]
    command.run("all", folder=tmp_path / "empty").fail(3, "nothing in", "would be packed", "SOURCE_DIR")
