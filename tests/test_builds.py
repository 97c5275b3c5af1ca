"""The life of a remote build, through the real command: asked for once, watched, interrupted, taken up elsewhere."""

from __future__ import annotations

import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.commands import SOURCE, Command
from tests.misbehaviour import close_after_body
from tests.runtime_api import KEY, PREFIX, RuntimeApiServer

if TYPE_CHECKING:
    from pathlib import Path


def test_stdout_has_the_result_and_stderr_the_story(command: Command, runtime_api: RuntimeApiServer) -> None:
    runtime_api.statuses.clear()
    runtime_api.statuses.extend(["PENDING", "RUNNING", "SUCCESS"])
    command.use(runtime_api)
    run = command.run("all").succeed()
    story = [line.removeprefix("[runtime-build] ") for line in run.err.splitlines()]
    assert all(line.startswith("[runtime-build] ") for line in run.err.splitlines())
    assert story[-6:] == [
        "Build initiated with ID: build-1",
        "Build status: PENDING",
        "Build status: RUNNING",
        "Build status: SUCCESS",
        "✅ Build completed successfully!",
        f"🎉 Image: {run.result}",
    ]


def test_clean_and_all_keep_the_record_of_a_build_that_goes_on(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    assert command.run("all", "--no-wait").succeed().result == "build-1"
    run = command.run("clean").succeed()
    assert "upload.json" not in run.out
    assert "build-1" in run.err
    assert command.run("wait").succeed().result.endswith("-source-minimal")
    assert "upload.json" in command.run("clean").succeed().out


def test_clean_with_force_removes_the_record_too(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    command.run("all", "--no-wait").succeed()
    assert "upload.json" in command.run("clean", "--force").succeed().out
    assert not command.output.exists()


def test_build_that_was_asked_for_is_not_asked_for_again(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    command.run("all", "--no-wait").succeed()
    assert command.run("all").succeed().result.endswith("-source-minimal")
    assert len(runtime_api.builds) == 1
    command.run("all", "--force").succeed()
    assert len(runtime_api.builds) == 2


def test_built_context_is_left_alone_where_that_is_wanted(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    first = command.run("all").succeed()
    assert command.run("all", "--skip-existing").succeed().out == first.out
    assert len(runtime_api.builds) == 1
    (command.checkout / "openhands-sdk" / "new.py").touch()
    command.run("all", "--skip-existing").succeed()
    assert len(runtime_api.builds) == 2


@pytest.mark.parametrize("hidden", [True, False], ids=["whole", "without hidden files"])
def test_output_directory_goes_on_in_another_place(
    command: Command, runtime_api: RuntimeApiServer, tmp_path: Path, *, hidden: bool
) -> None:
    command.run("version", "dockerfile", "context").succeed()
    ignored = None if hidden else shutil.ignore_patterns(".*")
    shutil.copytree(command.output, tmp_path / "job" / "runtime-build", ignore=ignored)
    other = Command(tmp_path / "job", dict(SOURCE))
    other.use(runtime_api)
    assert other.run("upload").succeed().result == "build-1"
    image = other.run("wait").succeed().result
    assert image == f"{PREFIX}/agent-server:{command.short_sha}-python-source-minimal"
    assert other.read_state("upload")["context_sha256"] == command.read_state("context")["context_sha256"]


def test_build_can_be_waited_for_with_nothing_but_its_id(
    command: Command, runtime_api: RuntimeApiServer, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    other = Command(tmp_path / "empty")
    other.use(runtime_api)
    assert other.run("wait", "--build-id", "abc123").succeed().result == "registry.example.com/agent-server:abc123"
    assert runtime_api.requests[-1].query == {"build_id": "abc123"}


def test_failed_build_is_exit_6_with_its_message_and_the_end_of_its_log(
    command: Command, runtime_api: RuntimeApiServer
) -> None:
    runtime_api.statuses.clear()
    runtime_api.statuses.append("FAILURE")
    runtime_api.error = "no space left"
    command.use(runtime_api)
    run = command.run("all")
    run.fail(6, "no space left")
    assert "step 2" in run.err
    assert command.read_state("wait")["status"] == "FAILURE"


def test_ctrl_c_while_waiting_leaves_the_build_and_says_how_to_come_back(
    command: Command, runtime_api: RuntimeApiServer
) -> None:
    runtime_api.statuses.clear()
    runtime_api.statuses.append("RUNNING")
    command.use(runtime_api)
    running = command.start("all")
    running.wait_for("Build status: RUNNING")
    running.signal(signal.SIGINT)
    assert running.wait().fail(130, "runtime-build wait --build-id build-1").out == ""
    runtime_api.statuses.append("SUCCESS")
    assert command.run("wait").succeed().result.endswith("-source-minimal")
    assert len(runtime_api.builds) == 1


def test_upload_without_an_answer_is_not_repeated(command: Command, runtime_api: RuntimeApiServer) -> None:
    runtime_api.script("POST /build", close_after_body)
    command.use(runtime_api)
    command.run("all").fail(5)
    command.run("all").fail(5, "--force")
    command.run("clean").fail(5)
    assert runtime_api.count("POST /build") == 1
    command.run("all", "--force").succeed()


def test_later_steps_of_a_github_job_get_the_outputs(
    command: Command, runtime_api: RuntimeApiServer, tmp_path: Path
) -> None:
    command.use(runtime_api)
    run = command.run(
        "all", CUSTOM_TAGS="dev,staging", GITHUB_OUTPUT=str(tmp_path / "out"), changing=("out",)
    ).succeed()
    outputs = {}
    lines = iter((tmp_path / "out").read_text().splitlines())
    for line in lines:
        name, _, mark = line.partition("<<")
        outputs[name] = "\n".join(iter(lambda: next(lines), mark))
    assert outputs == {
        "short_sha": command.short_sha,
        "tags": "dev,staging",
        "archive": f"runtime-build/agent-server-{command.short_sha}-dev.tar.gz",
        "build_id": "build-1",
        "image": run.result,
    }


def test_output_file_of_github_that_cannot_be_written_is_a_warning(command: Command) -> None:
    run = command.run("version", GITHUB_OUTPUT="/nowhere/at/all").succeed()
    assert "warning: GITHUB_OUTPUT" in run.err


def test_readers_that_go_away_change_nothing(command: Command) -> None:
    with subprocess.Popen(
        [*command.program, "all"],
        cwd=command.checkout,
        env=command.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()
        assert process.wait(60) == 0
    assert (command.output / "context.json").exists()


def test_second_run_in_one_directory_is_refused(command: Command, runtime_api: RuntimeApiServer) -> None:
    runtime_api.statuses.clear()
    runtime_api.statuses.append("RUNNING")
    command.use(runtime_api)
    running = command.start("all")
    running.wait_for("RUNNING")
    command.run("version").fail(3, "another run")
    running.signal(signal.SIGTERM)
    running.wait().fail(143)


def test_invokes_own_ways_to_show_a_run_show_no_key(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    run = command.run("-d", "-e", "all").succeed()
    assert KEY not in run.out + run.err
