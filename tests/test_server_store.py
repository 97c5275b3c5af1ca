"""The server's table of builds: order, claims, ends, and what a SIGKILL at any moment leaves."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildkit.errors import LocalError
from buildkit.server.records import Build, NewBuild, Query
from buildkit.server.store import MAX_ATTEMPTS, QueueFull, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
KILLS = 120


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "builds.sqlite")
    yield opened
    opened.close()


def new_build(key: str | None = None, owner: str = "ann", image: str = "registry.test/app:1") -> NewBuild:
    return NewBuild(image, ("registry.test/app:dev",), "debian:13", owner, "c" * 64, idempotency_key=key)


def add(store: Store, **changes: str) -> Build:
    return store.add(new_build(**changes), queue_limit=1000)


def claim(store: Store, builder: str = "docker") -> Build:
    build = store.claim(builder, lambda _: True)
    assert build is not None
    return build


def read(store: Store, build: Build) -> Build:
    found = store.get(build.id)
    assert found is not None
    return found


def test_a_build_is_kept_whole_and_only_its_owner_can_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "builds.sqlite"
    first = Store(path)
    build = first.add(NewBuild("a:1", ("a:2", "a:3"), "debian", "ann", "c" * 64, "d" * 64, "k", "earlier"), 10)
    assert (build.status, build.tags, build.source_sha256, build.retry_of) == (
        "QUEUED",
        ("a:2", "a:3"),
        "d" * 64,
        "earlier",
    )
    assert build.created_at == pytest.approx(time.time(), abs=5)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    first.close()
    second = Store(path)
    assert second.get(build.id) == build
    second.close()


def test_an_idempotency_key_starts_one_build_for_each_owner_even_when_the_queue_is_full(store: Store) -> None:
    build = store.add(new_build("k"), queue_limit=1)
    assert store.add(new_build("k", image="registry.test/other:1"), queue_limit=1) == build
    with pytest.raises(QueueFull):
        store.add(new_build("k", owner="bob"), queue_limit=1)
    assert store.counts() == {"QUEUED": 1}
    assert add(store, key="k", owner="bob").id != build.id


def test_builds_without_a_key_are_different_builds(store: Store) -> None:
    assert add(store).id != add(store).id


def test_one_key_from_many_threads_is_one_build(store: Store) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(add(store, key="k").id)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1


def test_the_oldest_build_that_the_builder_accepts_is_claimed_first(store: Store) -> None:
    first, second, third = (add(store, owner=owner) for owner in ("a", "b", "c"))
    assert [store.queue_position(build) for build in (first, second, third)] == [1, 2, 3]
    claimed = store.claim("docker", lambda build: build.owner != "a")
    assert claimed is not None
    assert (claimed.id, claimed.status, claimed.builder, claimed.attempts) == (second.id, "RUNNING", "docker", 1)
    assert [store.queue_position(build) for build in (first, second, third)] == [1, None, 2]
    assert store.claim("docker", lambda _: False) is None
    assert [claim(store).id, claim(store).id] == [first.id, third.id]
    assert store.claim("docker", lambda _: True) is None


def test_a_build_ends_once_and_only_by_the_attempt_that_claimed_it(store: Store) -> None:
    build = add(store)
    assert not store.finish(build, "SUCCESS")
    first = claim(store)
    assert store.requeue(first)
    second = claim(store)
    assert not store.finish(first, "SUCCESS", "late:1")
    assert not store.requeue(first)
    assert store.finish(second, "FAILURE", error="step 3")
    assert not store.finish(second, "SUCCESS")
    ended = read(store, build)
    assert (ended.status, ended.error, ended.image, ended.attempts) == ("FAILURE", "step 3", None, 2)
    assert ended.finished_at is not None


def test_an_interrupted_build_is_queued_again_twice_ahead_of_younger_ones(store: Store) -> None:
    build, younger = add(store), add(store)
    for _ in range(MAX_ATTEMPTS - 1):
        assert store.requeue(claim(store))
        assert read(store, build).started_at is None
        assert store.queue_position(younger) == 2
    assert not store.requeue(claim(store))
    ended = read(store, build)
    assert (ended.status, ended.attempts) == ("INTERNAL_ERROR", 3)
    assert "interrupted 3 times" in str(ended.error)


def test_stopping_the_server_uses_up_no_attempt(store: Store) -> None:
    build = add(store)
    for _ in range(5):
        assert store.release(claim(store))
    assert (read(store, build).status, read(store, build).attempts) == ("QUEUED", 0)


def test_a_waiting_build_is_cancelled_at_once_and_a_running_one_when_it_stops(store: Store) -> None:
    running, waiting = add(store), add(store)
    claimed = claim(store)
    cancelled = store.request_cancel(waiting.id)
    assert cancelled is not None
    assert (cancelled.status, cancelled.finished_at is None) == ("CANCELLED", False)
    asked = store.request_cancel(running.id)
    assert asked is not None
    assert (asked.status, asked.cancel_requested) == ("RUNNING", True)
    assert not store.requeue(claimed)
    assert (read(store, running).status, read(store, running).error) == ("CANCELLED", None)
    assert store.request_cancel(running.id) == read(store, running)
    assert store.request_cancel("unknown") is None


def test_builds_that_ran_when_the_server_was_killed_are_queued_again(tmp_path: Path) -> None:
    path = tmp_path / "builds.sqlite"
    killed = Store(path)
    plain, cancelled, last, ended = (add(killed) for _ in range(4))
    claims = [claim(killed) for _ in range(4)]
    killed.request_cancel(cancelled.id)
    killed.finish(claims[3], "SUCCESS", "a:1")
    killed.close()
    for expected in ("QUEUED", "QUEUED", "INTERNAL_ERROR"):
        started = Store(path)
        recovered = {build.id: build.status for build in started.recover()}
        assert recovered[last.id] == expected
        assert read(started, plain).status == expected
        assert read(started, cancelled).status == "CANCELLED"
        assert read(started, ended).status == "SUCCESS"
        while started.claim("docker", lambda _: True):
            pass
        started.close()


def test_a_build_expires_by_the_time_that_it_has_been_waiting(store: Store) -> None:
    waiting, running = add(store), add(store)
    claim_first = claim(store)
    claim(store)
    assert store.requeue(claim_first)
    assert store.expire(time.time() - 60) == 0
    assert store.expire(time.time() + 60) == 1
    assert (read(store, waiting).status, read(store, running).status) == ("EXPIRED", "RUNNING")
    assert read(store, waiting).error


def test_the_list_is_newest_first_filtered_and_continued(store: Store) -> None:
    builds = [add(store, owner=f"owner{number}", image=f"registry.test/App:{number}") for number in range(5)]
    claim(store)
    ids = [build.id for build in reversed(builds)]
    assert [build.id for build in store.list(Query())] == ids
    assert [build.id for build in store.list(Query(limit=2))] == ids[:2]
    assert [build.id for build in store.list(Query(limit=2, before=ids[1]))] == ids[2:4]
    assert [build.id for build in store.list(Query(status="RUNNING"))] == ids[-1:]
    assert [build.id for build in store.list(Query(text="aPP:3"))] == [builds[3].id]
    assert [build.id for build in store.list(Query(text="OWNER2"))] == [builds[2].id]
    assert list(store.list(Query(text="100%_'"))) == []
    assert list(store.list(Query(before="unknown"))) == []


def test_an_image_is_found_by_each_of_its_names_once_it_is_built(store: Store) -> None:
    add(store)
    assert store.find_image("registry.test/app:1") is None
    store.finish(claim(store), "SUCCESS", "registry.test/app:1")
    newer = add(store)
    store.finish(claim(store), "SUCCESS", "registry.test/app:1")
    for image in ("registry.test/app:1", "registry.test/app:dev"):
        found = store.find_image(image)
        assert found is not None
        assert found.id == newer.id
    assert store.find_image("registry.test/app") is None


def test_old_builds_are_forgotten_once_they_have_ended(store: Store) -> None:
    ended, running, waiting = add(store), add(store), add(store)
    store.finish(claim(store), "FAILURE")
    claim(store)
    assert list(store.forget(time.time() - 60)) == []
    assert list(store.forget(time.time() + 60)) == [ended.id]
    assert store.get(ended.id) is None
    assert {build.id for build in store.list(Query())} == {running.id, waiting.id}
    assert store.list_digests() == {"c" * 64}


def test_digests_of_ended_builds_are_listed_on_request(store: Store) -> None:
    store.add(NewBuild("a:1", (), "debian", "ann", "1" * 64, "2" * 64), 10)
    store.finish(claim(store), "FAILURE")
    store.add(NewBuild("a:1", (), "debian", "ann", "3" * 64), 10)
    assert store.list_digests() == {"1" * 64, "2" * 64, "3" * 64}
    assert store.list_digests(of_ended=False) == {"3" * 64}


def test_a_file_that_is_no_database_or_comes_from_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "builds.sqlite"
    path.write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(LocalError, match=r"cannot use .*builds\.sqlite"):
        Store(path)
    newer = tmp_path / "newer.sqlite"
    Store(newer).close()
    subprocess.run(
        [sys.executable, "-c", f"import sqlite3; sqlite3.connect({str(newer)!r}).execute('PRAGMA user_version = 99')"],
        check=True,
    )
    with pytest.raises(LocalError, match="newer version"):
        Store(newer)


# Each child works on the table and notes in a ledger what it was told; it is killed at a random moment.
SWEEP = """
import json, os, random, signal, sys, time
from pathlib import Path
from buildkit.server.records import NewBuild
from buildkit.server.store import Store

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
ledger = os.open(folder / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def note(*entry):
    os.write(ledger, json.dumps(entry).encode() + b"\\n")

def work(seed):
    choice = random.Random(seed)
    store = Store(folder / "builds.sqlite")
    for build in store.recover():
        note("recovered", build.id, build.status)
    while True:
        key = f"key{choice.randrange(400)}"
        build = store.add(NewBuild("a:1", ("a:2",), "debian", "ann", "c" * 64, idempotency_key=key), 10_000)
        note("added", key, build.id)
        for _ in range(choice.randrange(3)):
            claimed = store.claim("docker", lambda _: True)
            if claimed is None:
                break
            note("claimed", claimed.id, claimed.attempts)
            if choice.random() < 0.2:
                note("requeued", claimed.id, store.requeue(claimed))
            elif store.finish(claimed, "SUCCESS", "a:1"):
                note("finished", claimed.id, claimed.attempts)

waits = random.Random(12)
for seed in range(kills):
    child = os.fork()
    if child == 0:
        work(seed)
    time.sleep(waits.uniform(0.001, 0.08))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_a_kill_at_any_moment_loses_nothing_tears_nothing_and_ends_nothing_twice(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SWEEP, str(tmp_path), str(KILLS)], check=True, cwd=ROOT)
    entries = [json.loads(line) for line in (tmp_path / "ledger").read_text().splitlines()]
    kinds = Counter(entry[0] for entry in entries)
    assert min(kinds[kind] for kind in ("added", "claimed", "finished", "requeued", "recovered")) > 0, kinds
    store = Store(tmp_path / "builds.sqlite")
    store.recover()
    builds = {build.id: build for build in store.list(Query(limit=100_000))}
    by_key: dict[str, set[str]] = {}
    for kind, key, build_id in entries:
        if kind == "added":
            by_key.setdefault(key, set()).add(build_id)
            assert build_id in builds, "an accepted build is lost"
    assert all(len(ids) == 1 for ids in by_key.values()), "a key has started a second build"
    finished = Counter(entry[1] for entry in entries if entry[0] == "finished")
    assert set(finished.values()) == {1}, "a build has ended twice"
    assert all(builds[build_id].status == "SUCCESS" for build_id in finished)
    claims = Counter((entry[1], entry[2]) for entry in entries if entry[0] == "claimed")
    assert set(claims.values()) == {1}, "an attempt was given to two builders"
    assert len({build.idempotency_key for build in builds.values()}) == len(builds)
    assert {build.status for build in builds.values()} <= {"QUEUED", "SUCCESS", "INTERNAL_ERROR"}
    while claimed := store.claim("docker", lambda _: True):
        assert store.finish(claimed, "SUCCESS", "a:1")
    assert set(store.counts()) <= {"SUCCESS", "INTERNAL_ERROR"}
    store.close()
