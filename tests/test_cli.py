"""One run: where its folders are, and the one place where every failure becomes two lines and an exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from invoke.config import Config
from invoke.context import Context

from buildkit import errors
from buildkit.cli import make_task
from buildkit.errors import RuntimeBuildError, SettingError
from buildkit.precedence import load_settings
from buildkit.settings import CiEnvironment
from buildkit.task import Outcome, Run, Task
from buildkit.ui import Ui

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.commands import Command

TASK = """
import os, signal, sys, time
from invoke import Context
from buildkit.cli import make_task
from buildkit.task import Outcome, Task

def body(this):
    try:
        print("ready", flush=True)
        {body}
    except Exception:
        print("swallowed", flush=True)
    finally:
        print("unwound", flush=True)
    return Outcome("", {{}})

make_task(Task("body", body))(Context(), output_dir=None, source_dir=None, json=False)
"""


def run_body(body: Callable[[Run], Outcome], *, as_json: bool = False) -> None:
    """Run a task of this test's own, as the command line would."""
    make_task(Task("body", body))(Context(), output_dir=None, source_dir=None, json=as_json)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of whoever runs the tests."""
    for name in set(os.environ) - {"PATH", "HOME"}:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def start_task(body: str, ignored: int | None = None) -> subprocess.Popen[str]:
    """Return a process in the middle of a task."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME")}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    code = TASK.format(body=body)
    if ignored:
        code = f"import signal; signal.signal({ignored}, signal.SIG_IGN)\n{code}"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(body: str, *signals: int, ignored: int | None = None) -> tuple[int, str, str]:
    process = start_task(body, ignored)
    for number in signals:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def open_in(root: Path, **flags: str) -> Run:
    loaded = load_settings({name.upper(): value for name, value in flags.items()}, {}, root, {})
    return Run(loaded, root, CiEnvironment(), Ui())


@pytest.mark.parametrize("directory", ["runtime-build", "./runtime-build/", "a/../runtime-build"])
def test_relative_folders_start_from_the_root(git_repo: Path, monkeypatch: pytest.MonkeyPatch, directory: str) -> None:
    monkeypatch.chdir("/")
    this = open_in(git_repo, output_dir=directory, template_dir="templates")
    assert this.workspace.path == git_repo / "runtime-build"
    assert this.source == git_repo
    assert this.template_dir == git_repo / "templates"


def test_tilde_is_the_home(git_repo: Path) -> None:
    assert open_in(git_repo, output_dir="~/out").workspace.path == Path.home() / "out"


def test_missing_folders_are_named(git_repo: Path) -> None:
    for name in ("source_dir", "template_dir"):
        with pytest.raises(SettingError, match=name.upper()):
            open_in(git_repo, **{name: "nowhere"}).check_folders()


def test_output_inside_the_source_is_never_packed(git_repo: Path) -> None:
    (git_repo / "openhands-sdk" / "out").mkdir()
    (git_repo / "openhands-sdk" / "out" / "x").touch()
    assert "openhands-sdk/out/x" in open_in(git_repo).tree.select().files
    this = open_in(git_repo, output_dir="openhands-sdk/out")
    assert "openhands-sdk/out/x" not in this.tree.select().files


def test_output_reached_over_a_link_is_never_packed(git_repo: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(git_repo / "openhands-sdk")
    (git_repo / "openhands-sdk" / "out").mkdir()
    (git_repo / "openhands-sdk" / "out" / "x").touch()
    this = open_in(git_repo, output_dir=str(tmp_path / "link" / "out"))
    assert "openhands-sdk/out/x" not in this.tree.select().files


def test_paths_are_shown_as_they_would_be_typed(git_repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    this = open_in(git_repo)
    monkeypatch.chdir(git_repo)
    assert this.show_path(this.workspace.path / "x") == "runtime-build/x"
    monkeypatch.chdir("/tmp")
    assert Path(this.show_path(this.workspace.path / "x")).resolve() == git_repo / "runtime-build" / "x"


def test_misspelt_settings_are_reported_when_the_run_begins(
    git_repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (git_repo / ".env").write_text("TARGETS=source\n")
    monkeypatch.chdir(git_repo / "openhands-sdk")
    run_body(lambda _: Outcome("", {}))
    assert "warning: TARGETS in .env is not a setting; did you mean TARGET?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "kind",
    [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, RuntimeBuildError)],
)
def test_every_error_of_ours_exits_with_its_own_code(
    kind: type[RuntimeBuildError], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Run) -> Outcome:
        raise kind("it happened", "type this")

    with pytest.raises(SystemExit) as caught:
        run_body(fail)
    assert caught.value.code == kind.exit_code
    assert capsys.readouterr().err == "error: it happened\nfix:   type this\n"


def test_error_of_the_system_is_local_and_names_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_body(lambda _: Outcome(Path("/nowhere/at/all").read_text(), {}))
    assert caught.value.code == 3
    assert "error: No such file or directory: /nowhere/at/all\n" in capsys.readouterr().err


def test_task_that_succeeds_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run_body(lambda _: Outcome("", {}))
    assert capsys.readouterr() == ("", "")


def test_defect_of_ours_is_two_lines_and_exit_70(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_body(lambda _: Outcome(str(1 / 0), {}))
    assert caught.value.code == 70
    error, fix = capsys.readouterr().err.splitlines()
    assert error.startswith("error: internal error: ZeroDivisionError: division by zero (test_cli.py, line ")
    assert fix.startswith("fix:   report it")


def test_commands_are_spelled_as_the_user_started_the_tool(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: Run) -> Outcome:
        raise SettingError("x", f"run {errors.run('context', '--files')}")

    for program in ("runtime-build", "invoke"):
        config = Config({"runtime_build": {"program": program}})
        with pytest.raises(SystemExit):
            make_task(Task("body", fail))(Context(config), output_dir=None, source_dir=None, json=False)
        assert capsys.readouterr().err.endswith(f"fix:   run `{program} context --files`\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_unwinds_past_every_handler_and_ends_with_its_code(number: int) -> None:
    code, out, err = end("time.sleep(60)", number)
    assert (code, out) == (128 + number, "unwound\n")
    assert err.startswith("error: interrupted\nfix:   ")


def test_what_the_caller_ignores_stays_ignored() -> None:
    code, out, err = end("time.sleep(0.5)", signal.SIGHUP, ignored=signal.SIGHUP)
    assert (code, out, err) == (0, "unwound\n", "")


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    def check(_: Run) -> Outcome:
        assert signal.getsignal(signal.SIGTERM) not in before
        return Outcome("", {})

    run_body(check)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_working_directory_that_is_gone_is_told_as_every_error(command: Command, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    command.program = ("sh", "-c", script, "sh", str(tmp_path / "gone"), *command.program)
    run = command.run("version", changing=("gone",))
    assert run.code == 3
    assert "Traceback" not in run.err


@pytest.mark.parametrize("arguments", [("dockerfile", "--target", "binray"), ("nonsense",)])
def test_errors_of_any_kind_are_annotated_on_github(command: Command, arguments: tuple[str, ...]) -> None:
    ended = command.run(*arguments, GITHUB_ACTIONS="true").expect(2)
    assert ended.err.splitlines()[-3].startswith("::error title=runtime-build::")
