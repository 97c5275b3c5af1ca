"""A container engine's commands, run to their end or cancelled: besides `git` the only module that starts processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit.display import escape_controls
from buildkit.errors import NotStarted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

# A cancelled client gets this long to tell its engine; the whole of our own exit has two seconds.
_CANCEL_TIMEOUT_S = 1.5
_LONGEST_LINE = 16_384
_KEPT_LINES = 40


@dataclass(frozen=True)
class Engine:
    """An engine, and the command by which it is reached.

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
    with open(stdin or os.devnull, "rb") as body:
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


def _decode(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape").strip()
