"""`doctor`: everything it looks at, what it says where something is wrong, and its exit code."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from tests.checkouts import run_git
from tests.misbehaviour import answer
from tests.runtime_api import KEY, RuntimeApiServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.commands import Command, Ended


def find(run: Ended) -> dict[str, Any]:
    """Return the findings by what they are about."""
    return {finding["subject"]: finding for finding in run.record["findings"]}


def find_wrong(run: Ended) -> set[str]:
    return {subject for subject, finding in find(run).items() if not finding["ok"]}


def test_all_in_place_is_exit_0_and_one_line(command: Command) -> None:
    run = command.run("doctor").succeed()
    assert run.result == "everything looks good"
    assert "RUNTIME_API_URL is not set" in run.err


def test_nothing_is_written_or_locked(command: Command) -> None:
    command.run("doctor").succeed()
    assert not command.output.exists()
    assert run_git(command.checkout, "status", "--porcelain") == ""


def test_git_source_settings_and_disk_are_looked_at(command: Command) -> None:
    found = find(command.run("doctor", "--json").succeed())
    assert {"git", "source", "settings", "disk", "Runtime API"} <= found.keys()
    assert run_git(command.checkout, "rev-parse", "HEAD") in found["git"]["detail"]


def test_each_setting_shows_where_it_came_from(command: Command) -> None:
    (command.checkout / ".env").write_text("CUSTOM_TAGS=dev, staging\nBUILD_ARGS=A=1\n")
    run = command.run("doctor", "--json", "--no-allow-dirty", FEATURES="vscode,docker")
    found = {subject: finding["detail"] for subject, finding in find(run.succeed()).items()}
    assert found["CUSTOM_TAGS"] == "dev,staging (from .env)"
    assert found["BUILD_ARGS"] == "A=1 (from .env)"
    assert found["FEATURES"] == "docker,vscode (from environment)"
    assert found["ALLOW_DIRTY"] == "false (from flag)"


def test_key_is_masked(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    run = command.run("doctor", "--json").succeed()
    assert find(run)["RUNTIME_API_KEY"]["detail"] == "*** (from environment)"
    assert KEY not in run.out + run.err


def test_server_is_asked_which_calls_it_has(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    found = find(command.run("doctor", "--json").succeed())
    assert found["key"]["detail"] == "accepted"
    assert found["/registry_prefix"]["detail"] == "yes (HTTP 200)"
    assert runtime_api.count("POST /build") == 0
    assert {request.method for request in runtime_api.requests} == {"GET"}


def test_refused_key_is_exit_4_with_its_fix(command: Command, runtime_api: RuntimeApiServer) -> None:
    for path in ("/registry_prefix", "/build_status", "/build_logs", "/image_exists", "/build"):
        runtime_api.always(f"GET {path}", answer(401, {"detail": "no such key"}))
    command.use(runtime_api)
    run = command.run("doctor", "--json")
    assert run.code == 4
    assert find_wrong(run) == {"key"}
    assert "RUNTIME_API_KEY" in find(run)["key"]["fix"]


def test_server_that_is_not_there_is_exit_4(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    run = command.run("doctor", "--json", RUNTIME_API_URL=url, RUNTIME_API_KEY=KEY)
    assert run.code == 4
    assert find_wrong(run) == {"Runtime API"}
    assert find(run)["Runtime API"]["fix"]


def test_source_that_lacks_something_is_exit_2_and_the_rest_is_looked_at(command: Command) -> None:
    (command.checkout / "uv.lock").unlink()
    run = command.run("doctor", "--json")
    assert run.code == 2
    assert find_wrong(run) == {"source"}
    assert "uv.lock" in find(run)["source"]["detail"]
    assert "disk" in find(run)


def test_missing_source_is_exit_2(command: Command, tmp_path: Path) -> None:
    run = command.run("doctor", "--json", SOURCE_DIR=str(tmp_path / "nowhere"))
    assert run.code == 2
    assert find_wrong(run) == {"source"}


def test_source_outside_git_is_no_fault(command: Command, tmp_path: Path) -> None:
    (command.checkout / ".git").rename(tmp_path / "git")
    run = command.run("doctor", "--json").succeed()
    assert "`unknown`" in find(run)["git"]["detail"]


def test_missing_git_is_exit_2_with_how_to_install_it(command: Command, tmp_path: Path) -> None:
    run = command.run("doctor", "--json", PATH=str(tmp_path))
    assert run.code == 2
    assert find_wrong(run) == {"git"}
    assert "install git" in find(run)["git"]["fix"]


def test_bad_setting_is_told_as_everywhere(command: Command) -> None:
    command.run("doctor", TARGET="sauce").fail(2, "TARGET", "TARGET=source")


def test_wrong_findings_show_their_fix_on_the_terminal(command: Command) -> None:
    (command.checkout / "uv.lock").unlink()
    run = command.run("doctor")
    assert "FAIL  source" in run.err
    assert "fix: run `uv lock`" in run.err
    assert run.result.startswith("1 of ")
