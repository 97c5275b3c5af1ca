"""Task `images` with a local engine, in whose place a small program does what the Dockerfile asks for."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.checkouts import commit_all

if TYPE_CHECKING:
    from tests.commands import Command, Ended

STAND_IN = Path(__file__).with_name("stand_in_docker.py")
BASE = "127.0.0.1:1/base"


class Docker:
    """The stand-in, and what it has been asked for."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.folder = command.world / "engine"
        (command.world / "bin").mkdir()
        self.folder.mkdir()
        program = command.world / "bin/docker"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} "$@"\n')
        program.chmod(0o755)
        path = f"{command.world}/bin:{command.environment['PATH']}"
        command.environment |= {"PATH": path, "STAND_IN_DOCKER": str(self.folder), "ENGINE": "docker"}
        command.environment |= {"DOCKERFILE": "own.Dockerfile", "BUILDER_IMAGE": "", "ALLOW_DIRTY": "true"}
        self.write()

    def write(self, *lines: str, count: int = 3) -> None:
        """Let the images be built by these lines."""
        text = "\n".join(["ARG BASE_IMAGE=debian", "FROM ${BASE_IMAGE} AS source-minimal", *lines, ""])
        (self.command.checkout / "own.Dockerfile").write_text(text)
        bases = "".join(f"{BASE}:{number}\n" for number in range(1, count + 1))
        (self.command.checkout / "bases.txt").write_text(bases)
        commit_all(self.command.checkout)

    def read(self, name: str) -> list[str]:
        """Return the lines of a file that the stand-in has written."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def run(self, *arguments: str, **settings: Any) -> Ended:
        """Run `images`."""
        return self.command.run("images", "--bases", "bases.txt", *arguments, changing=("engine",), **settings)

    def results(self) -> dict[str, dict[str, Any]]:
        """Return the images of `images.json` by name."""
        text = (self.command.output / "images.json").read_text()
        return {image["name"]: image for image in json.loads(text)["images"]}


@pytest.fixture
def docker(command: Command) -> Docker:
    return Docker(command)


def test_one_archive_is_built_on_every_base_image(docker: Docker) -> None:
    first = docker.run().succeed()
    assert sorted(docker.read("begun")) == [f"{BASE}:{number}" for number in (1, 2, 3)]
    assert len(set(docker.read("built"))) == 1
    assert len(first.out.split()) == 3
    for name in ("base-1", "base-2", "base-3"):
        folder = docker.command.output / "images" / name
        assert "[1/" in (folder / "build.log").read_text()
        assert json.loads((folder / "build.json").read_text())["image"] == docker.results()[name]["reference"]
    assert docker.run().succeed().out == first.out
    assert len(docker.read("begun")) == 3
    assert {image["status"] for image in docker.results().values()} == {"already there"}
    docker.run("--force").succeed()
    assert len(docker.read("begun")) == 6


def test_single_tasks_work_in_the_directory_of_any_image(docker: Docker) -> None:
    docker.write("RUN print 1", "RUN on base:2 fail")
    docker.run().fail(6, "missing: base-2")
    own = {"OUTPUT_DIR": str(docker.command.output / "images/base-2"), "changing": ("engine",)}
    log = docker.command.run("logs", **own).succeed().out
    assert "RUN on base:2 fail" in log
    assert log.splitlines() == (docker.command.output / "images/base-2/build.log").read_text().splitlines()
    # The log of a build on a server, once there is one, comes from there.
    docker.command.run("logs", "--build-id", "b-1", **own).fail(2, "RUNTIME_API_URL")
    own["OUTPUT_DIR"] = str(docker.command.output / "images/base-1")
    image = docker.results()["base-1"]["reference"]
    assert f'image: "{image}"' in docker.command.run("manifest", **own).succeed().out
    docker.command.run("context", **own).succeed()
    assert docker.command.run("build", **own).succeed().result.endswith("-source-minimal")
    dockerfile = (docker.command.output / "images/base-1/Dockerfile").read_text()
    assert f'ARG BASE_IMAGE="{BASE}:1"' in dockerfile


def test_a_step_that_fails_is_not_tried_again_and_stops_no_other(docker: Docker) -> None:
    docker.write("RUN on base:2 fail")
    ended = docker.run().fail(6, "1 of 3 images are missing: base-2")
    assert len(ended.out.split()) == 2
    assert sorted(docker.read("begun")) == [f"{BASE}:{number}" for number in (1, 2, 3)]
    assert "it does not work" in docker.results()["base-2"]["error"]
    assert docker.run("--only-failed", "--dry-run").succeed().out.split()[2] == "base-2"


def test_a_lost_engine_is_waited_for(docker: Docker) -> None:
    docker.write("RUN on base:2 lose")
    ended = docker.run("--workers", "1").succeed()
    assert docker.read("begun").count(f"{BASE}:2") == 2
    assert "base-2 is tried again: docker was lost" in ended.err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("failed to solve: x: not found", "does not exist"),
        ("failed to solve: no match for platform in manifest: not found", "is not for this platform"),
        ("failed to solve: process /bin/sh: exec format error", "is not for this platform"),
    ],
)
def test_a_wrong_base_image_is_named(docker: Docker, words: str, reason: str) -> None:
    docker.write(f"RUN on base:3 refuse {words}")
    docker.run().fail(6, "missing: base-3")
    assert f"its base image {BASE}:3 {reason}" in docker.results()["base-3"]["error"]


def test_a_pull_limit_is_not_a_failed_build(docker: Docker) -> None:
    docker.write("RUN on base:1 limit", count=1)
    ended = docker.run().succeed()
    assert docker.read("begun") == [f"{BASE}:1"] * 2
    assert "base-1 is tried again" in ended.err


def test_a_build_that_says_nothing_is_cancelled_and_tried_once_more(docker: Docker) -> None:
    docker.write("RUN on base:2 sleep 60")
    ended = docker.run("--stall-timeout", "1").fail(6, "missing: base-2")
    assert docker.read("begun").count(f"{BASE}:2") == 2
    assert "logged nothing for 1 s" in docker.results()["base-2"]["error"]
    assert len(ended.out.split()) == 2


def test_a_full_disk_ends_the_run_and_says_what_to_do(docker: Docker) -> None:
    docker.run("--keep-free", "999999GB").fail(3, "less than 1000.0 TB", "cannot prune", "smaller --keep-free")
    assert docker.read("begun") == []
    assert {image["status"] for image in docker.results().values()} == {"to build"}
    docker.run("--keep-free", "1kB").succeed()


def test_the_oldest_c_library_of_each_kind_is_built_on_and_looked_for_once(docker: Docker) -> None:
    docker.command.environment["DOCKERFILE"] = ""
    docker.write(count=4)
    known = ["ldd (Debian GLIBC 2.36-9) 2.36", "ldd (Ubuntu GLIBC 2.31-0) 2.31", "ldd (GNU libc) 2.34"]
    known.append("musl libc (x86_64) Version 1.2.4")
    (docker.folder / "libraries").write_text(
        json.dumps({f"{BASE}:{number}": text for number, text in enumerate(known, 1)})
    )
    planned = docker.run("--dry-run").succeed()
    assert f"the server is built on {BASE}:2 (glibc 2.31)" in planned.err
    assert f"the server is built on {BASE}:4 (musl 1.2)" in planned.err
    texts = [path.read_text() for path in sorted(docker.command.output.glob("recipes/*/Dockerfile"))]
    assert [f'ARG BUILDER_IMAGE="{BASE}:2"' in text for text in texts] == [True, False]
    assert [f'ARG BUILDER_IMAGE="{BASE}:4"' in text for text in texts] == [False, True]
    assert docker.run("--dry-run").succeed().out == planned.out
    assert len(docker.read("examined")) == 4


def test_a_builder_image_has_a_python_that_the_source_accepts(docker: Docker) -> None:
    docker.command.environment["DOCKERFILE"] = ""
    docker.write(count=2)
    lock = docker.command.checkout / "uv.lock"
    text = lock.read_text()
    assert 'requires-python = ">=3.1' in text
    lock.write_text(re.sub(r'^requires-python = ".*"$', 'requires-python = ">=3.13"', text, flags=re.MULTILINE))
    commit_all(docker.command.checkout)
    known = {f"{BASE}:1": "ldd (GNU libc) 2.31", f"{BASE}:2": "ldd (GNU libc) 2.36\npython: Python 3.13.2"}
    (docker.folder / "libraries").write_text(json.dumps(known))
    docker.run("--dry-run").fail(
        2, f"needs Python >=3.13, and {BASE}:1", "(glibc 2.31)", "has 3.12", "set BUILDER_IMAGE"
    )
    docker.run("--dry-run", BUILDER_IMAGE=f"{BASE}:2").succeed()
    known[f"{BASE}:1"] += "\npython: Python 3.13.0"
    (docker.folder / "libraries").write_text(json.dumps(known))
    (docker.command.output / "images.jsonl").unlink()
    assert f"the server is built on {BASE}:1" in docker.run("--dry-run").succeed().err


def test_a_base_image_without_a_known_c_library_says_what_to_set(docker: Docker) -> None:
    docker.command.environment["DOCKERFILE"] = ""
    (docker.folder / "libraries").write_text(
        json.dumps({f"{BASE}:{number}": "sh: ldd: not found" for number in (1, 2, 3)})
    )
    docker.run().fail(2, "the C library of", "set BUILDER_IMAGE")


def test_a_base_image_that_cannot_be_examined_says_what_to_set(docker: Docker) -> None:
    docker.command.environment["DOCKERFILE"] = ""
    (docker.folder / "libraries").write_text("{}")
    ended = docker.run().fail(2, "the C library of", "set BUILDER_IMAGE")
    assert ended.err.count("cannot run") == 3


def test_a_signal_cancels_the_builds_and_the_next_run_continues(docker: Docker) -> None:
    docker.write("RUN on base:1 print 1", "RUN on base:2 sleep 30", "RUN on base:3 sleep 30")
    running = docker.command.start("images", "--bases", "bases.txt", changing=("engine",))
    running.wait_for("built base-1")
    started = time.monotonic()
    running.signal(signal.SIGTERM)
    running.wait(hang_s=10).fail(143, "interrupted", "continues where it stopped")
    assert time.monotonic() - started < 10
    assert docker.results()["base-1"]["status"] == "built"
    assert docker.results()["base-2"]["status"] == "to build"
    planned = docker.run("--dry-run").succeed()
    assert "2 to build, 1 already there; about" in planned.err


def test_push_needs_a_registry(docker: Docker) -> None:
    docker.run("--push").fail(2, "--push needs a registry", "IMAGE_NAME=")
    assert docker.read("begun") == []
