"""Which engine is found and how its commands are run, with small programs in the place of engines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildkit.engines import find_engine
from buildkit.engines.docker import Buildx, Docker
from buildkit.engines.options import BuildOptions
from buildkit.engines.podman import Buildah
from buildkit.engines.process import run_command, watch_command
from buildkit.errors import NotStarted

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildkit.engines.engine import Engine

    Install = Callable[[str, str, str], Path]

NO_SERVER = "Cannot connect to the Docker daemon at unix:///nowhere. Is the docker daemon running?"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that puts a program into a folder of the PATH; nothing else is on it."""
    monkeypatch.setenv("PATH", f"{tmp_path}/first{os.pathsep}{tmp_path}/second")

    def put(folder: str, name: str, script: str) -> Path:
        program = tmp_path / folder / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    return put


def docker(client: str, *, buildx: bool, server: bool = True) -> str:
    """Return a docker client: it has a version, perhaps the plugin, and perhaps reaches a server."""
    answer = json.dumps({"Client": {"Version": client}, "Server": {"Version": "20.10.24"}})
    version = f"echo '{answer}'" if server else f"echo '{NO_SERVER}' >&2; exit 1"
    return f'case "$1 $2" in "version "*) {version} ;; "buildx version") exit {0 if buildx else 1} ;; esac'


def test_no_engine_at_all_names_each_and_what_to_install(install: Install) -> None:
    with pytest.raises(NotStarted) as refusal:
        find_engine("auto")
    for name in ("docker", "podman", "buildah"):
        assert f"{name} is not installed" in refusal.value.message
    assert "apt-get install docker.io" in refusal.value.fix
    assert refusal.value.exit_code == 4


def test_a_client_without_a_server_is_not_an_engine_and_says_why(install: Install) -> None:
    install("first", "docker", docker("20.10.24", buildx=False, server=False))
    with pytest.raises(NotStarted) as refusal:
        find_engine("docker")
    assert NO_SERVER in refusal.value.message


def test_a_new_client_without_its_plugin_is_passed_over_for_an_older_one(install: Install) -> None:
    install("first", "docker", docker("28.2.2", buildx=False))
    older = install("second", "docker", docker("20.10.24+dfsg1", buildx=False))
    assert describe(find_engine("auto")) == ("docker", str(older), "20.10.24")


def test_a_new_client_without_its_plugin_and_no_other_names_the_plugin(install: Install) -> None:
    install("first", "docker", docker("28.2.2", buildx=False))
    with pytest.raises(NotStarted, match="no buildx plugin"):
        find_engine("docker")


def test_the_first_client_on_the_path_that_works_is_taken(install: Install) -> None:
    first = install("first", "docker", docker("28.2.2", buildx=True))
    install("second", "docker", docker("20.10.24", buildx=False))
    assert find_engine("docker").program == str(first)


def test_auto_goes_on_to_podman_and_then_to_buildah(install: Install) -> None:
    install("first", "docker", docker("20.10.24", buildx=False, server=False))
    buildah = install(
        "first", "buildah", 'case "$1" in --version) echo "buildah version 1.28.2 (image-spec 1)" ;; esac'
    )
    assert describe(find_engine("auto")) == ("buildah", str(buildah), "1.28.2")
    podman = install("second", "podman", 'test "$1" = info && echo 4.3.1')
    assert describe(find_engine("auto")) == ("podman", str(podman), "4.3.1")


def test_a_builder_asks_for_buildx_and_must_be_known(install: Install) -> None:
    plugin = 'case "$2 $3" in "version ") echo "buildx v0.13.1 abc" ;; "inspect cluster") echo "Name: cluster" ;;'
    install("first", "docker", f'{plugin} "inspect far") echo "Error: cannot reach it" ;; *) exit 1 ;; esac')
    found = find_engine("auto", ["cluster"])
    assert isinstance(found, Buildx)
    assert found.builder == "cluster"
    assert str(find_engine("auto", ["far", "cluster"])) == str(found)
    with pytest.raises(NotStarted, match="buildx inspect"):
        find_engine("buildx", ["unknown"])
    with pytest.raises(NotStarted, match="builder far: cannot reach it"):
        find_engine("buildx", ["far"])


@pytest.mark.parametrize(
    ("driver", "status", "is_found"),
    [("remote", "inactive", False), ("remote", "running", True), ("docker-container", "inactive", True)],
)
def test_a_remote_builder_must_be_running(install: Install, driver: str, status: str, is_found: bool) -> None:
    inspected = f"Name: far\nDriver:        {driver}\n\nNodes:\nName:     far0\nStatus:   {status}"
    plugin = f'case "$2 $3" in "version ") echo "buildx v0.29.1 abc" ;; "inspect far") echo "{inspected}" ;;'
    install("first", "docker", f"{plugin} *) exit 1 ;; esac")
    if is_found:
        assert find_engine("buildx", ["far"]).version == "v0.29.1"
    else:
        with pytest.raises(NotStarted, match="builder far: its BuildKit does not respond"):
            find_engine("buildx", ["far"])


def test_a_command_that_does_not_answer_is_given_up(install: Install) -> None:
    program = install("first", "docker", "exec /bin/sleep 60")
    with pytest.raises(NotStarted, match="did not finish within"):
        run_command([str(program), "version"], timeout_s=0.2)


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotStarted, match=r"gone.*No such file"):
        run_command([str(tmp_path / "gone"), "version"])


def test_a_secret_on_standard_input_reaches_the_command_and_no_argument(install: Install) -> None:
    program = install("first", "docker", '/bin/cat; echo "$@"')
    output = run_command([str(program), "run"], stdin="KEY=value\n")
    assert output.stdout.splitlines() == ["KEY=value", "run"]


def test_older_docker_clients_are_told_to_use_buildkit(install: Install) -> None:
    program = install("first", "docker", 'echo "$DOCKER_BUILDKIT"')
    assert run_command([str(program), "build"]).stdout == "1"


def test_a_watched_command_reports_each_line_without_controls_and_returns_the_last_ones(
    install: Install, tmp_path: Path
) -> None:
    (tmp_path / "body").write_bytes(b"from the archive\n")
    script = r"""/bin/cat; printf 'a\rb\n\033[31mred\377\n\342\200\256bidi\n' >&2; echo end; exit 3"""
    program = install("first", "docker", script)
    lines: list[str] = []
    with (tmp_path / "body").open("rb") as body:
        code, last = watch_command([str(program), "build"], lines.append, stdin=body.fileno())
    assert code == 3
    assert lines == ["from the archive", "a", "b", "\x1b[31mred\\xff", r"\u202ebidi", "end"]
    assert last == lines


def test_a_line_without_end_is_shown_in_pieces_and_only_the_end_of_a_log_is_kept(install: Install) -> None:
    program = install("first", "docker", "/usr/bin/yes 0123456789 | /usr/bin/head -n 20000 | /usr/bin/tr -d '\\n'")
    lines: list[str] = []
    assert watch_command([str(program), "build"], lines.append)[0] == 0
    assert len("".join(lines)) == 200_000
    assert max(map(len, lines)) <= 16_384
    program = install("first", "docker", "/usr/bin/seq 1000")
    assert watch_command([str(program)], lambda _: None)[1] == [str(n) for n in range(801, 1001)]


@pytest.mark.parametrize("deaf", [False, True])
def test_an_interrupted_watch_ends_the_whole_process_group(install: Install, tmp_path: Path, deaf: bool) -> None:
    """Also a client that ignores SIGTERM, and its children."""
    trap = "trap '' TERM;" if deaf else ""
    program = install("first", "docker", f"{trap} /bin/sleep 3000 & echo $! $$; wait; wait; /bin/sleep 3000")
    script = f"""
import signal
from buildkit.engines.process import watch_command

def stop(number, frame):
    raise SystemExit(128 + number)

signal.signal(signal.SIGTERM, stop)
watch_command([{str(program)!r}, "build"], lambda line: print(line, flush=True))
"""
    root = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert all(wait_for_end(pid) for pid in pids)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_a_build_ends_with_a_process_that_is_killed(install: Install) -> None:
    program = install("first", "docker", "echo $$; exec /bin/sleep 3000")
    script = "from buildkit.engines.process import watch_command\n"
    script += f"watch_command([{str(program)!r}, 'build'], lambda line: print(line, flush=True))"
    environment = {"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    assert wait_for_end(pid)


def test_what_report_raises_ends_the_command(install: Install) -> None:
    program = install("first", "docker", "echo $$; exec /bin/sleep 3000")
    pids: list[int] = []

    def report(line: str) -> None:
        pids.append(int(line))
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        watch_command([str(program), "build"], report)
    assert wait_for_end(pids[0])


@pytest.mark.parametrize("deaf", [False, True])
def test_a_command_is_cancelled_from_another_thread(install: Install, deaf: bool) -> None:
    trap = "trap '' TERM;" if deaf else ""
    program = install("first", "docker", f"{trap} /bin/sleep 3000 & echo $! $$; wait; wait; /bin/sleep 3000")
    cancelled, pids = threading.Event(), list[int]()

    def report(line: str) -> None:
        pids.extend(map(int, line.split()))
        threading.Timer(0.1, cancelled.set).start()

    code, _ = watch_command([str(program), "build"], report, cancelled=cancelled)
    assert code != 0
    assert len(pids) == 2
    assert all(wait_for_end(pid) for pid in pids)


def test_many_commands_are_watched_at_once(install: Install) -> None:
    program = install("first", "docker", 'echo "$1"; /bin/sleep 0.2; echo "end $1"')
    logs: list[list[str]] = [[] for _ in range(8)]
    threads = [
        threading.Thread(target=watch_command, args=([str(program), str(number)], log.append))
        for number, log in enumerate(logs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert logs == [[str(number), f"end {number}"] for number in range(8)]


def test_a_process_that_outlives_the_command_does_not_hold_it_up(install: Install) -> None:
    program = install("first", "docker", "/bin/sleep 3000 & echo $!; echo done")
    runs = [run_command([str(program)]).stdout.split(), watch_command([str(program)], print)[1]]
    for pid, done in runs:
        assert done == "done"
        assert wait_for_end(int(pid))


def test_the_api_key_is_not_in_the_environment_of_an_engine(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_API_KEY", "a-key-of-some-length")
    program = install("first", "docker", "/usr/bin/env")
    assert "a-key-of-some-length" not in run_command([str(program)]).stdout
    assert "a-key-of-some-length" not in "".join(watch_command([str(program)], lambda _: None)[1])


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (Docker("docker"), "build --progress=plain --iidfile=R --tag=a:1 --tag=b:1 --target=t --network=host -"),
        (
            Buildx("docker"),
            "buildx build --progress=plain --metadata-file=R --load --tag=a:1 --tag=b:1 --target=t --network=host -",
        ),
        (
            Buildah("buildah"),
            (
                "build --isolation=chroot --layers --format=docker --iidfile=R --tag=a:1 --tag=b:1 --target=t"
                " --network=host --file=Dockerfile -"
            ),
        ),
    ],
)
def test_each_engine_is_told_the_same_in_its_own_words(engine: Engine, expected: str) -> None:
    options = BuildOptions(network="host", target="t")
    assert " ".join(engine.format_build(["a:1", "b:1"], options, Path("R"))) == expected


def test_a_builder_on_a_cluster_pushes_by_itself() -> None:
    command = Buildx("docker", "cluster").format_build(["a:1"], BuildOptions(push=True), Path("R"))
    words = "buildx build --builder=cluster --progress=plain --metadata-file=R --push --tag=a:1 -"
    assert " ".join(command) == words


def describe(engine: Engine) -> tuple[str, str, str]:
    return engine.name, engine.program, engine.version


def wait_for_end(pid: int) -> bool:
    """Return whether the process has ended; one that nobody has waited for yet counts as ended."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False
