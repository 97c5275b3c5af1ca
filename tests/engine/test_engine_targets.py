"""The four targets of the example, built and verified by the command as users type it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from buildkit.engines.container import inspect_image
from buildkit.engines.options import BuildOptions
from buildkit.engines.podman import Podman
from buildkit.models import Target
from buildkit.settings import Settings
from buildkit.tasks.verify import VerifyRequest, verify
from buildkit.ui import Ui
from buildkit.workspace import Workspace
from tests.engine.services import TRUST_VARIABLES, MakeArchive, build_image, make_base_rootfs, try_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from buildkit.engines.engine import Engine

    Run = Callable[..., subprocess.CompletedProcess[str]]

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples/agent-server"
CHAIN = ("version", "dockerfile", "context", "build", "--network", "host")
# The desktop's browser alone is larger than all the rest; tests of a feature's own rendering do not need an engine.
FEATURES = "docker"


@pytest.fixture(scope="session")
def checkout(engine_folder: Path) -> Path:
    """A checkout of the example with a commit of its own, which tests may touch."""
    folder = engine_folder / "checkout"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
    run_git(folder, "init", "-q", "-b", "main")
    commit(folder, "first")
    return folder


@pytest.fixture(scope="session")
def run(checkout: Path, debian_base: str) -> Run:
    """Return a function that runs tasks in the checkout, each target in an output directory of its own."""

    def run_tasks(*tasks: str, target: str = "source-minimal", **settings: str) -> subprocess.CompletedProcess[str]:
        own = {
            "BASE_IMAGE": debian_base,
            "FEATURES": FEATURES,
            "OUTPUT_DIR": str(checkout.parent / f"out-{target}"),
            "PYTHONPATH": str(REPOSITORY),
            "TARGET": target,
            "TARGET_IMAGE": f"localhost/example:{target}",
        }
        command = [sys.executable, "-m", "buildkit", *tasks]
        environment = {**os.environ, **own, **settings}
        return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)

    return run_tasks


@pytest.fixture(scope="session")
def source_image(run: Run) -> str:
    done = run(*CHAIN)
    assert done.returncode == 0, done.stderr[-3000:]
    return "localhost/example:source-minimal"


@pytest.mark.parametrize("target", ["source-minimal", "source", "binary-minimal", "binary"])
def test_a_target_is_built_and_keeps_the_contract(run: Run, checkout: Path, target: str) -> None:
    built = run(*CHAIN, target=target)
    assert built.returncode == 0, built.stderr[-3000:]
    assert built.stdout.splitlines()[-1] == f"localhost/example:{target}"
    verified = run("verify", target=target)
    assert verified.returncode == 0, verified.stdout + verified.stderr[-3000:]
    state = read_state(checkout, target, "verify")
    assert state["ok"] is True
    assert {"/health on port 8000", "/health on port 60000", "stop on port 8000"} <= {
        finding["subject"] for finding in state["findings"]
    }
    assert state["health_s"] is not None
    build = read_state(checkout, target, "build")
    assert build["engine"] == "docker"
    assert build["image_id"].startswith("sha256:")
    assert build["digest"] is None


def test_the_targets_are_really_different(run: Run, docker: Engine, source_image: str) -> None:
    assert run(*CHAIN, target="binary-minimal").returncode == 0
    binary = "localhost/example:binary-minimal"
    assert try_inside(docker, binary, "test ! -e /agent-server && test -x /usr/local/bin/openhands-agent-server")
    assert try_inside(docker, source_image, "test -d /agent-server && test ! -e /usr/local/bin/openhands-agent-server")
    assert inspect_image(docker, binary).image_id != inspect_image(docker, source_image).image_id


def test_the_installed_server_works_on_a_base_without_python(
    docker: Engine, source_image: str, debian_base: str, make_archive: MakeArchive
) -> None:
    dockerfile = f"""
FROM {source_image} AS server
FROM {debian_base}
RUN rm -rf /usr/bin/python3* /usr/lib/python3* && ! command -v python3
COPY --from=server /agent-server /agent-server
RUN /agent-server/.venv/bin/python -c 'import openhands.agent_server'
"""
    archive = make_archive({"Dockerfile": dockerfile})
    assert build_image(docker, archive, "localhost/moved:1", BuildOptions(network="host")).image_id


def test_a_base_image_may_have_a_uv_of_its_own(
    run: Run, docker: Engine, debian_base: str, make_archive: MakeArchive, tmp_path: Path
) -> None:
    own_uv = "ln -s /bin/false /usr/local/bin/uv && mkdir /lock /opt/init"
    archive = make_archive({"Dockerfile": f"FROM {debian_base}\nRUN {own_uv}\n"})
    base = "localhost/base-with-uv:1"
    assert build_image(docker, archive, base, BuildOptions(network="host")).image_id
    done = run(*CHAIN, BASE_IMAGE=base, OUTPUT_DIR=str(tmp_path / "out"), TARGET_IMAGE="localhost/example:with-uv")
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_touched_file_leaves_the_third_party_layers_and_pushes_little(
    run: Run, checkout: Path, registry: str, docker: Engine, source_image: str
) -> None:
    first = push(run, registry, "touched", "1")
    with append(checkout / "openhands/agent_server/app.py", "\nTOUCHED = True\n"):
        second = push(run, registry, "touched", "2")
    assert first != second
    new = {digest: size for digest, size in second.items() if digest not in first}
    assert 0 < len(new) <= 2
    assert sum(new.values()) < 10_000_000


def test_a_touched_file_leaves_the_analysis_of_the_executable_and_an_import_does_not(
    run: Run, checkout: Path, docker: Engine
) -> None:
    image = "localhost/example:binary-minimal"
    assert run(*CHAIN, target="binary-minimal").returncode == 0
    module = checkout / "openhands/agent_server/__init__.py"
    with append(module, "\nprint('touched')\n"):
        touched = run(*CHAIN, target="binary-minimal")
        assert touched.returncode == 0, touched.stderr[-3000:]
        assert "touched" in docker.run("run", "--rm", "--network=none", image, "--help").stdout
    with append(module, "\nimport wave\nprint(wave.__name__)\n"):
        imported = run(*CHAIN, target="binary-minimal")
        assert imported.returncode == 0, imported.stderr[-3000:]
        assert "wave" in docker.run("run", "--rm", "--network=none", image, "--help").stdout
    assert [is_analysed(done.stderr) for done in (touched, imported)] == [False, True]


def test_a_comment_leaves_the_executable_and_every_layer_as_they_are(run: Run, checkout: Path, docker: Engine) -> None:
    assert run(*CHAIN, target="binary-minimal").returncode == 0
    layers = list_layers(docker, "localhost/example:binary-minimal")
    with append(checkout / "openhands/agent_server/app.py", "\n# A comment.\n"):
        done = run(*CHAIN, target="binary-minimal")
    assert done.returncode == 0, done.stderr[-3000:]
    assert not is_analysed(done.stderr)
    assert list_layers(docker, "localhost/example:binary-minimal") == layers


def test_a_split_executable_keeps_the_contract_and_a_touched_file_pushes_the_source_alone(
    run: Run, checkout: Path, registry: str, docker: Engine
) -> None:
    split = {"target": "binary-minimal", "BUILD_ARGS": "SPLIT_EXECUTABLE=true"}
    first = push(run, registry, "split", "1", **split)
    image = f"{registry}/acme/split:1"
    verified = run("verify", "--image", image, **split)
    assert verified.returncode == 0, verified.stdout + verified.stderr[-3000:]
    assert try_inside(docker, image, "ls /usr/local/bin/openhands-agent-server.own")
    with append(checkout / "openhands/agent_server/__init__.py", "\nprint('touched')\n"):
        second = push(run, registry, "split", "2", **split)
    new = [size for digest, size in second.items() if digest not in first]
    assert len(new) == 1
    assert new[0] < 1_000_000
    helped = docker.run("run", "--rm", "--network=none", f"{registry}/acme/split:2", "--help")
    assert "touched" in helped.stdout


def test_the_executable_is_what_pyinstaller_makes_of_the_spec(run: Run, checkout: Path, docker: Engine) -> None:
    assert run("version", "dockerfile", "context", target="binary-minimal").returncode == 0
    assert compare_executables(docker, read_archive(checkout, "binary-minimal")) == {
        "missing": [],
        "added": [],
        "other content": ["base_library.zip"],
        "missing modules": [],
        "added modules": [],
        "other code": [],
    }


def test_a_spec_that_needs_the_source_itself_gets_it_and_the_log_says_so(
    run: Run, checkout: Path, docker: Engine
) -> None:
    spec = checkout / "openhands/agent_server/agent-server.spec"
    with append(spec, "\nfrom openhands.agent_server import __version__\n"):
        done = run(*CHAIN, target="binary-minimal", TARGET_IMAGE="localhost/example:unresolved")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "agent-server.spec is analysed again with every change of the source: " in done.stderr
    helped = docker.run("run", "--rm", "--network=none", "localhost/example:unresolved", "--help")
    assert "--port" in helped.stdout


def test_a_changed_program_repeats_only_the_stages_that_use_it(run: Run, checkout: Path, tmp_path: Path) -> None:
    assert run(*CHAIN, target="binary-minimal").returncode == 0
    override_program(tmp_path, "bundle.py", "if __name__", "print('bundled anew')\nif __name__")
    done = run(*CHAIN, target="binary-minimal", TEMPLATE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "bundled anew" in done.stderr
    assert not is_analysed(done.stderr)


def test_a_version_of_pyinstaller_that_was_not_tested_gets_the_spec_as_it_is(
    run: Run, docker: Engine, tmp_path: Path
) -> None:
    override_program(tmp_path, "analyse.py", "(6, 23)", "(6, 1)")
    image = "localhost/example:untested"
    done = run(*CHAIN, target="binary-minimal", TEMPLATE_DIR=str(tmp_path), TARGET_IMAGE=image)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"PyInstaller 6\.\S+ is not one of the tested versions", done.stderr)
    assert "data files of the packages are in the executable" in done.stderr
    assert "--port" in docker.run("run", "--rm", "--network=none", image, "--help").stdout


def test_a_new_commit_alone_makes_no_new_layer_but_the_last(
    run: Run, checkout: Path, docker: Engine, source_image: str
) -> None:
    before = list_layers(docker, source_image)
    commit(checkout, "second", "--allow-empty")
    done = run(*CHAIN, TARGET_IMAGE="localhost/example:second")
    assert done.returncode == 0, done.stderr[-3000:]
    after = list_layers(docker, "localhost/example:second")
    assert after[:-1] == before[:-1]
    sha = run_git(checkout, "rev-parse", "HEAD")
    assert inspect_image(docker, "localhost/example:second").environment["OPENHANDS_BUILD_GIT_SHA"] == sha


def test_a_pushed_image_is_verified_by_its_digest(run: Run, checkout: Path, registry: str, docker: Engine) -> None:
    image = f"{registry}/acme/pushed:1"
    done = run(*CHAIN, "--push", TARGET_IMAGE=image)
    assert done.returncode == 0, done.stderr[-3000:]
    build = read_state(checkout, "source-minimal", "build")
    docker.run("image", "rm", image)
    verified = run("verify", "--image", f"{registry}/acme/pushed@{build['digest']}")
    assert verified.returncode == 0, verified.stdout + verified.stderr[-3000:]


def test_the_same_archive_is_built_by_buildah_and_verified_by_podman(
    run: Run, checkout: Path, containers_storage: Path, source_image: str
) -> None:
    podman = Podman("podman")
    changes = [f"--change=ENV {name}={value}" for name, value in TRUST_VARIABLES.items()]
    imported = podman.run("import", *changes, str(make_base_rootfs()), "localhost/base:1", timeout_s=300)
    assert imported.code == 0, imported.stderr
    built = run("build", "--network", "host", ENGINE="buildah")
    assert built.returncode == 0, built.stderr[-3000:]
    assert read_state(checkout, "source-minimal", "build")["engine"] == "buildah"
    refused = run("verify", ENGINE="buildah")
    assert refused.returncode == 4
    assert "ENGINE=podman" in refused.stderr
    verified = run("verify", ENGINE="podman")
    assert verified.returncode == 0, verified.stdout + verified.stderr[-3000:]


def test_a_failing_build_is_exit_6_with_the_end_of_its_log(run: Run, checkout: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    done = run(*CHAIN, OUTPUT_DIR=output, EXTRA_PACKAGES="no-such-package-anywhere")
    assert done.returncode == 6
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "no-such-package-anywhere" in error[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out/build.json").exists()


def test_without_an_engine_build_and_verify_are_exit_4_and_say_what_to_install(run: Run, source_image: str) -> None:
    assert run(*CHAIN).returncode == 0
    for task in ("build", "verify"):
        done = run(task, ENGINE="docker", DOCKER_HOST="unix:///nonexistent/docker.sock")
        assert done.returncode == 4, done.stderr
        assert "fix:" in done.stderr
        assert "Traceback" not in done.stderr


def test_an_image_that_is_nowhere_is_exit_4(run: Run) -> None:
    done = run("verify", "--image", "localhost/nowhere:1")
    assert done.returncode == 4
    assert "localhost/nowhere:1" in done.stderr


# One image breaks several promises that have nothing to do with each other: each must be found, and no other.
BREAKS = {
    "configuration": (
        """
USER root
WORKDIR /tmp
ENV LANG=en_US.UTF-8 SERVICE_TOKEN=abc OPENHANDS_BUILD_GIT_SHA=other
LABEL org.opencontainers.image.revision=other
""",
        {
            "LANG",
            "OPENHANDS_BUILD_GIT_SHA",
            "no secret",
            "revision label",
            "uid and gid",
            "user",
            "working directory",
        },
    ),
    "files": (
        """
USER root
RUN chown 0:0 /workspace/project && rm /etc/sudoers.d/* && rm "$(command -v tmux)"
USER openhands
""",
        {"/workspace/project", "sudo without a password", "tmux"},
    ),
    "entrypoint without tini": (
        """
ENTRYPOINT ["/agent-server/.venv/bin/python", "-m", "openhands.agent_server"]
CMD ["--host", "0.0.0.0", "--port", "8000"]
""",
        {"entrypoint", "tini is PID 1 on port 8000", "tini is PID 1 on port 60000"},
    ),
    "entrypoint that is not there": (
        """
ENTRYPOINT ["/nowhere/tini", "--", "/agent-server/.venv/bin/python", "-m", "openhands.agent_server"]
CMD ["--host", "0.0.0.0", "--port", "8000"]
""",
        {"start on port 8000", "start on port 60000"},
    ),
    "command that listens on loopback": (
        'CMD ["--host", "127.0.0.1", "--port", "8000"]',
        {"command", "/health on port 8000", "/alive on port 8000", "/ready on port 8000"},
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_contract_is_found_and_nothing_else(
    docker: Engine, source_image: str, make_archive: MakeArchive, output_dir: Path, name: str
) -> None:
    change, expected = BREAKS[name]
    archive = make_archive({"Dockerfile": f"FROM {source_image}\n{change}\n"})
    build_image(docker, archive, "localhost/broken:1", BuildOptions(network="host"))
    sha = inspect_image(docker, source_image).labels["org.opencontainers.image.revision"]
    settings = Settings(target=Target("source-minimal"), git_sha=sha)
    found = verify(Workspace(output_dir), docker, VerifyRequest(settings, "localhost/broken:1", 15), Ui())
    broken = [finding for finding in found.findings if not finding.ok]
    assert {finding.subject for finding in broken} == expected
    assert all(finding.fix and finding.exit_code == 6 for finding in broken)
    assert not found.ok


def test_a_broken_contract_is_exit_6(run: Run, docker: Engine, source_image: str, make_archive: MakeArchive) -> None:
    archive = make_archive({"Dockerfile": f"FROM {source_image}\nUSER root\n"})
    build_image(docker, archive, "localhost/broken:2")
    done = run("verify", "--image", "localhost/broken:2")
    assert done.returncode == 6, done.stderr
    assert "uid and gid" in done.stdout + done.stderr


def test_the_server_runs_with_no_more_privilege_than_the_manifest_gives(run: Run, docker: Engine) -> None:
    assert run(*CHAIN).returncode == 0
    rendered = run("manifest")
    assert rendered.returncode == 0, rendered.stderr
    pod = next(yaml.safe_load_all(rendered.stdout))["spec"]["template"]["spec"]
    container = pod["containers"][0]
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    drop = [f"--cap-drop={name}" for name in container["securityContext"]["capabilities"]["drop"]]
    options = ["--network=none", f"--user={user}", "--security-opt=no-new-privileges", *drop]
    started = docker.run("run", "--detach", *options, container["image"], *container["args"])
    assert started.code == 0, started.stderr
    try:
        path = container["readinessProbe"]["httpGet"]["path"]
        url = f"http://127.0.0.2:{container['ports'][0]['containerPort']}{path}"
        ask = (
            "exec",
            started.stdout,
            "curl",
            "-fsS",
            "--retry",
            "60",
            "--retry-delay",
            "1",
            "--retry-connrefused",
            url,
        )
        answer = docker.run(*ask, timeout_s=120)
        assert answer.code == 0, answer.stderr + docker.run("logs", started.stdout).stderr
    finally:
        docker.run("rm", "--force", started.stdout)


def test_no_container_is_left_over(docker: Engine) -> None:
    assert docker.run("ps", "--all", "--quiet").stdout == ""


@contextlib.contextmanager
def append(path: Path, text: str) -> Iterator[None]:
    """Have `text` at the end of a file for as long as the block lasts."""
    before = path.read_text()
    path.write_text(before + text)
    try:
        yield
    finally:
        path.write_text(before)


def override_program(folder: Path, name: str, old: str, new: str) -> None:
    """Write a program with another text into a folder for TEMPLATE_DIR."""
    text = (REPOSITORY / "templates/programs" / name).read_text()
    assert text.count(old) == 1
    (folder / "programs").mkdir()
    (folder / "programs" / name).write_text(text.replace(old, new))


def push(run: Run, registry: str, name: str, tag: str, **settings: str) -> dict[str, int]:
    """Return the pushed image's layers: digest to bytes on the wire."""
    done = run(*CHAIN, "--push", TARGET_IMAGE=f"{registry}/acme/{name}:{tag}", **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    request = urllib.request.Request(
        f"http://{registry}/v2/acme/{name}/manifests/{tag}",
        headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return {layer["digest"]: layer["size"] for layer in json.loads(answer.read())["layers"]}


# Run in the stage that has made the executable: makes it once more, by PyInstaller alone, and prints what differs.
COMPARE = """
import json, PyInstaller.__main__
from PyInstaller.archive.readers import CArchiveReader
spec = "openhands/agent_server/agent-server.spec"
PyInstaller.__main__.run(["--log-level=ERROR", "--distpath=/own/dist", "--workpath=/own/work", spec])
own, ours = (CArchiveReader(f"{folder}/openhands-agent-server") for folder in ("/own/dist", "/dist"))
own_modules, modules = (archive.open_embedded_archive("PYZ.pyz") for archive in (own, ours))
kinds, own_kinds = ({name: entry[-1] for name, entry in archive.toc.items()} for archive in (ours, own))
both = sorted(name for name in kinds if kinds[name] == own_kinds.get(name) and kinds[name] not in "zn")
print(json.dumps({
    "missing": sorted(own_kinds.items() - kinds.items()),
    "added": sorted(kinds.items() - own_kinds.items()),
    "other content": [name for name in both if own.extract(name) != ours.extract(name)],
    "missing modules": sorted(own_modules.toc.keys() - modules.toc.keys()),
    "added modules": sorted(modules.toc.keys() - own_modules.toc.keys()),
    "other code": [name for name in modules.toc if own_modules.extract(name) != modules.extract(name)],
}))
"""


def compare_executables(engine: Engine, archive: Path) -> dict[str, list[str]]:
    """Return how the executable of an archive differs from what PyInstaller makes of its spec."""
    command = [engine.program, "build", "--network=host", "--target=binary-builder", "--tag=localhost/bundled:1", "-"]
    with archive.open("rb") as file:
        environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
        built = subprocess.run(command, stdin=file, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    interpreter = ("--rm", "--network=none", "localhost/bundled:1", ".venv/bin/python")
    compared = engine.run("run", *interpreter, "-c", COMPARE, timeout_s=300)
    assert compared.code == 0, compared.stderr[-3000:]
    differences: dict[str, list[str]] = json.loads(compared.stdout.splitlines()[-1])
    return differences


def is_analysed(log: str) -> bool:
    """Return whether a build made the analysis of the executable, and did not find it made."""
    step = re.search(r"#(\d+) \[analysis [^]]*\] RUN \.venv", log)
    assert step is not None, log[-3000:]
    return f"#{step[1]} CACHED" not in log


def read_archive(checkout: Path, target: str) -> Path:
    """Return the archive that `context` made last."""
    return Path(checkout.parent, f"out-{target}", read_state(checkout, target, "context")["archive"])


def list_layers(engine: Engine, image: str) -> list[str]:
    output = engine.run("image", "inspect", "--format={{json .RootFS.Layers}}", image)
    layers: list[str] = json.loads(output.stdout)
    return layers


def read_state(checkout: Path, target: str, step: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkout.parent / f"out-{target}" / f"{step}.json").read_text())
    return state


def commit(folder: Path, message: str, *options: str) -> None:
    run_git(folder, "add", "--all")
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    run_git(folder, *identity, "commit", "-q", "-m", message, *options)


def run_git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
