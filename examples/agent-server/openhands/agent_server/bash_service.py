"""Shell commands with an end: bounded in time and output, and stopped with the server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

OUTPUT_LIMIT_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
_DRAIN_S = 1.0  # for a process that left the group and still holds a pipe


@dataclass(frozen=True)
class CommandResult:
    """How a command ended; `exit_code` is negative for the signal that killed it."""

    exit_code: int
    stdout: str
    stderr: str
    timed_out: bool
    truncated: bool


class BashService:
    """Runs commands, each as a process group of its own."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def execute(self, command: str, timeout_s: float) -> CommandResult:
        """Return how `command` ended, at the latest after `timeout_s`."""
        process = self._start(command)
        assert process.stdout  # both are pipes
        assert process.stderr
        stdout, stderr = _Drain(process.stdout), _Drain(process.stderr)
        timed_out = False
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _kill_group(process)
            process.wait()
            with self._lock:
                self._running.discard(process)
        for drain in (stdout, stderr):
            drain.join(_DRAIN_S)
        truncated = stdout.truncated or stderr.truncated
        return CommandResult(process.returncode, stdout.text, stderr.text, timed_out, truncated)

    def stop(self) -> None:
        """Kill what runs, and start nothing more."""
        with self._lock:
            self._stopping = True
            for process in self._running:
                _kill_group(process)

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopping:
                raise InterruptedError("the server is stopping")
            process = subprocess.Popen(
                [shutil.which("bash") or "/bin/sh", "-c", command],
                cwd=self._workspace,
                env=_command_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            self._running.add(process)
        return process


class _Drain(threading.Thread):
    """Reads a pipe to its end and keeps its beginning, so that no command blocks on output that nobody wants."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self._kept = bytearray()
        self.truncated = False
        self.start()

    def run(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), _CHUNK_BYTES):
                room = OUTPUT_LIMIT_BYTES - len(self._kept)
                self._kept += chunk[:room]
                self.truncated |= len(chunk) > room

    @property
    def text(self) -> str:
        return bytes(self._kept).decode(errors="replace")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # all gone; PermissionError is how macOS says it of zombies
        return


def _command_environment() -> dict[str, str]:
    """Return the environment without our key, and without the library path of a one-file executable."""
    environment = {name: value for name, value in os.environ.items() if name != "SESSION_API_KEY"}
    if getattr(sys, "frozen", False):  # https://pyinstaller.org/en/stable/runtime-information.html
        original = environment.pop("LD_LIBRARY_PATH_ORIG", None)
        environment.pop("LD_LIBRARY_PATH", None)
        if original is not None:
            environment["LD_LIBRARY_PATH"] = original
    return environment
