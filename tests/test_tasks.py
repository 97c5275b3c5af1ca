"""The real command: every task alone, in a chain, from anywhere, and what it leaves for the next."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tarfile
import textwrap
from typing import TYPE_CHECKING

import pytest

from buildkit.tasks import make_collection
from tests.checkouts import commit_all, run_git
from tests.commands import PACKAGE_ROOT, Command
from tests.misbehaviour import close_after_body
from tests.runtime_api import KEY, PREFIX, RuntimeApiServer

if TYPE_CHECKING:
    from pathlib import Path

TASKS = sorted(make_collection().tasks)
STEPS = ("version", "dockerfile", "context", "upload", "wait")
SOURCE = {"TARGET": "source-minimal"}


@pytest.fixture
def command(command: Command) -> Command:
    """The command with a target that needs no PyInstaller spec."""
    command.environment |= SOURCE
    return command


def find_short(command: Command) -> str:
    return run_git(command.checkout, "rev-parse", "HEAD")[:7]


def test_list_shows_every_task(command: Command) -> None:
    listed = re.findall(r"^  (\S+) ", command.run("--list").succeed().out, re.MULTILINE)
    assert sorted(listed) == TASKS


@pytest.mark.parametrize("task", TASKS)
def test_every_flag_of_every_task_has_a_meaning(task: str) -> None:
    arguments = make_collection().tasks[task].get_arguments()
    assert {"json", "output_dir", "source_dir"} <= {argument.name for argument in arguments}
    assert all(argument.help for argument in arguments)


def test_help_of_a_task_tells_its_flags(command: Command) -> None:
    text = command.run("--help", "wait").succeed().out
    for flag in ("--build-id=STRING", "--build-timeout=STRING", "--json", "--output-dir=STRING"):
        assert flag in text


def test_tasks_one_by_one_print_their_results(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    name = f"agent-server-{find_short(command)}-python"
    assert command.run("version").succeed().result == name
    assert command.run("dockerfile").succeed().result == "runtime-build/Dockerfile"
    assert command.run("context").succeed().result == f"runtime-build/{name}.tar.gz"
    assert command.run("upload").succeed().result == "build-1"
    image = f"{PREFIX}/agent-server:{find_short(command)}-python-source-minimal"
    assert command.run("wait").succeed().result == image
    assert runtime_api.builds[0].target_image == image


def test_tasks_one_by_one_leave_what_all_leaves(
    command: Command, runtime_api: RuntimeApiServer, tmp_path: Path
) -> None:
    command.use(runtime_api)
    last = [command.run(step).succeed() for step in STEPS][-1]
    command.output.rename(tmp_path / "one-by-one")
    assert command.run("all").succeed().out == last.out
    for name in sorted(os.listdir(command.output)):
        if name not in {"upload.json", "wait.json", ".context-cache"}:
            assert (command.output / name).read_bytes() == (tmp_path / "one-by-one" / name).read_bytes(), name


def test_chain_is_the_same_as_one_by_one(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    run = command.run(*STEPS).succeed()
    assert len(run.out.splitlines()) == len(STEPS)
    assert sorted(f"{step}.json" for step in STEPS) == sorted(
        name for name in os.listdir(command.output) if name.endswith(".json")
    )


def test_chain_stops_at_the_first_failure(command: Command) -> None:
    command.run("version", "dockerfile", "--target", "sauce", "context").fail(2, "TARGET")
    assert sorted(os.listdir(command.output)) == [".gitignore", "version.json"]


def test_stdout_has_the_result_and_stderr_the_story(command: Command, runtime_api: RuntimeApiServer) -> None:
    runtime_api.statuses.clear()
    runtime_api.statuses.extend(["PENDING", "RUNNING", "SUCCESS"])
    command.use(runtime_api)
    run = command.run("all", POLL_INTERVAL="1").succeed()
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


@pytest.mark.parametrize("step", STEPS)
def test_json_is_the_state_file(command: Command, runtime_api: RuntimeApiServer, step: str) -> None:
    command.use(runtime_api)
    for earlier in STEPS[: STEPS.index(step)]:
        command.run(earlier).succeed()
    assert command.run(step, "--json").succeed().record == command.read_state(step)


@pytest.mark.parametrize("task", ["version", "all", "clean", "doctor"])
def test_json_of_an_error_is_an_object(command: Command, task: str) -> None:
    run = command.run(task, "--json", TARGET="sauce").fail(2, "TARGET")
    assert run.record["exit_code"] == 2
    assert f"error: {run.record['error']}\nfix:   {run.record['fix']}\n" == run.err
    assert not command.output.exists()


def test_json_of_tasks_without_a_state_file(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    command.run("all").succeed()
    assert command.run("logs", "--json").succeed().record["lines"] == ["step 1", "step 2"]
    files = command.run("context", "--files", "--json").succeed().record["files"]
    assert "README.md" in {file["path"] for file in files}
    assert command.run("context", "--explain", "AGENTS.md", "--json").succeed().record["packed"] is False
    assert "wait.json" in command.run("clean", "--json").succeed().record["removed"]


def test_without_an_api_all_packs_and_says_that_nothing_was_sent(command: Command) -> None:
    run = command.run("all").succeed()
    archive = command.checkout / run.result
    assert "nothing was sent" in run.err
    assert f"docker build -t openhands-agent-server - < {run.result}" in run.err
    with tarfile.open(archive) as tar:
        assert {"Dockerfile", "BUILD_INSTRUCTIONS.md", "pyproject.toml", "uv.lock"} <= set(tar.getnames())
    assert not (command.output / "upload.json").exists()


@pytest.mark.parametrize("task", ["upload", "wait", "logs"])
def test_without_an_api_what_needs_one_is_refused_before_any_work(command: Command, task: str) -> None:
    command.run(task).fail(2, "RUNTIME_API_URL", "RUNTIME_API_KEY")
    assert not command.output.exists()


@pytest.mark.parametrize("setting", [{"RUNTIME_API_URL": "https://example.com"}, {"RUNTIME_API_KEY": KEY}])
@pytest.mark.parametrize("task", ["version", "all"])
def test_url_and_key_go_together(command: Command, task: str, setting: dict[str, str]) -> None:
    command.environment |= setting
    command.run(task).fail(2, "RUNTIME_API_URL", "RUNTIME_API_KEY")
    assert not command.output.exists()


@pytest.mark.parametrize(
    ("task", "needs"), [("dockerfile", "version"), ("context", "version"), ("upload", "version"), ("wait", "upload")]
)
def test_task_without_its_input_names_the_one_to_run(
    command: Command, runtime_api: RuntimeApiServer, task: str, needs: str
) -> None:
    command.use(runtime_api)
    command.run(task).fail(3, f"{needs}.json is missing", f"run `invoke {needs}`")
    assert not runtime_api.builds


def test_result_of_an_earlier_input_is_not_sent(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    command.run("version", "dockerfile", "context").succeed()
    command.run("dockerfile", "--base-image", "debian:12").succeed()
    command.run("upload").fail(3, "context.json was made from another dockerfile.json", "invoke context")
    command.run("context", "upload", "--custom-tags", "x").fail(2)
    command.run("version", "--custom-tags", "x").succeed()
    command.run("context").fail(3, "dockerfile.json was made from another version.json", "invoke dockerfile")
    assert not runtime_api.builds


def test_archive_that_changed_is_not_sent(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    archive = command.checkout / command.run("version", "dockerfile", "context").succeed().out.splitlines()[-1]
    archive.write_bytes(archive.read_bytes() + b"x")
    command.run("upload").fail(3, archive.name, "invoke context")
    archive.unlink()
    command.run("upload").fail(3, archive.name)
    assert not runtime_api.requests


def test_edited_dockerfile_is_packed_only_after_it_is_known(command: Command) -> None:
    command.run("version", "dockerfile", "context").succeed()
    with (command.output / "Dockerfile").open("a") as file:
        file.write("# by hand\n")
    command.run("context").succeed()
    with tarfile.open(command.output / command.read_state("context")["archive"]) as tar:
        content = tar.extractfile("Dockerfile")
        assert content is not None
        assert content.read().endswith(b"# by hand\n")


def test_checkout_that_moved_on_is_not_packed_under_the_old_name(command: Command) -> None:
    command.run("version", "dockerfile").succeed()
    (command.checkout / "openhands-sdk" / "new.py").touch()
    commit_all(command.checkout)
    command.run("context").fail(3, "version.json", "invoke version")


def test_subdirectory_changes_nothing(command: Command) -> None:
    folder = command.checkout / "openhands-sdk" / "openhands"
    run = command.run("all", folder=folder).succeed()
    assert run.result == f"../../runtime-build/agent-server-{find_short(command)}-python.tar.gz" or os.path.isabs(
        run.result
    )
    assert os.path.samefile(folder / run.result, command.output / command.read_state("version")["archive"])
    below = (command.output / "context.json").read_bytes()
    command.run("all").succeed()
    assert (command.output / "context.json").read_bytes() == below


@pytest.mark.parametrize("directory", ["build output", "deep/er/out", "ünïcode"])
def test_output_may_be_elsewhere(command: Command, directory: str) -> None:
    run = command.run("all", "--output-dir", directory).succeed()
    assert run.result.startswith(f"{directory}/")
    assert (command.checkout / directory / "context.json").exists()
    assert not command.output.exists()


def test_output_below_the_home_may_be_written_with_a_tilde(command: Command) -> None:
    command.run("version", OUTPUT_DIR="~/out").succeed()
    assert (command.checkout.parent / "home" / "out" / "version.json").exists()


def test_flag_goes_before_environment_before_env_file(command: Command) -> None:
    (command.checkout / ".env").write_text("CUSTOM_TAGS=from-file\n")
    assert command.run("version").result.endswith("-from-file")
    assert command.run("version", CUSTOM_TAGS="from-env").result.endswith("-from-env")
    assert command.run("version", "--custom-tags", "from-flag", CUSTOM_TAGS="from-env").result.endswith("-from-flag")
    assert command.run("version", "--custom-tags", "", CUSTOM_TAGS="").result.endswith("-from-file")


def test_flag_of_a_switch_goes_before_the_environment_either_way(command: Command) -> None:
    command.run("version").succeed()
    (command.output / "manifest.yaml").touch()
    command.run("all", "--no-clean-output", CLEAN_OUTPUT="true").succeed()
    assert (command.output / "manifest.yaml").exists()
    command.run("all", "--clean-output", CLEAN_OUTPUT="false").succeed()
    assert not (command.output / "manifest.yaml").exists()
    command.run("all", "--clean-output", "--no-clean-output").fail(2, "--no-clean-output")


@pytest.mark.parametrize("words", [("versoin",), ("version", "--tagret", "x"), ("all", "--target"), ("--nonsense",)])
def test_misspelt_command_line_is_exit_2(command: Command, words: tuple[str, ...]) -> None:
    command.run(*words).fail(2, "runtime-build --help")
    assert not command.output.exists()


def test_all_begins_with_a_clean_directory_unless_told_otherwise(command: Command) -> None:
    old = f"agent-server-{find_short(command)}-old.tar.gz"
    command.run("all", CUSTOM_TAGS="old").succeed()
    (command.output / "notes.txt").touch()
    command.run("all", CUSTOM_TAGS="new").succeed()
    assert "notes.txt" in os.listdir(command.output)
    assert old not in os.listdir(command.output)


def test_clean_leaves_no_trace_and_can_be_repeated(command: Command) -> None:
    before = run_git(command.checkout, "status", "--porcelain", "--ignored")
    command.run("all").succeed()
    assert command.run("clean").succeed().out
    assert command.run("clean").succeed().out == ""
    assert run_git(command.checkout, "status", "--porcelain", "--ignored") == before


def test_clean_makes_nothing_where_nothing_is(command: Command) -> None:
    command.run("clean", OUTPUT_DIR="not/there/yet").succeed()
    assert not (command.checkout / "not").exists()


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
    assert image == f"{PREFIX}/agent-server:{find_short(command)}-python-source-minimal"
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
    process = command.start("all")
    assert process.stderr is not None
    seen = ""
    while "Build status: RUNNING" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "invoke wait --build-id build-1" in err
    assert "Traceback" not in err
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
    run = command.run("all", GITHUB_OUTPUT=str(tmp_path / "out"), CUSTOM_TAGS="dev,staging").succeed()
    outputs = {}
    lines = iter((tmp_path / "out").read_text().splitlines())
    for line in lines:
        name, _, mark = line.partition("<<")
        outputs[name] = "\n".join(iter(lambda: next(lines), mark))
    assert outputs == {
        "short_sha": find_short(command),
        "tags": "dev,staging",
        "archive": f"runtime-build/agent-server-{find_short(command)}-dev.tar.gz",
        "build_id": "build-1",
        "image": run.result,
    }


def test_output_file_of_github_that_cannot_be_written_is_a_warning(command: Command) -> None:
    run = command.run("version", GITHUB_OUTPUT="/nowhere/at/all").succeed()
    assert "warning: GITHUB_OUTPUT" in run.err


def test_readers_that_go_away_change_nothing(command: Command) -> None:
    process = command.start("all")
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
    process = command.start("all")
    assert process.stderr is not None
    while "RUNNING" not in process.stderr.readline():
        assert process.poll() is None
    command.run("version").fail(3, "another run")
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143


def write_tasks(folder: Path, text: str) -> Command:
    """Return invoke, run in a project that has a `tasks.py` of its own."""
    (folder / "tasks.py").write_text(textwrap.dedent(text))
    return Command(folder, dict(SOURCE), (sys.executable, "-m", "invoke"))


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


def test_invokes_own_ways_to_show_a_run_show_no_key(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    run = command.run("-d", "-e", "all").succeed()
    assert KEY not in run.out + run.err


def test_this_repository_packs_its_example(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(
        PACKAGE_ROOT / "examples", clone / "examples", ignore=shutil.ignore_patterns("__pycache__", ".venv")
    )
    shutil.copy(PACKAGE_ROOT / "tasks.py", clone)
    sha = commit_all(clone)
    invoke = Command(clone, program=(sys.executable, "-m", "invoke"))
    assert invoke.run("all").succeed().result == f"runtime-build/agent-server-{sha[:7]}-python.tar.gz"
    with tarfile.open(clone / "runtime-build" / invoke.read_state("context")["archive"]) as tar:
        assert {"Dockerfile", "pyproject.toml", "openhands/agent_server/app.py"} <= set(tar.getnames())
