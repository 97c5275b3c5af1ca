"""`deploy/Dockerfile` as an image, restricted as on Kubernetes: it serves, and builds on a BuildKit elsewhere."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.engine.buildkits import make_environment, run_buildkit
from tests.serving import Served, format_multipart, pack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.engines.engine import Engine

REPOSITORY = Path(__file__).parents[2]
KEY = "key-for-the-image-of-the-server"
# Stands in for Python's own image.
PYTHON = """FROM localhost/base:1
RUN python3 -m venv /usr/local/python
ENV PATH=/usr/local/python/bin:$PATH
"""


@pytest.fixture(scope="module")
def python_base(docker: Engine, debian_base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("python")
    (folder / "Dockerfile").write_text(PYTHON)
    built = docker.run("build", "--network=host", "--tag=localhost/python:1", str(folder), timeout_s=300)
    assert built.code == 0, built.stderr
    return "localhost/python:1"


@pytest.fixture(scope="module")
def image(docker: Engine, python_base: str) -> str:
    options = ["--network=host", f"--build-arg=BASE_IMAGE={python_base}", "--tag=localhost/runtime-build:1"]
    built = docker.run("build", *options, f"--file={REPOSITORY}/deploy/Dockerfile", str(REPOSITORY), timeout_s=600)
    assert built.code == 0, built.stderr[-3000:]
    return "localhost/runtime-build:1"


@pytest.fixture(scope="module")
def buildkit_socket(engine_folder: Path) -> Iterator[Path]:
    """The socket of a BuildKit, which the server's user may use."""
    folder = engine_folder / "bk"
    with run_buildkit(folder, make_environment(engine_folder / "bk-client")) as buildkit:
        buildkit.socket.chmod(0o777)
        yield buildkit.socket


def format_restrictions() -> list[str]:
    """Return what the manifest of the Deployment allows, as options of `docker run`."""
    documents = yaml.safe_load_all((REPOSITORY / "deploy/kubernetes/server.yaml").read_text("utf-8"))
    pod = next(document for document in documents if document["kind"] == "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    plain = [f"--env={entry['name']}={entry['value']}" for entry in container["env"] if "value" in entry]
    user = f"--user={pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    return [*plain, user, "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp"]


def pick_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def served(
    docker: Engine, image: str, buildkit_socket: Path, registry: str, tmp_path: Path
) -> Iterator[tuple[Served, str]]:
    """The container's server and its name."""
    port, data, access = pick_port(), tmp_path / "data", tmp_path / "access"
    for folder in (data, access):
        folder.mkdir()
    (access / "config.json").write_text("{}")
    data.chmod(0o777)
    tmp_path.chmod(0o755)
    settings = {
        "SERVE_PORT": str(port),
        "SERVE_HOST": "127.0.0.1",
        "BUILDKIT_HOSTS": "unix:///buildkit/bk.sock",
        "REGISTRY_PREFIX": f"{registry}/team",
        "RUNTIME_API_KEY": KEY,
    }
    mounts = [f"--volume={data}:/data", f"--volume={buildkit_socket.parent}:/buildkit"]
    mounts += [f"--volume={access}:{find_docker_config()}:ro"]
    options = [*format_restrictions(), *(f"--env={name}={value}" for name, value in settings.items()), *mounts]
    started = docker.run("run", "--detach", "--network=host", *options, image)
    assert started.code == 0, started.stderr
    try:
        wait_for_health(docker, started.stdout, port)
        yield Served(tmp_path, url=f"http://127.0.0.1:{port}", key=KEY), started.stdout
    finally:
        docker.run("rm", "--force", started.stdout)


def find_docker_config() -> str:
    """Return where the manifest mounts the registry's credentials."""
    options = format_restrictions()
    (folder,) = (option.partition("=")[2].partition("=")[2] for option in options if "=DOCKER_CONFIG=" in option)
    return folder


def wait_for_health(docker: Engine, container: str, port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                assert b'"problem":""' in answer.read()
                return
        except (AssertionError, OSError, urllib.error.URLError):
            logs = docker.run("logs", container)
            assert time.monotonic() < deadline, logs.stdout + logs.stderr
            time.sleep(0.2)


def test_the_image_builds_on_a_buildkit_elsewhere_pushes_and_stops(
    docker: Engine, served: tuple[Served, str], registry: str
) -> None:
    server, container = served
    name = f"{registry}/team/deployed:1"
    context = pack({"hello": f"built at {time.time_ns()}"}, "FROM scratch\nCOPY hello /hello\n")
    answer = server.post(format_multipart(context, name))
    assert answer.status == 202, answer
    state = server.call("GET", "/build_status", build_id=answer.record["build_id"]).record
    deadline = time.monotonic() + 60
    while state["status"] in {"QUEUED", "RUNNING"}:
        assert time.monotonic() < deadline, state
        time.sleep(0.1)
        state = server.call("GET", "/build_status", build_id=answer.record["build_id"]).record
    log = server.call("GET", "/build_logs", build_id=answer.record["build_id"]).body.decode()
    assert state["status"] == "SUCCESS", log
    assert server.call("GET", "/image_exists", image=name).record["exists"] is True
    stopped = subprocess.run([docker.program, "stop", "--time=10", container], capture_output=True, check=False)
    assert stopped.returncode == 0
    ended = docker.run("inspect", "--format={{.State.ExitCode}}", container)
    assert ended.stdout == "0", docker.run("logs", container).stderr
