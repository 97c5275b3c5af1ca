"""The whole server with two BuildKit daemons as its builders, of which one is killed."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.builders import wait_for
from tests.engine.buildkits import create_builder, make_environment, run_buildkit
from tests.serving import Served, format_json, pack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.engine.buildkits import Buildkit

KEY = "key-for-the-tests-of-the-builders"
BUILDS = 20
BUILDERS = ("one", "two")
DOCKERFILE = "FROM scratch\nADD tiny.tar /\nRUN echo {number}; sleep 1\nCOPY Dockerfile /\n"
# Notes each build in a ledger before and after docker runs it; everything else is docker's own.
WRAPPER = """#!/bin/sh
case "$1 $2" in "buildx build") ;; *) exec {docker} "$@" ;; esac
for word in "$@"; do
    case "$word" in --builder=*) builder=${{word#*=}} ;; --tag=*) tag=${{word#*=}} ;; esac
done
echo "$tag $builder begins" >>{ledger}
{docker} "$@"
code=$?
echo "$tag $builder ends" >>{ledger}
exit $code
"""


class Site:
    """A server, its daemons by the names of their builders, and the ledger of all builds that were started."""

    def __init__(self, folder: Path, daemons: dict[str, Buildkit], environment: dict[str, str], prefix: str) -> None:
        self.daemons = daemons
        self._ledger = folder / "ledger"
        docker = shutil.which("docker", path=environment["PATH"])
        wrapper = folder / "wrapper/docker"
        wrapper.parent.mkdir()
        wrapper.write_text(WRAPPER.format(docker=docker, ledger=self._ledger))
        wrapper.chmod(stat.S_IRWXU)
        settings = {
            "PATH": f"{wrapper.parent}{os.pathsep}{environment['PATH']}",
            "DOCKER_CONFIG": environment["DOCKER_CONFIG"],
            "ENGINE": "buildx",
            "BUILDER": ",".join(daemons),
            "REGISTRY_PREFIX": prefix,
            "RUNTIME_API_KEY": KEY,
            "RUNTIME_API_URL": "http://127.0.0.1",
        }
        self.server = Served(folder / "server", ("--network", "none"), settings)

    def read_ledger(self) -> list[list[str]]:
        """Return `[image, builder, "begins" or "ends"]` in order."""
        return [line.split() for line in self._ledger.read_text().splitlines()] if self._ledger.exists() else []

    def count_running(self, builder: str) -> int:
        return sum(1 if what == "begins" else -1 for _, name, what in self.read_ledger() if name == builder)

    def count_ended(self, builder: str) -> int:
        return sum(what == "ends" for _, name, what in self.read_ledger() if name == builder)


@pytest.fixture
def site(engine_folder: Path, registry: str) -> Iterator[Site]:
    folder = engine_folder / "builders"
    environment = make_environment(folder)
    with ExitStack() as stack:
        for name in BUILDERS:
            create_builder(folder / name, environment)
        daemons = {name: stack.enter_context(run_buildkit(folder / name, environment)) for name in BUILDERS}
        found = Site(folder, daemons, environment, f"{registry}/builders")
        stack.enter_context(found.server)
        yield found


def pack_build(number: int, tiny_rootfs: Path) -> bytes:
    return pack({"tiny.tar": tiny_rootfs.read_bytes()}, DOCKERFILE.format(number=number))


def test_of_two_daemons_one_is_killed_and_every_build_succeeds(site: Site, registry: str, tiny_rootfs: Path) -> None:
    server = site.server
    assert wait_for(lambda: not any(b["problem"] for b in server.call("GET", "/health").record["builders"]), 60)
    images = [f"{registry}/builders/app:{number}" for number in range(BUILDS)]
    ids = {}
    for number, image in enumerate(images):
        answer = server.post(format_json(pack_build(number, tiny_rootfs), image))
        assert answer.status == 200, answer
        ids[image] = answer.record["build_id"]
    assert wait_for(lambda: site.count_ended("one") >= 2 and site.count_running("one") == 2, 60), server.read_err()
    site.daemons["one"].daemon.kill()

    for image, build_id in ids.items():
        state = server.wait(build_id, timeout_s=90)
        assert state["status"] == "SUCCESS", (state, server.call("GET", "/build_logs", build_id=build_id).body)
        assert server.call("GET", "/image_exists", image=image).record["exists"], image
    running: dict[str, str] = {}
    for image, builder, what in site.read_ledger():
        if what == "begins":
            assert image not in running, f"{image} is built twice at the same time"
            running[image] = builder
        else:
            assert running.pop(image) == builder
    assert not running
    builds = server.call("GET", "/builds", limit="100").record["builds"]
    assert {build["builder"] for build in builds} == set(BUILDERS)
    interrupted = [build for build in builds if build["attempts"] > 1]
    assert interrupted
    assert {build["builder"] for build in interrupted} == {"two"}
