"""Whether what starts the server is in the environment that was just built: the program of the build that looks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "templates/programs/check_server.py"
APPLICATION = "app = object()\n"


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A folder with a few modules and programs, which the program takes for /agent-server."""
    files = {
        "app/__init__.py": "",
        "app/main.py": APPLICATION,
        "app/needs.py": "import no_such_package_anywhere\n",
        "app/configured.py": "raise RuntimeError('DATABASE_URL is not set')\n",
        "app/linked.py": "raise ImportError('libpq.so.5: cannot open shared object file')\n",
        "app/old.py": "from json import gone\n",
        "manage.py": "",
        ".venv/bin/uvicorn": "",
        ".packages/bin/serve-app": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def check(environment: Path, *command: str) -> subprocess.CompletedProcess[str]:
    text = PROGRAM.read_text().replace("/agent-server", str(environment)).replace("10001", str(os.getuid()))
    text = text.replace('env={"PATH"', f'env={{"PYTHONPATH": "{environment}", "PATH"')
    return subprocess.run([sys.executable, "-c", text, *command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "command",
    [
        ("python", "-m", "app.main"),
        ("uvicorn", "app.main:app", "--host", "0.0.0.0", "--port", "8000"),
        ("uvicorn", "elsewhere:app", "--app-dir", "/agent-server/src"),
        ("python", "-m", "uvicorn", "--help"),
        ("serve-app", "--port", "8000"),
        ("python", "-u", "{environment}/manage.py", "runserver"),
        ("uvicorn", "app.linked:app"),
    ],
)
def test_what_is_there_passes(environment: Path, command: tuple[str, ...]) -> None:
    if command[:3] == ("python", "-m", "uvicorn"):
        (environment / "uvicorn.py").write_text("")
    done = check(environment, *(word.format(environment=environment) for word in command))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("python", "-m", "acme"), "acme cannot be imported: No module named 'acme'"),
        (("python", "-m", "app.needs"), "app.needs cannot be imported: No module named 'no_such_package_anywhere'"),
        (("uvicorn", "app.main:application"), "app.main has no application"),
        (("uvicorn", "app.gone:app"), "app.gone cannot be imported: No module named 'app.gone'"),
        (("uvicorn", "app.old:app"), "app.old cannot be imported: cannot import name 'gone' from 'json'"),
        (("serve-ap",), "no package has installed the program 'serve-ap'; there is: serve-app"),
        (("gunicorn", "app.main:app"), "no package has installed the program 'gunicorn'"),
        (("python", "manage.py"), "there is no /manage.py; did you mean {environment}/manage.py?"),
    ],
)
def test_what_is_missing_ends_the_build_with_one_line(environment: Path, command: tuple[str, ...], said: str) -> None:
    done = check(environment, *command)
    assert done.returncode == 1
    assert done.stderr.startswith(f"the server cannot start: {said.format(environment=environment)}")
    assert done.stderr.count("\n") == 1


def test_a_module_that_needs_its_configuration_is_only_reported(environment: Path) -> None:
    done = check(environment, "uvicorn", "app.configured:app")
    assert done.returncode == 0
    assert "DATABASE_URL is not set" in done.stdout


def test_files_are_looked_for_in_the_folder_that_the_server_starts_in(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (environment / "app/reads.py").write_text("open('manage.py')\napp = object()\n")
    assert "No such file" in check(environment, "uvicorn", "app.reads:app").stdout
    assert check(environment, "python", "manage.py").returncode == 1
    monkeypatch.setenv("SERVER_FOLDER", str(environment))
    assert "No such file" not in check(environment, "uvicorn", "app.reads:app").stdout
    assert check(environment, "python", "manage.py").returncode == 0


def test_nothing_is_written_into_the_tree(environment: Path) -> None:
    before = sorted(environment.rglob("*"))
    assert check(environment, "uvicorn", "app.main:app").returncode == 0
    assert sorted(environment.rglob("*")) == before
