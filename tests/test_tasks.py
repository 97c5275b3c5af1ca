"""The real command: every task alone, in a chain, from anywhere; its results, its flags, its refusals."""

from __future__ import annotations

import os
import re
import tarfile
from typing import TYPE_CHECKING

import pytest

from buildkit.tasks import make_collection
from tests.checkouts import commit_all, run_git
from tests.runtime_api import KEY, PREFIX, RuntimeApiServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.commands import Command

TASKS = sorted(make_collection().tasks)
STEPS = ("version", "dockerfile", "context", "upload", "wait")


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
    name = f"agent-server-{command.short_sha}-python"
    assert command.run("version").succeed().result == name
    assert command.run("dockerfile").succeed().result == "runtime-build/Dockerfile"
    assert command.run("context").succeed().result == f"runtime-build/{name}.tar.gz"
    assert command.run("upload").succeed().result == "build-1"
    image = f"{PREFIX}/agent-server:{command.short_sha}-python-source-minimal"
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
    command.run(task).fail(3, f"{needs}.json is missing", f"run `runtime-build {needs}`")
    assert not runtime_api.builds


def test_result_of_an_earlier_input_is_not_sent(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    command.run("version", "dockerfile", "context").succeed()
    command.run("dockerfile", "--base-image", "debian:12").succeed()
    command.run("upload").fail(3, "context.json was made from another dockerfile.json", "runtime-build context")
    command.run("context", "upload", "--custom-tags", "x").fail(2)
    command.run("version", "--custom-tags", "x").succeed()
    command.run("context").fail(3, "dockerfile.json was made from another version.json", "runtime-build dockerfile")
    assert not runtime_api.builds


def test_archive_that_changed_is_not_sent(command: Command, runtime_api: RuntimeApiServer) -> None:
    command.use(runtime_api)
    archive = command.checkout / command.run("version", "dockerfile", "context").succeed().out.splitlines()[-1]
    archive.write_bytes(archive.read_bytes() + b"x")
    command.run("upload").fail(3, archive.name, "runtime-build context")
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
    command.run("context").fail(3, "version.json", "runtime-build version")


def test_subdirectory_changes_nothing(command: Command) -> None:
    folder = command.checkout / "openhands-sdk" / "openhands"
    run = command.run("all", folder=folder).succeed()
    assert run.result == f"../../runtime-build/agent-server-{command.short_sha}-python.tar.gz" or os.path.isabs(
        run.result
    )
    assert os.path.samefile(folder / run.result, command.output / command.read_state("version")["archive"])
    below = (command.output / "context.json").read_bytes()
    command.run("all").succeed()
    assert (command.output / "context.json").read_bytes() == below


@pytest.mark.parametrize("directory", ["build output", "deep/er/out", "ünïcode"])
def test_output_may_be_elsewhere(command: Command, directory: str) -> None:
    default, command.outputs = command.output, [command.checkout / directory]
    run = command.run("all", "--output-dir", directory, changing=("src/deep",)).succeed()
    assert run.result.startswith(f"{directory}/")
    assert (command.output / "context.json").exists()
    assert not default.exists()


def test_output_below_the_home_may_be_written_with_a_tilde(command: Command) -> None:
    command.outputs = [command.world / "home" / "out"]
    command.run("version", OUTPUT_DIR="~/out").succeed()
    assert (command.output / "version.json").exists()


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
    old = f"agent-server-{command.short_sha}-old.tar.gz"
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


def test_what_serve_keeps_in_the_tree_is_not_packed(command: Command, tmp_path: Path) -> None:
    """Outside git no `.gitignore` leaves it out, and it holds keys and the contexts of others."""
    service = tmp_path / "service"
    for name in ("runtime-server/keys/keys", ".runtime-server.lock", "runtime-server2/m.py", "main.py"):
        (service / name).parent.mkdir(parents=True, exist_ok=True)
        (service / name).write_text("")
    command.outputs = [service / "runtime-build"]
    listed = command.run("context", "--files", SOURCE_DIR=str(service), SERVE_DATA=str(service / "runtime-server"))
    assert sorted(re.findall(r"\S*(?:server|main)\S*", listed.succeed().out)) == [
        "main.py",
        "runtime-server2/m.py",
    ]
