"""The workers of the server on real engines: steps, failures, cancellation, and JSON progress."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from buildkit.engines import find_engine
from buildkit.engines.container import inspect_image
from buildkit.engines.podman import Podman
from buildkit.server.attempt import WorkerOptions
from buildkit.server.records import NewBuild
from buildkit.server.steps import parse_steps
from buildkit.server.store import Store
from buildkit.server.worker import Workers
from tests.builders import FileContexts, FileLogs, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.engines.engine import Engine
    from buildkit.server.records import Build
    from tests.engine.services import MakeArchive

ENDED = {"SUCCESS", "FAILURE", "INTERNAL_ERROR", "CANCELLED", "TIMEOUT"}


@pytest.fixture(params=["docker", "buildx", "buildah"])
def engine(request: pytest.FixtureRequest, docker: Engine, tiny_base: str, tiny_rootfs: Path) -> Engine:
    """Each kind of engine, with the tiny base image in its storage."""
    if request.param != "buildah":
        found: Engine = docker if request.param == "docker" else request.getfixturevalue("buildx")
        return found
    request.getfixturevalue("containers_storage")
    if Podman("podman").run("image", "exists", tiny_base).code:
        assert Podman("podman").run("import", str(tiny_rootfs), tiny_base).code == 0
    return find_engine("buildah")


def build(engine: Engine, archive: Path, folder: Path, cancel_at: str = "") -> tuple[Build, str]:
    """Return the ended build and its log."""
    store, contexts, logs = Store(folder / "builds.sqlite"), FileContexts(folder), FileLogs(folder)
    name = f"localhost/serve-{engine.name}:1"
    workers = Workers(store, contexts, logs, [engine], WorkerOptions(network="" if engine.name == "buildx" else "host"))
    added = store.add(NewBuild(name, (f"{name}-too",), "tiny", "ann", archive.name), 10)
    workers.start()

    def read() -> Build:
        found = store.get(added.id)
        assert found is not None
        return found

    log = folder / f"{added.id}.log"
    if cancel_at:
        assert wait_for(lambda: log.exists() and cancel_at in log.read_text(), 60)
        workers.cancel(added.id)
    assert wait_for(lambda: read().status in ENDED, 120), log.read_text()
    ended = read()
    workers.stop(8)
    store.close()
    return ended, log.read_text()


def test_a_build_succeeds_with_its_steps(engine: Engine, make_archive: MakeArchive, tmp_path: Path) -> None:
    mark = f"{engine.name} {time.time_ns()}"
    dockerfile = "FROM localhost/tiny:1 AS base\nENV A=1\nFROM base AS last\nCOPY a /a\n"
    ended, log = build(engine, make_archive({"Dockerfile": dockerfile, "a": mark}), tmp_path)
    assert (ended.status, ended.error) == ("SUCCESS", None), log
    program = Podman("podman") if engine.name == "buildah" else engine
    assert inspect_image(program, f"{ended.image}-too").environment["A"] == "1"
    steps = {step.title.rpartition("] ")[2]: step for step in parse_steps(log.splitlines())}
    copied = next(step for title, step in steps.items() if "COPY a /a" in title)
    assert copied.state == "done", log
    assert (copied.duration_s is None) == (engine.name == "buildah")


def test_a_failing_step_is_found_with_its_output(
    docker: Engine, tiny_base: str, make_archive: MakeArchive, tmp_path: Path
) -> None:
    dockerfile = f"FROM {tiny_base}\nRUN echo the reason; exit 3\n"
    ended, log = build(docker, make_archive({"Dockerfile": dockerfile}), tmp_path)
    assert (ended.status, ended.attempts) == ("FAILURE", 1), log
    assert "the reason" in str(ended.error)
    [failed] = [step for step in parse_steps(log.splitlines()) if step.state == "failed"]
    assert "the reason" in [line for _, line in failed.lines]


def test_a_running_step_is_cancelled(docker: Engine, tiny_base: str, make_archive: MakeArchive, tmp_path: Path) -> None:
    dockerfile = f"FROM {tiny_base}\nRUN echo begun{time.time_ns()}; sleep 300\n"
    ended, log = build(docker, make_archive({"Dockerfile": dockerfile}), tmp_path, cancel_at=" begun")
    assert ended.status == "CANCELLED", log
    assert "running" not in {step.state for step in parse_steps(log.splitlines())}


def test_buildx_reports_json_and_the_log_is_still_plain(
    buildx: Engine, tiny_base: str, make_archive: MakeArchive, tmp_path: Path
) -> None:
    archive = make_archive({"Dockerfile": f"FROM {tiny_base}\nCOPY missing /a\n"})
    ended, log = build(buildx, archive, tmp_path)
    assert buildx.reports_json
    assert ended.status == "FAILURE", log
    assert "{" not in log
    assert any(step.state == "failed" for step in parse_steps(log.splitlines())), log
