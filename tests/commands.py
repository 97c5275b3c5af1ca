"""The real command, run in an environment that holds nothing else; every run is checked for what no run may do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import time
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from tests.checkouts import run_git
from tests.footprints import find_controls, find_secret, list_files
from tests.ledger import LEDGER
from tests.processes import PACKAGE_ROOT, PROGRAM, Process, start_cold, start_warm
from tests.runtime_api import KEY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.runtime_api import RuntimeApiServer

__all__ = ["HANG_S", "PACKAGE_ROOT", "PROGRAM", "SOURCE", "Command", "Ended", "Running"]

# The target that every small tree can be packed for.
SOURCE = {"TARGET": "source-minimal"}
# More than any limit of ours: an upload may stall for 60 s.
HANG_S = 90.0
# Python reads these once, when an interpreter starts.
_READ_AT_START = ("PYTHON", "LANG", "LC_", "TZ")


@dataclass(frozen=True)
class Ended:
    """A run of the command that has ended, and what it wrote."""

    arguments: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def out(self) -> str:
        """Standard output."""
        return self.stdout.decode()

    @property
    def err(self) -> str:
        """Standard error."""
        return self.stderr.decode()

    @property
    def result(self) -> str:
        """The one line on stdout."""
        (line,) = self.out.splitlines()
        return line

    @property
    def record(self) -> dict[str, Any]:
        """The JSON object on stdout."""
        record: dict[str, Any] = json.loads(self.out)
        return record

    def succeed(self) -> Ended:
        """Assert exit code 0."""
        return self.expect(0)

    def expect(self, code: int, *texts: str) -> Ended:
        """Assert the exit code and texts on stderr; an error ends with its two lines."""
        assert self.code == code, f"exit {self.code} instead of {code}\n{self.err}{self.out}"
        for text in texts:
            assert text in self.err, f"{text!r} not in:\n{self.err}"
        if code:
            *_, error, fix = self.err.splitlines()
            assert error.startswith("error: "), self.err
            assert fix.startswith("fix:   "), self.err
            assert len(fix) > len("fix:   "), self.err
        return self

    def fail(self, code: int, *texts: str) -> Ended:
        """Assert the exit code of an error, and texts in its two lines."""
        assert code, "0 is not a failure"
        message = "\n".join(self.expect(code).err.splitlines()[-2:])
        for text in texts:
            assert text in message, f"{text!r} not in:\n{self.err}"
        return self


@dataclass
class Running:
    """A run of the command that has not ended yet."""

    command: Command
    arguments: tuple[str, ...]
    process: Process
    _started: float
    _streams: tuple[IO[bytes], IO[bytes]]
    _before: dict[str, tuple[int, ...]]
    _changing: tuple[str, ...]

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it is still running."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def read_err(self) -> str:
        """Return what stderr holds so far."""
        return os.pread(self._streams[1].fileno(), 1 << 20, 0).decode()

    def read_out(self) -> str:
        """Return what stdout holds so far."""
        return os.pread(self._streams[0].fileno(), 1 << 20, 0).decode()

    def wait_for(self, text: str) -> None:
        """Wait until stderr holds the text."""
        deadline = time.monotonic() + HANG_S
        while text not in self.read_err():
            assert time.monotonic() < deadline, f"{text!r} never appeared: {self.read_err()}"
            time.sleep(0.005)

    def wait(self, hang_s: float = HANG_S) -> Ended:
        """Wait for the end of the run, check what no run may do, and return it."""
        try:
            code = self.process.wait(hang_s)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            raise AssertionError(f"{self.arguments} hangs; so far: {self.read_err()}") from None
        seconds = time.monotonic() - self._started
        stdout, stderr = (os.pread(stream.fileno(), 1 << 26, 0) for stream in self._streams)
        for stream in self._streams:
            stream.close()
        ended = Ended(self.arguments, code, stdout, stderr, seconds)
        self.command.check(ended, self._before, self._changing)
        return ended


@dataclass
class Command:
    """`runtime-build` in a checkout, next to a home directory of its own.

    Attributes:
        environment: The environment of every run; nothing else is in it.
        program: What is run: the package of this checkout, or something else that has the same tasks.
        outputs: Where runs may write, in addition to the lock next to each; nothing else in the checkout's parent
            folder may change.
        planted: Files that contain the key because the test put it there.
        secret: The key that no run may write anywhere.
    """

    checkout: Path
    environment: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = PROGRAM
    outputs: list[Path] = field(default_factory=list)
    planted: set[Path] = field(default_factory=set)
    secret: str = KEY

    def __post_init__(self) -> None:
        self.outputs = self.outputs or [self.checkout / "runtime-build"]
        home = self.world / "home"
        home.mkdir(exist_ok=True)
        base = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "PYTHONPATH": str(PACKAGE_ROOT)}
        self.environment = base | self.environment

    @property
    def world(self) -> Path:
        """The folder that holds the checkout and the home directory: everything in it is watched."""
        return self.checkout.parent

    @property
    def output(self) -> Path:
        """The output directory."""
        return self.outputs[0]

    @property
    def short_sha(self) -> str:
        """The first seven digits of the checkout's commit."""
        return run_git(self.checkout, "rev-parse", "HEAD")[:7]

    def use(self, server: RuntimeApiServer, **settings: str) -> None:
        """Let every later run use this server."""
        self.environment |= {"RUNTIME_API_URL": server.url, "RUNTIME_API_KEY": self.secret, **settings}

    def run(self, *arguments: str, **options: Any) -> Ended:
        """Run the command to its end; the options are those of `start`."""
        return self.start(*arguments, **options).wait()

    def start(
        self,
        *arguments: str,
        folder: Path | None = None,
        changing: tuple[str, ...] = (),
        stdout: int | None = None,
        order: Mapping[str, Any] | None = None,
        program: tuple[str, ...] | None = None,
        **settings: str,
    ) -> Running:
        """Start a run.

        Args:
            folder: The working directory, instead of the checkout.
            changing: Paths in the world that something else changes in the meantime.
            stdout: A file descriptor, instead of a file that is read at the end.
            order: What the warm process is to do in addition; see `tests/warm.py`.
            program: What is run instead, as a new process in any case.
            settings: Environment variables of this run.
        """
        environment = self.environment | settings
        before = self._list_world()
        streams = (tempfile.TemporaryFile(), tempfile.TemporaryFile())  # noqa: SIM115 - closed in `wait`
        descriptors = (streams[0].fileno() if stdout is None else stdout, streams[1].fileno())
        started = time.monotonic()
        folder = folder or self.checkout
        if program or not (order or self._is_like_warm(environment)):
            process = start_cold([*(program or self.program), *arguments], folder, environment, *descriptors)
        else:
            wanted = {"arguments": arguments, "folder": str(folder), "environment": environment, **(order or {})}
            process = start_warm(wanted, *descriptors)
        return Running(self, arguments, process, started, streams, before, changing)

    def check(self, ended: Ended, before: Mapping[str, tuple[int, ...]], changing: tuple[str, ...] = ()) -> None:
        """Assert what holds for every run, and count it: no traceback, no leak, nothing touched, no raw controls."""
        LEDGER.runs += 1
        after = self._list_world()
        touched = [
            path
            for path in sorted(before.keys() | after.keys())
            if before.get(path) != after.get(path) and not path.startswith(changing or ("\0",))
        ]
        LEDGER.outside_touched += [f"{ended.arguments}: {path}" for path in touched]
        hits = list(self._find_secret(ended, touched))
        LEDGER.secret_hits += [f"{ended.arguments}: {place}" for place in hits]
        controls = find_controls(ended.stdout) + find_controls(ended.stderr)
        LEDGER.raw_controls += len(controls)
        traced = b"Traceback (most" in ended.stdout + ended.stderr or b"Exception ignored" in ended.stderr
        LEDGER.tracebacks += traced
        assert not traced, ended.err
        assert not touched, f"changed outside the output directory: {touched}"
        assert not hits, f"the key is in {hits}"
        assert not controls, f"raw control characters: {controls}"

    def read_state(self, step: str) -> dict[str, Any]:
        """Return what a state file holds."""
        state: dict[str, Any] = json.loads((self.output / f"{step}.json").read_bytes())
        return state

    def list_output(self) -> list[str]:
        """Return the names in the output directory; none if there is no such directory."""
        return sorted(os.listdir(self.output)) if self.output.is_dir() else []

    def _is_like_warm(self, environment: Mapping[str, str]) -> bool:
        """Return whether a fork of the warm process does the same as a new process."""
        read = {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}
        return self.program == PROGRAM and read == {"LANG": "C.UTF-8", "PYTHONPATH": str(PACKAGE_ROOT)}

    def _list_world(self) -> dict[str, tuple[int, ...]]:
        free = {str(path) for output in self.outputs for path in (output, output.with_name(f".{output.name}.lock"))}
        return list_files(self.world, free)

    def _find_secret(self, ended: Ended, touched: list[str]) -> list[str]:
        files = [path for output in self.outputs if output.is_dir() for path in output.rglob("*")]
        files += [self.world / path for path in touched]
        texts = {"stdout": ended.stdout, "stderr": ended.stderr, "arguments": repr(ended.arguments).encode()}
        return find_secret(self.secret, texts, [path for path in files if path not in self.planted])
