"""The workers of the server: which builder gets which build, and how each build ends. Engines are small programs."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from buildkit.engines.options import BuildOptions
from buildkit.engines.podman import Podman
from buildkit.errors import BuildFailed, LocalError, NotStarted
from buildkit.server.attempt import WorkerOptions
from buildkit.server.builders import Builder, choose_builder
from buildkit.server.records import Build, NewBuild, Query
from buildkit.server.store import Store
from buildkit.server.worker import Workers
from tests.builders import LOST, Builds, FileContexts, FileLogs, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


OPTIONS = WorkerOptions(check_interval_s=0.1)
# A build of about half a second that notices when its builder goes away.
LOOP = f"for i in 1 2 3 4 5; do test ! -e $down || {{ echo '{LOST}'; exit 1; }}; sleep 0.1; done\n"


class Site:
    """A server without its network: a store, contexts, logs, and workers on small programs."""

    def __init__(self, folder: Path) -> None:
        self.builds = Builds(folder)
        self.store = Store(folder / "builds.sqlite")
        self.contexts = FileContexts(folder)
        self.logs = FileLogs(folder)
        self.workers: list[Workers] = []

    def start(self, *builders: str, options: WorkerOptions = OPTIONS) -> Workers:
        engines = [self.builds.make_engine(name) for name in builders]
        workers = Workers(self.store, self.contexts, self.logs, engines, options)
        workers.start()
        self.workers.append(workers)
        return workers

    def add(self, script: str, image: str = "a:1", base: str = "debian") -> Build:
        digest = f"{abs(hash(script)):x}"
        self.contexts.put(digest, script)
        build = self.store.add(NewBuild(image, (), base, "ann", digest), 1000)
        for workers in self.workers:
            workers.wake()
        return build

    def read(self, build: Build) -> Build:
        found = self.store.get(build.id)
        assert found is not None
        return found

    def wait(self, build: Build, *statuses: str, timeout_s: float = 30.0) -> Build:
        assert wait_for(lambda: self.read(build).status in statuses, timeout_s), self.read(build)
        return self.read(build)

    def wait_for_log(self, build: Build, text: str) -> None:
        log = self.logs.folder / f"{build.id}.log"
        assert wait_for(lambda: log.exists() and text in log.read_text())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    for workers in made.workers:
        workers.stop(5)
    made.store.close()


def test_a_build_succeeds_and_its_log_has_every_line(site: Site) -> None:
    site.start("one")
    build = site.add(
        "echo '#1 [1/2] FROM debian'; echo '#1 DONE 0.0s'; echo '#2 exporting to image'\n", "registry.test/a:1"
    )
    ended = site.wait(build, "SUCCESS")
    assert (ended.image, ended.builder, ended.attempts, ended.step) == ("registry.test/a:1", "one", 1, "")
    assert ended.started_at is not None
    assert ended.finished_at is not None
    assert site.logs.read(build.id).splitlines() == [
        "[runtime-build] building registry.test/a:1 with one (attempt 1 of 3)",
        "#1 [1/2] FROM debian",
        "#1 DONE 0.0s",
        "#2 exporting to image",
        "[runtime-build] SUCCESS",
    ]


def test_a_running_build_shows_its_step(site: Site) -> None:
    site.start("one")
    build = site.add("echo '#4 [builder 2/3] RUN make'; echo '#4 0.1 output'; sleep 60\n")
    assert wait_for(lambda: site.read(build).step == "[builder 2/3] RUN make")


def test_a_build_whose_own_step_failed_is_a_failure_and_is_never_repeated(site: Site) -> None:
    site.start("one")
    script = "echo '#5 [2/2] RUN make'; echo '#5 0.1 the reason'; echo '#5 ERROR: exit code: 3'; exit 1\n"
    ended = site.wait(site.add(script), "FAILURE")
    assert "the reason" in str(ended.error)
    assert len(str(ended.error)) < 1200
    assert ended.attempts == 1
    assert "[runtime-build] FAILURE: " in site.logs.read(ended.id)


def test_a_step_that_prints_what_a_lost_engine_says_is_still_a_failure(site: Site) -> None:
    site.start("one")
    script = (
        f"echo '#5 0.1 {LOST}'; echo 'ERROR: failed to solve: process /bin/sh did not complete: exit code: 1'; exit 1\n"
    )
    assert site.wait(site.add(script), "FAILURE").attempts == 1


def test_a_lost_engine_queues_the_build_again_at_most_twice(site: Site) -> None:
    site.start("one")
    ended = site.wait(site.add(f"echo '{LOST}'; exit 1\n"), "INTERNAL_ERROR")
    assert ended.attempts == 3
    log = site.logs.read(ended.id)
    assert log.count("the build is queued again") == 2
    assert log.count("this was the last attempt") == 1
    assert "interrupted 3 times" in str(ended.error)


def test_a_build_waits_for_an_engine_that_is_missing_at_the_start(site: Site) -> None:
    site.builds.break_builder("one")
    workers = site.start("one")
    build = site.add("exit 0\n")
    assert wait_for(lambda: "connection refused" in workers.describe()[0]["problem"])
    time.sleep(0.3)
    assert (site.read(build).status, site.read(build).attempts) == ("QUEUED", 0)
    site.builds.mend_builder("one")
    assert site.wait(build, "SUCCESS").attempts == 1
    assert workers.describe()[0]["problem"] == ""


def test_a_program_that_is_not_installed_is_a_problem_of_its_builder(site: Site) -> None:
    workers = Workers(site.store, site.contexts, site.logs, [Podman("/nowhere/podman")], OPTIONS)
    workers.start()
    site.workers.append(workers)
    assert wait_for(lambda: "cannot be run" in workers.describe()[0]["problem"])


def test_a_cancelled_build_stops_and_leaves_no_process(site: Site) -> None:
    workers = site.start("one")
    build = site.add("echo begun $$; exec sleep 300\n")
    site.wait_for_log(build, "begun")
    asked = workers.cancel(build.id)
    assert asked is not None
    assert asked.cancel_requested
    ended = site.wait(build, "CANCELLED", timeout_s=5)
    assert ended.error is None
    assert "[runtime-build] CANCELLED" in site.logs.read(build.id)
    assert workers.cancel("unknown") is None


def test_a_waiting_build_is_cancelled_without_being_run(site: Site) -> None:
    workers = site.start("one", options=OPTIONS._replace(slots=1))
    first = site.add("sleep 300\n")
    site.wait(first, "RUNNING")
    second = site.add("exit 0\n", "second:1")
    asked = workers.cancel(second.id)
    assert asked is not None
    assert asked.status == "CANCELLED"
    workers.cancel(first.id)
    site.wait(first, "CANCELLED")
    assert "second:1" not in {entry[0] for entry in site.builds.read_ledger()}


def test_a_cancellation_between_claim_and_start_is_not_missed(site: Site) -> None:
    """Cancelled over and over from another thread while builds start, each build ends."""
    workers = site.start("one", options=OPTIONS._replace(slots=4))
    builds = [site.add("sleep 300\n") for _ in range(12)]
    for build in builds:
        wait_for(lambda build=build: site.read(build).status != "QUEUED")  # type: ignore[misc]  # mypy does not infer a lambda with a default
        workers.cancel(build.id)
    for build in builds:
        site.wait(build, "CANCELLED")


def test_a_build_that_takes_too_long_times_out(site: Site) -> None:
    site.start("one", options=OPTIONS._replace(build_timeout_s=0.5))
    ended = site.wait(site.add("sleep 300\n"), "TIMEOUT", timeout_s=10)
    assert ended.error == "did not finish within 0.5 s"


def test_stopping_puts_running_builds_back_and_starts_no_more(site: Site) -> None:
    workers = site.start("one", options=OPTIONS._replace(slots=1))
    running, waiting = site.add("sleep 300\n"), site.add("exit 0\n")
    site.wait(running, "RUNNING")
    started = time.monotonic()
    workers.stop(8)
    assert time.monotonic() - started < 8
    for build in (running, waiting):
        assert (site.read(build).status, site.read(build).attempts) == ("QUEUED", 0)
    assert "the server stops; the build is queued again" in site.logs.read(running.id)


def test_an_engine_that_does_not_stop_in_time_does_not_keep_its_build(site: Site) -> None:
    workers = site.start("one")
    build = site.add("trap '' TERM; echo begun; while true; do sleep 1; done\n")
    site.wait_for_log(build, "begun")
    workers.stop(0)
    assert site.read(build).status == "QUEUED"
    time.sleep(2.5)
    assert (site.read(build).status, site.read(build).attempts) == ("QUEUED", 0)


def test_builds_that_ran_when_the_server_was_killed_are_built(site: Site) -> None:
    build = site.add("exit 0\n")
    assert site.store.claim("one", lambda _: True)
    site.start("one")
    ended = site.wait(build, "SUCCESS")
    assert ended.attempts == 2
    assert "interrupted: the server was killed; the build is queued again" in site.logs.read(build.id)


def test_no_more_builds_run_at_a_time_than_the_builder_has_slots(site: Site) -> None:
    workers = site.start("one", options=OPTIONS._replace(slots=2))
    builds = [site.add("sleep 0.3\n", f"a:{number}") for number in range(6)]
    most = 0
    while any(site.read(build).status != "SUCCESS" for build in builds):
        most = max(most, workers.describe()[0]["running"], site.store.counts().get("RUNNING", 0))
        time.sleep(0.02)
    assert most == 2
    assert count_at_once(site) == 2


def test_a_missing_context_ends_the_build_and_not_the_worker(site: Site) -> None:
    site.start("one")
    lost = site.store.add(NewBuild("a:1", (), "debian", "ann", "nowhere"), 10)
    ended = site.wait(lost, "INTERNAL_ERROR")
    assert "No such file" in str(ended.error)
    site.wait(site.add("exit 0\n"), "SUCCESS")


def test_a_log_that_cannot_be_written_ends_the_build(site: Site) -> None:
    class FullLog:
        def write(self, line: str) -> None:
            if "too much" in line:
                raise LocalError("cannot write log: No space left on device", "free some disk space")

        def close(self) -> None:
            pass

    class FullLogs:
        def open(self, build_id: str) -> FullLog:  # noqa: ARG002 - one log for all
            return FullLog()

    workers = Workers(site.store, site.contexts, FullLogs(), [site.builds.make_engine("one")], OPTIONS)
    workers.start()
    site.workers.append(workers)
    ended = site.wait(site.add("echo too much; sleep 300\n"), "INTERNAL_ERROR", timeout_s=10)
    assert "No space left" in str(ended.error)


def test_builds_on_the_same_base_go_to_the_same_builder_until_it_is_full(site: Site) -> None:
    workers = site.start("one", "two", options=OPTIONS._replace(slots=2))
    assert wait_for(lambda: all(not builder["problem"] for builder in workers.describe()))
    builders = set()
    for number in range(4):
        builders.add(site.wait(site.add("exit 0\n", f"a:{number}", base="debian:13"), "SUCCESS").builder)
    assert len(builders) == 1
    assert wait_for(lambda: all(not builder["running"] for builder in workers.describe()))
    busy = [site.add("sleep 1\n", f"b:{number}", base="debian:13") for number in range(3)]
    for build in busy:
        site.wait(build, "RUNNING", "SUCCESS")
    assert Counter(site.read(build).builder for build in busy)[builders.pop()] == 2


def test_different_bases_are_spread_and_only_those_of_a_missing_builder_move(tmp_path: Path) -> None:
    builders = [Builder(Builds(tmp_path).make_engine(name)) for name in ("one", "two", "three")]
    bases = [f"debian:{number}" for number in range(300)]
    before = {base: choose(builders, base) for base in bases}
    assert min(Counter(before.values()).values()) > 60
    after = {base: choose(builders[:2], base) for base in bases}
    assert {base for base in bases if before[base] != after[base]} == {
        base for base in bases if before[base] == "three"
    }
    assert choose_builder([], "debian") is None


def test_of_two_builders_one_dies_midway_and_every_build_succeeds(site: Site) -> None:
    site.start("one", "two")
    builds = [site.add(f"{LOOP}: {number}\n", f"a:{number}", base=f"base{number}") for number in range(20)]
    assert wait_for(lambda: {entry[1] for entry in site.builds.read_ledger()} == {"one", "two"})
    assert wait_for(lambda: site.store.counts().get("SUCCESS", 0) >= 3)
    site.builds.break_builder("two")
    for build in builds:
        site.wait(build, "SUCCESS", timeout_s=60)
    ledger = site.builds.read_ledger()
    assert any(entry[1:] == ["two", "begins"] for entry in ledger)
    for build in builds:
        runs = [entry[2] for entry in ledger if entry[0] == build.target_image]
        assert runs == ["begins", "ends"] * (len(runs) // 2), "built twice at the same time"
        assert len(runs) // 2 == site.read(build).attempts
    assert max(site.read(build).attempts for build in builds) == 2, "the builder died while it was building"
    assert site.store.list(Query(status="SUCCESS"))[0].builder == "one"


@pytest.mark.parametrize(
    "last",
    [
        "ERROR: failed to solve: Unavailable: connection closed before server preface",
        "ERROR: failed to build: context deadline exceeded",
    ],
)
def test_a_client_that_lost_its_engine_says_so_last(tmp_path: Path, last: str) -> None:
    engine = Builds(tmp_path).make_engine("one")
    context = tmp_path / "context"
    context.write_text(f"echo '{last}'; exit 1\n")
    with context.open("rb") as file, pytest.raises(NotStarted, match="was lost during build a:1"):
        engine.build(file.fileno(), ["a:1"], BuildOptions(), lambda _: None)
    context.write_text(f"echo '{LOST}'; echo 'ERROR: failed to solve: the step failed'; exit 1\n")
    with context.open("rb") as file, pytest.raises(BuildFailed):
        engine.build(file.fileno(), ["a:1"], BuildOptions(), lambda _: None)


def choose(builders: list[Builder], base: str) -> str:
    chosen = choose_builder(builders, base)
    assert chosen is not None
    return chosen.name


def count_at_once(site: Site) -> int:
    """Return how many builds were running at the busiest moment."""
    running = most = 0
    for _, _, what in site.builds.read_ledger():
        running += 1 if what == "begins" else -1
        most = max(most, running)
    return most
