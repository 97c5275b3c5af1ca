"""Step `build` on real engines: what it makes, what it pushes, what it says when it fails, how it is cancelled."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from buildkit.engines import find_engine
from buildkit.engines.container import inspect_image
from buildkit.engines.options import BuildOptions
from buildkit.engines.podman import Podman
from buildkit.errors import BuildFailed, NotStarted
from tests.engine.services import build_image

if TYPE_CHECKING:
    from buildkit.engines.engine import Engine
    from tests.engine.services import MakeArchive


class Interrupted(Exception):
    """What a signal becomes while a build is watched."""


@pytest.fixture(params=["docker", "podman", "buildah"])
def engine(request: pytest.FixtureRequest, docker: Engine, containers_storage: Path, tiny_rootfs: Path) -> Engine:
    """Each engine that builds, with the tiny base image in its storage."""
    request.getfixturevalue("tiny_base")
    found = find_engine(str(request.param))
    if found.name != "docker" and Podman("podman").run("image", "exists", "localhost/tiny:1").code:
        imported = Podman("podman").run("import", str(tiny_rootfs), "localhost/tiny:1")
        assert imported.code == 0, imported.stderr
    return found


def test_an_archive_becomes_an_image_with_all_its_names(engine: Engine, make_archive: MakeArchive) -> None:
    dockerfile = "FROM localhost/tiny:1\nCOPY a /a\nRUN cat /a\nENV A=1\n"
    archive = make_archive({"Dockerfile": dockerfile, "a": f"hello {engine.name}\n"})
    log: list[str] = []
    names = ["localhost/one:a", "localhost/two:b"]
    with archive.open("rb") as file:
        built = engine.build(file.fileno(), names, BuildOptions(network="host"), log.append)
    assert built.digest is None
    assert f"hello {engine.name}" in "\n".join(log)
    program = Podman("podman") if engine.name == "buildah" else engine
    for name in names:
        assert strip(inspect_image(program, name).image_id) == strip(built.image_id)
    assert inspect_image(program, "localhost/one:a").environment["A"] == "1"


def test_the_target_is_the_stage_that_was_asked_for(engine: Engine, make_archive: MakeArchive) -> None:
    stages = "FROM localhost/tiny:1 AS first\nENV S=first\nFROM localhost/tiny:1 AS last\nENV S=last\n"
    archive = make_archive({"Dockerfile": stages})
    program = Podman("podman") if engine.name == "buildah" else engine
    for target, stage in (("", "last"), ("first", "first")):
        build_image(engine, archive, f"localhost/stage:{stage}", BuildOptions(target=target))
        assert inspect_image(program, f"localhost/stage:{stage}").environment["S"] == stage


def test_a_pushed_image_is_pulled_by_the_digest_that_was_reported(
    engine: Engine, registry: str, make_archive: MakeArchive
) -> None:
    archive = make_archive({"Dockerfile": f"FROM localhost/tiny:1\nENV PUSHED_BY={engine.name}\n"})
    image = f"{registry}/acme/{engine.name}:1"
    with archive.open("rb") as file:
        names = [image, f"{registry}/acme/{engine.name}:2"]
        built = engine.build(file.fileno(), names, BuildOptions(push=True), lambda _: None)
    assert built.digest is not None
    assert built.digest == read_digest(registry, f"acme/{engine.name}", "1")
    assert built.digest == read_digest(registry, f"acme/{engine.name}", "2")
    docker = find_engine("docker")
    pinned = inspect_image(docker, f"{registry}/acme/{engine.name}@{built.digest}")
    assert pinned.environment["PUSHED_BY"] == engine.name


def test_a_failing_step_ends_the_build_with_the_end_of_its_log(engine: Engine, make_archive: MakeArchive) -> None:
    archive = make_archive({"Dockerfile": f"FROM localhost/tiny:1\nRUN echo the reason; : {'x' * 3000}; exit 3\n"})
    log: list[str] = []
    with pytest.raises(BuildFailed, match=r"the reason(?!; :)") as failure:
        build_image(engine, archive, "localhost/failed:1", BuildOptions(network="host"), log)
    assert failure.value.exit_code == 6
    assert len(failure.value.message) < 1200
    assert any("the reason" in line for line in log)


def test_controls_in_the_log_are_escaped_but_for_colours(engine: Engine, make_archive: MakeArchive) -> None:
    step = f"printf '\\033]0;{engine.name} owned\\007\\r\\033[31mred\\n'"
    archive = make_archive({"Dockerfile": f"FROM localhost/tiny:1\nRUN {step}\n"})
    log: list[str] = []
    build_image(engine, archive, "localhost/controls:1", BuildOptions(network="host"), log)
    assert any("owned" in line for line in log)
    assert any("\x1b[31mred" in line for line in log)
    assert all(re.sub(r"\x1b\[[0-9;]*m", "", line).isprintable() for line in log)


def test_a_refused_push_says_which_reference(engine: Engine, make_archive: MakeArchive) -> None:
    archive = make_archive({"Dockerfile": "FROM localhost/tiny:1\n"})
    with pytest.raises(BuildFailed, match=r"push 127\.0\.0\.1:1/acme/no:1"):
        build_image(engine, archive, "127.0.0.1:1/acme/no:1", BuildOptions(push=True))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_build_and_leaves_no_process(
    engine: Engine, number: signal.Signals, make_archive: MakeArchive
) -> None:
    mark = f"31{time.time_ns() % 10**7:07d}"
    archive = make_archive({"Dockerfile": f"FROM localhost/tiny:1\nRUN echo begun; sleep {mark}\n"})
    process = start_build(engine, archive)
    assert process.stdout is not None
    for line in process.stdout:
        if "begun" in line and "echo" not in line:
            break
    assert find_processes(f"sleep {mark}"), "the step must run before it can be cancelled"
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert wait_for_none(f"sleep {mark}")
    assert wait_for_none(str(archive))


def test_a_build_is_cancelled_from_another_thread(engine: Engine, make_archive: MakeArchive) -> None:
    mark = f"32{time.time_ns() % 10**7:07d}"
    archive = make_archive({"Dockerfile": f"FROM localhost/tiny:1\nRUN echo begun; sleep {mark}\n"})
    cancelled = threading.Event()

    def report(line: str) -> None:
        if "begun" in line and "echo" not in line:
            threading.Timer(0.5, cancelled.set).start()

    with archive.open("rb") as file, pytest.raises(BuildFailed):
        engine.build(
            file.fileno(), ["localhost/cancelled:2"], BuildOptions(network="host", cancelled=cancelled), report
        )
    assert cancelled.is_set()
    assert wait_for_none(f"sleep {mark}")


def test_an_engine_that_is_gone_is_not_started(docker: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(NotStarted, match="nonexistent"):
        find_engine("docker")


def test_a_client_that_lacks_its_plugin_is_passed_over_for_one_that_works(docker: Engine) -> None:
    """The engine fixture found a client; whichever it is, it must be one that builds with BuildKit."""
    clients = [path for path in ("/usr/local/bin/docker", "/usr/bin/docker") if Path(path).exists()]
    assert docker.program in clients
    assert docker.version


def test_a_named_builder_builds_and_loads_the_image(buildx: Engine, tiny_base: str, make_archive: MakeArchive) -> None:
    archive = make_archive({"Dockerfile": f"FROM {tiny_base}\nENV BY=buildx\n"})
    built = build_image(buildx, archive, "localhost/buildx:1")
    image = inspect_image(buildx, "localhost/buildx:1")
    assert (built.image_id, built.digest) == (image.image_id, None)
    assert image.environment["BY"] == "buildx"


def test_a_named_builder_pushes_and_reports_the_registrys_digest(
    buildx: Engine, tiny_base: str, registry: str, make_archive: MakeArchive
) -> None:
    archive = make_archive({"Dockerfile": f"FROM {tiny_base}\nENV BY=buildx-push\n"})
    built = build_image(buildx, archive, f"{registry}/acme/buildx:1", BuildOptions(push=True))
    assert built.digest == read_digest(registry, "acme/buildx", "1")


def test_a_builder_that_does_not_exist_is_not_started(buildx: Engine) -> None:
    with pytest.raises(NotStarted, match="no-such-builder"):
        find_engine("buildx", ["no-such-builder"])


def test_a_builder_whose_engine_is_gone_is_not_started(buildx: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(NotStarted, match="nonexistent"):
        find_engine("buildx", ["default"])


def start_build(engine: Engine, archive: Path) -> subprocess.Popen[str]:
    """Return a process that builds as the tasks do: signals become exceptions, then exit codes."""
    script = f"""
import signal, sys
from buildkit.engines import find_engine
from buildkit.engines.options import BuildOptions

def stop(number, frame):
    raise SystemExit(128 + number)

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
with open({str(archive)!r}, "rb") as file:
    find_engine({engine.name!r}).build(file.fileno(), ["localhost/cancelled:1"], BuildOptions(network="host"),
                                       lambda line: print(line, flush=True))
"""
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def find_processes(text: str) -> list[str]:
    """Return the command lines on this machine that hold `text`, but for our own and zombies."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text in command and "pytest" not in command:
            found.append(command)
    return found


def wait_for_none(text: str) -> bool:
    for _ in range(100):
        if not find_processes(text):
            return True
        time.sleep(0.1)
    return False


def read_digest(registry: str, repository: str, tag: str) -> str:
    accepted = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
    request = urllib.request.Request(f"http://{registry}/v2/{repository}/manifests/{tag}", headers={"Accept": accepted})
    with urllib.request.urlopen(request, timeout=30) as answer:
        manifest: dict[str, Any] = json.loads(answer.read())
        assert manifest["layers"]
        return str(answer.headers["Docker-Content-Digest"])


def strip(image_id: str) -> str:
    return image_id.removeprefix("sha256:")
