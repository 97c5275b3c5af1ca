"""A container engine at hand: which one really answers, and its commands, run to their end or cancelled."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit.display import escape_controls
from buildkit.errors import NotStarted, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

ENGINES = ("docker", "buildx", "podman", "buildah")
_AUTO_ORDER = ("docker", "podman", "buildah")
_PROBE_TIMEOUT_S = 20.0
# A cancelled client gets this long to tell its engine; the whole of our own exit has two seconds.
_CANCEL_TIMEOUT_S = 1.5
# From this version on `docker build` needs the buildx plugin for BuildKit (https://docs.docker.com/go/buildx/).
_FIRST_CLIENT_NEEDING_BUILDX = 23
_LONGEST_LINE = 16_384
_KEPT_LINES = 40


@dataclass(frozen=True)
class Engine:
    """An engine that answered.

    Attributes:
        name: `docker`, `buildx`, `podman` or `buildah`.
        program: Path of the command that answered: of several clients on the PATH the first that works.
        builder: The buildx builder asked for, such as one on a cluster.
        version: What the engine says of itself.
    """

    name: str
    program: str
    builder: str | None = None
    version: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.name, self.version, f"({self.program})") if part)


@dataclass(frozen=True)
class Output:
    """What a finished command left: exit code and text, both streams stripped."""

    code: int
    stdout: str
    stderr: str


def find_engine(name: str = "auto", *, builder: str | None = None) -> Engine:
    """Return the engine called `name`, or for `auto` the first of docker, podman and buildah that answers.

    Args:
        builder: A buildx builder; with `auto` it asks for buildx.

    Raises:
        SettingError: There is no engine of that name, or it takes no builder.
        NotStarted: None answers; the message says why each did not.
    """
    if name not in ("auto", *ENGINES):
        raise SettingError(f"ENGINE={name} is not an engine", f"set ENGINE to auto, {', '.join(ENGINES)}")
    if builder and name not in ("auto", "buildx"):
        raise SettingError(f"BUILDER={builder} is for buildx, but ENGINE={name}", "set ENGINE=buildx, or unset BUILDER")
    candidates = _AUTO_ORDER if name == "auto" else (name,)
    refusals: list[str] = []
    for candidate in ("buildx",) if builder else candidates:
        programs = list(_list_programs("docker" if candidate == "buildx" else candidate))
        if not programs:
            refusals.append(f"{candidate} is not installed")
        for program in programs:
            try:
                return check_engine(Engine(candidate, program, builder))
            except NotStarted as refusal:
                refusals.append(refusal.message)
    raise NotStarted(f"no container engine answers: {'; '.join(refusals)}", _advise_on(name, builder))


def check_engine(engine: Engine) -> Engine:
    """Return `engine` with its version, after it has answered.

    Raises:
        NotStarted: It does not answer, or cannot build with BuildKit.
    """
    if engine.name == "podman":
        version = _ask(engine, "info", "--format", "{{.Version.Version}}")
    elif engine.name == "buildah":
        _ask(engine, "info")
        version = _ask(engine, "--version").removeprefix("buildah version ").split(" ")[0]
    elif engine.builder:
        version = _ask_builder(engine, engine.builder)
    else:
        version = _ask_docker(engine)
    return Engine(engine.name, engine.program, engine.builder, version)


def run_engine(engine: Engine, *arguments: str, stdin: str | None = None, timeout_s: float = 60.0) -> Output:
    """Return what the engine's command left, whatever its exit code.

    Args:
        stdin: Text for its standard input; where secrets go, since arguments are seen by everybody on the machine.

    Raises:
        NotStarted: The command could not be run, or did not end in `timeout_s`.
    """
    try:
        done = subprocess.run(
            [engine.program, *arguments],
            input=(stdin or "").encode(),
            capture_output=True,
            check=False,
            env=_environment(),
            start_new_session=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise NotStarted(
            f"{engine.name} {arguments[0]} did not answer in {timeout_s:.0f} s",
            f"look at {engine.name}, then run again",
        ) from error
    except OSError as error:
        raise NotStarted(f"{engine.program} cannot be run: {error.strerror}", f"install {engine.name} again") from error
    return Output(done.returncode, _decode(done.stdout), _decode(done.stderr))


def watch_engine(
    engine: Engine, arguments: Sequence[str], *, stdin: Path | None = None, report: Callable[[str], None]
) -> tuple[int, list[str]]:
    """Return exit code and last lines of a long command, each line reported as it comes, controls escaped.

    Whatever interrupts us cancels the command: the client gets SIGTERM, upon which it cancels what its engine does,
    and nothing of its process group is left.

    Args:
        stdin: A file for its standard input, such as the archive.
    """
    last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
    with open(stdin or os.devnull, "rb") as body:  # noqa: PTH123 - None means the null device
        process = subprocess.Popen(
            [engine.program, *arguments],
            stdin=body,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="surrogateescape",
            env=_environment(),
            start_new_session=True,
        )
    with process:
        try:
            for line in _read_lines(process):
                last_lines.append(line)
                report(line)
            return process.wait(), list(last_lines)
        finally:
            _cancel(process)


def _read_lines(process: subprocess.Popen[str]) -> Iterable[str]:
    if process.stdout is None:
        return
    while line := process.stdout.readline(_LONGEST_LINE):
        yield escape_controls(line.rstrip("\n").replace("\t", "    "))


def _cancel(process: subprocess.Popen[str]) -> None:
    """Leave nothing of the process group that `process` leads, where it has not ended by itself."""
    if process.poll() is not None:
        return
    _signal_group(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_CANCEL_TIMEOUT_S)
    _signal_group(process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # all of the group has ended by itself


def _environment() -> dict[str, str]:
    """Return the environment for engines: docker clients before 23 use BuildKit only where they are told to."""
    return {**os.environ, "DOCKER_BUILDKIT": "1", "LC_ALL": "C.UTF-8"}


def _list_programs(name: str) -> Iterable[str]:
    """Yield each different command of that name on the PATH, in its order."""
    seen: set[str] = set()
    for folder in os.get_exec_path():
        program = shutil.which(name, path=folder)
        if program and os.path.realpath(program) not in seen:
            seen.add(os.path.realpath(program))
            yield program


def _ask(engine: Engine, *arguments: str) -> str:
    """Return the answer, which must come at once and be a success."""
    output = run_engine(engine, *arguments, timeout_s=_PROBE_TIMEOUT_S)
    if output.code:
        reason = (output.stderr or output.stdout or f"exit code {output.code}").splitlines()[0]
        raise NotStarted(
            f"{engine.program} {' '.join(arguments[:2])}: {reason}", _advise_on(engine.name, engine.builder)
        )
    return output.stdout


def _ask_docker(engine: Engine) -> str:
    """Return the version of the server that the client reaches, when the two of them speak BuildKit."""
    answer = json.loads(_ask(engine, "version", "--format", "{{json .}}"))
    client = str(answer["Client"]["Version"])
    needs_plugin = engine.name == "buildx" or int(client.partition(".")[0]) >= _FIRST_CLIENT_NEEDING_BUILDX
    if needs_plugin and run_engine(engine, "buildx", "version", timeout_s=_PROBE_TIMEOUT_S).code:
        raise NotStarted(
            f"{engine.program} {client} has no buildx plugin, which it needs for BuildKit",
            "install the plugin (on Debian: `apt-get install docker-buildx`)",
        )
    return str(answer["Server"]["Version"])


def _ask_builder(engine: Engine, builder: str) -> str:
    """Return buildx's version, when it knows the builder and reaches it; `inspect` succeeds for one it cannot reach."""
    version = _ask(engine, "buildx", "version")
    error = re.search(r"^Error:\s*(.+)", _ask(engine, "buildx", "inspect", builder), re.MULTILINE)
    if error:
        raise NotStarted(f"builder {builder}: {error[1]}", _advise_on(engine.name, builder))
    return version.split(" ")[1]


def _advise_on(name: str, builder: str | None) -> str:
    if builder:
        return f"create the builder: `docker buildx create --name {builder} …`, and look at `docker buildx ls`"
    if name == "auto":
        return "install one and start it: `apt-get install docker.io`, `podman` or `buildah`; ENGINE=… says which"
    package = {"docker": "docker.io", "buildx": "docker.io docker-buildx"}.get(name, name)
    return f"install and start it (on Debian: `apt-get install {package}`), or set ENGINE=auto"


def _decode(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape").strip()
