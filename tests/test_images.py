"""Task `images` with a Runtime API: real command, real sockets, scripted builds."""

from __future__ import annotations

import json
import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.bulk_api import BulkApi, read_events, run_bulk_api
from tests.checkouts import commit_all
from tests.misbehaviour import answer
from tests.serving import Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.commands import Command, Ended

# Nothing listens there, so no registry says anything.
BASE = "127.0.0.1:1/base"
NAMES = [f"base-{number}" for number in range(1, 7)]


@pytest.fixture
def api(command: Command) -> Iterator[BulkApi]:
    with run_bulk_api() as api:
        command.use(api.server)
        write_bases(command, 6)
        yield api


def write_bases(command: Command, count: int) -> None:
    (command.checkout / "bases.txt").write_text("".join(f"{BASE}:{number}\n" for number in range(1, count + 1)))


def run_images(command: Command, *arguments: str, **settings: Any) -> Ended:
    return command.run("images", "--bases", "bases.txt", *arguments, **settings)


def read_results(command: Command) -> dict[str, dict[str, Any]]:
    results = json.loads((command.output / "images.json").read_text())["images"]
    return {result["name"]: result for result in results}


def test_every_image_is_built_once_and_a_second_run_builds_none(command: Command, api: BulkApi) -> None:
    first = run_images(command).succeed()
    assert sorted(first.out.split()) == sorted(api.started)
    assert len(set(api.started)) == 6
    results = read_results(command)
    assert list(results) == NAMES
    assert {result["status"] for result in results.values()} == {"built"}
    second = run_images(command).succeed()
    assert second.out == first.out
    assert len(api.started) == 6
    assert {result["status"] for result in read_results(command).values()} == {"already there"}
    assert "6 already there" in second.err


def test_the_source_is_packed_once_and_each_archive_has_its_own_dockerfile(command: Command, api: BulkApi) -> None:
    ended = run_images(command).succeed()
    assert ended.err.count(" packed ") == 1
    assert len({build.archive_sha256 for build in api.server.builds}) == 6
    for name in NAMES:
        text = (command.output / "images" / name / "Dockerfile").read_text()
        assert f'ARG BASE_IMAGE="{BASE}:{name[-1]}"' in text
        assert "runtime-build.invalid" not in text
        assert not list((command.output / "images" / name).glob("*.tar.gz"))


def test_single_tasks_work_in_the_directory_of_any_image(command: Command, api: BulkApi) -> None:
    run_images(command).succeed()
    folder = command.output / "images" / NAMES[2]
    own = {"OUTPUT_DIR": str(folder)}
    image = read_results(command)[NAMES[2]]["reference"]
    assert command.run("wait", **own).succeed().result == image
    assert command.run("logs", **own).succeed().out == "step 1\nstep 2\n"
    command.run("upload", **own).fail(3, "missing or has changed")
    assert command.run("context", **own).succeed().result.endswith(".tar.gz")
    command.run("upload", "--target-image", image, **own).succeed()
    assert len(api.started) == 7
    same = [build.archive_sha256 for build in api.server.builds if build.target_image == image]
    assert same[0] == same[1]


def test_one_failure_stops_no_other_and_is_named(command: Command, api: BulkApi) -> None:
    wanted = json.loads(run_images(command, "--dry-run", "--json").succeed().out)["images"][3]["reference"]
    api.fails = lambda image: image == wanted
    ended = run_images(command).fail(6, "1 of 6 images are missing: base-4", "images --only-failed")
    assert len(ended.out.split()) == 5
    assert "FAILED base-4" in ended.err
    assert "a step failed" in ended.err
    result = read_results(command)["base-4"]
    assert result["status"] == "failed"
    assert "a step failed" in result["error"]
    assert "**failed**" in (command.output / "images.md").read_text()
    assert len(api.started) == 6
    api.fails = lambda _: False
    assert run_images(command, "--only-failed").succeed().result == wanted
    assert api.started[6:] == [wanted]


def test_a_plan_builds_nothing_and_estimates_once_something_has_been_built(command: Command, api: BulkApi) -> None:
    planned = run_images(command, "--dry-run").succeed()
    assert planned.out.count("to build") == 6
    assert "6 to build" in planned.err
    assert "about" not in planned.err
    assert api.started == []
    run_images(command, "--shard", "1/2").succeed()
    assert len(api.started) == 3
    planned = run_images(command, "--dry-run").succeed()
    assert "3 to build, 3 already there" in planned.err


def test_shards_and_force(command: Command, api: BulkApi) -> None:
    for shard in ("1/4", "2/4", "3/4", "4/4"):
        run_images(command, "--shard", shard).succeed()
    assert len(set(api.started)) == len(api.started) == 6
    run_images(command, "--shard", "1/6", "--force").succeed()
    assert len(api.started) == 7


def test_the_name_tells_the_contents(command: Command, api: BulkApi) -> None:
    plan = run_images(command, "--dry-run").succeed().out
    assert run_images(command, "--dry-run").succeed().out == plan
    for changes in (
        {"TARGET": "source"},
        {"EXTRA_PACKAGES": "jq"},
        {"BUILDER_IMAGE": "debian:12"},
        {"EXCLUDE": "*.md"},
    ):
        other = run_images(command, "--dry-run", **changes).succeed().out
        assert not {line.split()[-1] for line in plan.splitlines()} & {line.split()[-1] for line in other.splitlines()}
    (command.checkout / "README.md").write_text("changed")
    changed = run_images(command, "--dry-run").succeed().out
    assert not set(plan.split()) & {word for word in changed.split() if "agent-server" in word}


def test_images_toml_gives_each_image_its_own_settings(command: Command, api: BulkApi) -> None:
    (command.checkout / "images.toml").write_text(
        f'target = "source-minimal"\n[[image]]\nbase = "{BASE}:1"\ntags = ["one"]\n'
        f'[[image]]\nbase = "{BASE}:1"\nname = "full"\ntarget = "source"\nextra_packages = ["jq"]\n'
    )
    command.run("images").succeed()
    assert [len(build.tags) for build in api.server.builds if build.tags] == [1]
    texts = [(command.output / "images" / name / "Dockerfile").read_text() for name in ("base-1", "full")]
    assert ["AS source\n" in text for text in texts] == [False, True]
    assert ["jq" in text for text in texts] == [False, True]
    command.run("images").succeed()
    assert len(api.started) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"{BASE}:1\n{BASE}:1\n", "is also that of"),
        ("a/b:1\na-b:1\n", "the name 'a-b-1' is also"),
        ("\n", "names no image"),
        ("x y\n", "not an image reference"),
    ],
)
def test_a_bad_list_is_refused_before_anything_is_touched(
    command: Command, api: BulkApi, text: str, problem: str
) -> None:
    (command.checkout / "bases.txt").write_text(text)
    run_images(command).fail(2, problem)
    assert api.server.requests == []
    assert not command.list_output() or command.list_output() == [".gitignore"]


@pytest.mark.parametrize(
    ("arguments", "settings", "problem"),
    [
        (["--bases", "bases.txt"], {"TARGET_IMAGE": "a/b:1"}, "TARGET_IMAGE names one image"),
        (["--bases", "bases.txt", "--shard", "3/2"], {}, "--shard is not K/N"),
        (["--bases", "bases.txt", "--workers", "0"], {}, "--workers"),
        (["--bases", "bases.txt", "--keep-free", "many"], {}, "--keep-free is not a size"),
        ([], {}, "no images are named"),
    ],
)
def test_bad_usage(
    command: Command, api: BulkApi, arguments: list[str], settings: dict[str, str], problem: str
) -> None:
    command.run("images", *arguments, **settings).fail(2, problem)
    assert api.server.requests == []


def test_a_refused_key_ends_the_run(command: Command, api: BulkApi) -> None:
    api.server.always("POST /build", answer(401, {"detail": "no"}))
    run_images(command, "--workers", "1").fail(4, "401", "RUNTIME_API_KEY")
    assert api.server.count("POST /build") == 1
    assert {result["status"] for result in read_results(command).values()} == {"to build"}


def test_a_server_that_claims_everything_is_not_believed(command: Command, api: BulkApi) -> None:
    api.server.always("GET /image_exists", answer(200, {"exists": True}))
    ended = run_images(command).succeed()
    assert "claims to have images that cannot exist" in ended.err
    assert len(api.started) == 6
    run_images(command).succeed()
    assert len(api.started) == 6


def test_an_image_that_the_server_no_longer_has_is_built_again(command: Command, api: BulkApi) -> None:
    run_images(command).succeed()
    api.server.always("GET /image_exists", answer(200, {"exists": False}))
    run_images(command).succeed()
    assert len(api.started) == 12


def test_a_server_that_fails_does_not_mean_that_nothing_is_there(command: Command, api: BulkApi) -> None:
    run_images(command).succeed()
    api.server.always("GET /image_exists", answer(403, {"detail": "no"}))
    run_images(command).fail(4, "403")
    assert len(api.started) == 6


def test_what_another_machine_submitted_is_waited_for(command: Command, api: BulkApi) -> None:
    """The journal alone is passed on: no directory of any image."""
    api.polls = 1_000_000
    running = command.start("images", "--bases", "bases.txt", "--workers", "6")
    running.wait_for("6 to build")
    while api.server.count("GET /build_status") < 6:
        pass
    running.signal(signal.SIGTERM)
    running.wait().fail(143, "interrupted", "continues where it stopped")
    api.polls = 0
    api.settle()
    journal = (command.output / "images.jsonl").read_bytes()
    shutil.rmtree(command.output)
    command.output.mkdir()
    (command.output / "images.jsonl").write_bytes(journal)
    planned = run_images(command, "--dry-run").succeed()
    assert "6 waiting" in planned.err
    assert sorted(run_images(command).succeed().out.split()) == sorted(api.started)
    assert len(api.started) == 6


def test_a_journal_of_another_context_says_nothing(command: Command, api: BulkApi) -> None:
    run_images(command).succeed()
    (command.checkout / "README.md").write_text("another context")
    run_images(command).succeed()
    assert len(set(api.started)) == len(api.started) == 12
    events = read_events((command.output / "images.jsonl").read_text())
    assert [event["event"] for event in events].count("built") == 12


def test_the_summary_goes_to_github_and_no_page_can_be_spoiled(command: Command, api: BulkApi) -> None:
    summary = command.world / "summary.md"
    api.fails = lambda _: True
    ended = command.run(
        "images", "--bases", "bases.txt", GITHUB_STEP_SUMMARY=str(summary), changing=("summary.md",)
    ).fail(6)
    assert ended.out == ""
    assert summary.read_text() == (command.output / "images.md").read_text()
    assert summary.read_text().startswith("### 0 of 6 images\n")


def test_a_lost_response_is_asked_for_again_and_starts_nothing_twice(command: Command, api: BulkApi) -> None:
    lost = iter(["lost"] * 2)
    api.trouble = lambda name: next(lost, "") if name == "POST /build" else ""
    run_images(command, "--workers", "2").succeed()
    assert len(set(api.started)) == len(api.started) == 6
    assert api.server.count("POST /build") == 8


def test_without_that_feature_the_outcome_stays_unknown_until_forced(command: Command, api: BulkApi) -> None:
    api.server.always("GET /", answer(404))
    lost = iter(["lost"])
    api.trouble = lambda name: next(lost, "") if name == "POST /build" else ""
    run_images(command, "--workers", "1").fail(6, "1 of 6 images are missing: base-1")
    assert read_results(command)["base-1"]["status"] == "waiting"
    run_images(command).fail(6, "1 of 6 images are missing: base-1")
    assert api.server.count("POST /build") == 6
    run_images(command, "--shard", "1/6", "--force").succeed()
    assert api.server.count("POST /build") == 7


def test_clean_removes_everything_but_not_while_a_server_builds(command: Command, api: BulkApi) -> None:
    api.polls = 1_000_000
    running = command.start("images", "--bases", "bases.txt", "--shard", "1/6")
    while api.server.count("GET /build_status") < 1:
        pass
    running.signal(signal.SIGTERM)
    running.wait().fail(143)
    ended = command.run("clean").succeed()
    assert "kept the images" in ended.err
    assert (command.output / "images.jsonl").exists()
    api.polls = 0
    api.settle()
    run_images(command).succeed()
    assert "images.jsonl" in command.run("clean").succeed().out.splitlines()
    assert not command.output.exists()


def test_a_disk_that_fills_up_ends_the_run_and_the_next_one_continues(command: Command, api: BulkApi) -> None:
    run_images(command, "--shard", "1/2").succeed()
    journal = command.output / "images.jsonl"
    journal.write_bytes(b"\n" * 300_000 + journal.read_bytes())  # larger than every other file
    run_images(command, order={"file_size_limit": journal.stat().st_size + 700}).fail(
        3, "cannot write", "images.jsonl", "free some disk"
    )
    assert journal.stat().st_size > 300_000
    run_images(command).succeed()
    assert len(set(api.started)) == len(api.started) == 6


def test_our_own_server_gets_the_source_once(command: Command, tmp_path: Path) -> None:
    (command.checkout / "large.bin").write_bytes(os.urandom(400_000))
    (command.checkout / "own.Dockerfile").write_text(
        "ARG BASE_IMAGE=debian\nFROM ${BASE_IMAGE} AS source-minimal\nRUN print 1\n"
    )
    commit_all(command.checkout)
    write_bases(command, 3)
    with Served(tmp_path / "server") as server:
        command.secret = server.key
        command.environment |= {"RUNTIME_API_URL": server.url, "RUNTIME_API_KEY": server.key}
        settings = {"DOCKERFILE": "own.Dockerfile", "INCLUDE": "large.bin", "changing": ("server", "../server")}
        first = run_images(command, **settings).succeed()
        stored = sorted(path.stat().st_size for path in (server.data / "contexts").iterdir() if path.is_file())
        assert run_images(command, **settings).succeed().out == first.out
        assert "3 already there" in run_images(command, "--dry-run", **settings).succeed().err
        command.run("wait", OUTPUT_DIR=str(command.output / "images/base-2")).succeed()
    assert len(first.out.split()) == 3
    assert sum(size > 300_000 for size in stored) == 1
