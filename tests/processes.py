"""Two ways to start the command: a new interpreter, or a fork of a process that has already imported everything."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import buildkit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PACKAGE_ROOT = Path(buildkit.__file__).parent.parent
PROGRAM = (sys.executable, "-m", "buildkit")


class Process(NamedTuple):
    """A process: its ID, and a function that returns its exit code or raises TimeoutError after that many seconds."""

    pid: int
    wait: Callable[[float], int]


def start_cold(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], stdout: int, stderr: int
) -> Process:
    """Start a command in a new interpreter."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
    )

    def wait(timeout_s: float) -> int:
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    return Process(process.pid, wait)


def start_warm(order: Mapping[str, Any], stdout: int, stderr: int) -> Process:
    """Start the command as a fork of the warm process; `tests/warm.py` says what an order may contain."""
    ours, theirs = socket.socketpair()
    with theirs, open(os.devnull, "rb") as null:
        socket.send_fds(_start_warm_process(), [b"\n"], [theirs.fileno(), null.fileno(), stdout, stderr])
    text = json.dumps(order).encode()
    ours.sendall(b"%d\n" % len(text) + text)
    answers = ours.makefile("rb")
    pid = int(answers.readline())

    def wait(timeout_s: float) -> int:
        ours.settimeout(timeout_s)
        with ours, answers:
            return int(answers.readline())

    return Process(pid, wait)


@cache
def _start_warm_process() -> socket.socket:
    """Return the socket on which the warm process takes orders; the process ends when the socket is closed."""
    ours, theirs = socket.socketpair()
    script = str(Path(__file__).with_name("warm.py"))
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    with theirs:
        _WARM.append(subprocess.Popen([sys.executable, script], env=environment, stdin=theirs.fileno()))
    return ours


# Referenced until the interpreter exits: a process object that is dropped earlier would warn that it still runs.
_WARM: list[subprocess.Popen[bytes]] = []
