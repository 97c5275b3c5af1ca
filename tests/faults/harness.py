"""Runs of the real command, each looked through for what no run may do: leak, touch, trace back, print controls."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import unicodedata
import urllib.parse
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import buildkit
from tests.faults.ledger import LEDGER
from tests.runtime_api import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.runtime_api import RuntimeApiServer

PACKAGE_ROOT = Path(buildkit.__file__).parent.parent
HANG_S = 40.0
# A file system in memory, where there is one: a killed process loses nothing that it wrote, on any of them, and waiting
# for the disk to sync would be most of the time of the suite.
MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK | os.X_OK) else None


def list_secret_forms(key: str) -> list[bytes]:
    """Return the key as it may stand in a text: plain, as base64 (also in the middle of more), URL-encoded."""
    raw = key.encode("latin-1")
    forms = {raw, urllib.parse.quote(raw, safe="").encode(), urllib.parse.quote_plus(raw).encode()}
    for shift in range(3):
        # What stands before and behind changes the outer digits only.
        whole = base64.b64encode(b"x" * shift + raw)
        forms.add(whole[(shift * 8 + 5) // 6 : len(whole) - (4 if whole.endswith(b"=") else 0)])
    return sorted(forms)


@dataclass
class Run:
    """One run of the command that has ended."""

    arguments: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def err(self) -> str:
        return self.stderr.decode()

    def expect(self, code: int, *texts: str) -> Run:
        """Assert the exit code, and that stderr holds the texts; an error has exactly its two lines."""
        assert self.code == code, f"exit {self.code} instead of {code}\n{self.err}{self.out}"
        for text in texts:
            assert text in self.err, f"{text!r} not in:\n{self.err}"
        if code:
            *_, error, fix = self.err.splitlines()
            assert error.startswith("error: "), self.err
            assert fix.startswith("fix:   "), self.err
            assert len(fix) > len("fix:   "), self.err
        return self


@dataclass
class Running:
    """A run that goes on."""

    command: Command
    arguments: tuple[str, ...]
    pid: int
    started: float
    _ended: Any
    _streams: tuple[IO[bytes], IO[bytes]]
    _before: dict[str, tuple[int, ...]]
    _changing: tuple[str, ...]

    def signal(self, number: int) -> None:
        """Send a signal to this process, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def read_err(self) -> str:
        """Return what stderr holds so far."""
        return os.pread(self._streams[1].fileno(), 1 << 20, 0).decode()

    def wait_for(self, text: str) -> None:
        """Wait until stderr holds the text."""
        deadline = time.monotonic() + HANG_S
        while text not in self.read_err():
            assert time.monotonic() < deadline, f"{text!r} never came: {self.read_err()}"
            time.sleep(0.005)

    def wait(self) -> Run:
        """Return the run when it has ended, looked through."""
        try:
            code = self._ended(HANG_S)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            raise AssertionError(f"{self.arguments} hangs; so far: {self.read_err()}") from None
        seconds = time.monotonic() - self.started
        stdout, stderr = (os.pread(stream.fileno(), 1 << 26, 0) for stream in self._streams)
        for stream in self._streams:
            stream.close()
        run = Run(self.arguments, code, stdout, stderr, seconds)
        self.command.look_through(run, self._before, self._changing)
        return run


@dataclass
class Command:
    """The command in one small world: a home, a checkout, an output directory, and nothing else.

    Attributes:
        world: Everything below it is watched.
        outputs: Where runs may write; each with the lock beside it.
        planted: Files below `world` that hold the key because the test put it there.
        secret: The key that may appear nowhere.
    """

    world: Path
    checkout: Path
    socket_path: str
    outputs: list[Path] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    planted: set[Path] = field(default_factory=set)
    secret: str = KEY

    def __post_init__(self) -> None:
        self.outputs = self.outputs or [self.checkout / "runtime-build"]
        (self.world / "home").mkdir(exist_ok=True)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.world / "home"),
            "LANG": "C.UTF-8",
            "TARGET": "source",
            **self.environment,
        }

    @property
    def output(self) -> Path:
        return self.outputs[0]

    def use(self, server: RuntimeApiServer, **more: str) -> None:
        """Let every run talk to this server."""
        self.environment |= {"RUNTIME_API_URL": server.url, "RUNTIME_API_KEY": self.secret, **more}

    def run(self, *arguments: str, **options: Any) -> Run:
        """Return a run that has ended; options as for `start`."""
        return self.start(*arguments, **options).wait()

    def start(
        self,
        *arguments: str,
        folder: Path | None = None,
        cold: bool = False,
        changing: tuple[str, ...] = (),
        stdout: int | None = None,
        program: tuple[str, ...] = (sys.executable, "-m", "buildkit"),
        order: Mapping[str, Any] | None = None,
        **settings: str,
    ) -> Running:
        """Start a run.

        Args:
            cold: In an interpreter of its own, not forked from the warm process.
            changing: Paths below the world that something else changes meanwhile.
            stdout: A descriptor, instead of a file that is read afterwards.
            order: For the warm process; see there.
            settings: Environment variables of this run.
        """
        environment = {name: value for name, value in (self.environment | settings).items() if value is not None}
        before = self._list_world()
        streams = (tempfile.TemporaryFile(), tempfile.TemporaryFile())  # noqa: SIM115 - closed in `wait`
        folder = folder or self.checkout
        target = streams[0].fileno() if stdout is None else stdout
        started = time.monotonic()
        if cold:
            process = subprocess.Popen(
                [*program, *arguments],
                cwd=folder,
                env={**environment, "PYTHONPATH": str(PACKAGE_ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=target,
                stderr=streams[1],
            )
            ended, pid = _wait_for_process(process), process.pid
        else:
            wanted = {"arguments": arguments, "folder": str(folder), "environment": environment, **(order or {})}
            pid, ended = _order_run(self.socket_path, wanted, target, streams[1].fileno())
        return Running(self, arguments, pid, started, ended, streams, before, changing)

    def look_through(self, run: Run, before: Mapping[str, tuple[int, ...]], changing: tuple[str, ...]) -> None:
        """Assert what holds of every run, and take it down in the ledger."""
        LEDGER.runs += 1
        after = self._list_world()
        touched = [
            path
            for path in sorted(before.keys() | after.keys())
            if before.get(path) != after.get(path) and not path.startswith(changing or ("\0",))
        ]
        LEDGER.outside_touched += [f"{run.arguments}: {path}" for path in touched]
        hits = [f"{run.arguments}: {place}" for place in self._find_secret(run, touched)]
        LEDGER.secret_hits += hits
        controls = _find_controls(run.stdout) + _find_controls(run.stderr)
        LEDGER.raw_controls += len(controls)
        traced = b"Traceback (most" in run.stdout + run.stderr or b"Exception ignored" in run.stderr
        LEDGER.tracebacks += traced
        assert not traced, run.err
        assert not touched, f"changed outside the output directory: {touched}"
        assert not hits, f"the key stands in {hits}"
        assert not controls, f"raw control characters: {controls}"

    def read_state(self, step: str) -> dict[str, Any]:
        """Return what a state file holds."""
        state: dict[str, Any] = json.loads((self.output / f"{step}.json").read_bytes())
        return state

    def list_output(self) -> list[str]:
        """Return the names in the output directory; none where there is no such directory."""
        return sorted(os.listdir(self.output)) if self.output.is_dir() else []

    def _list_world(self) -> dict[str, tuple[int, ...]]:
        """Return what the file system says of everything that no run may change."""
        free = {str(path) for output in self.outputs for path in (output, output.with_name(f".{output.name}.lock"))}
        found: dict[str, tuple[int, ...]] = {}
        waiting = [str(self.world)]
        while waiting:
            with contextlib.suppress(PermissionError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.path in free and not entry.is_symlink():
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # a test itself takes files away meanwhile
                    name = os.path.relpath(entry.path, self.world)
                    if stat.S_ISDIR(status.st_mode):
                        found[name] = (status.st_mode,)
                        waiting.append(entry.path)
                    else:
                        found[name] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
        return found

    def _find_secret(self, run: Run, touched: list[str]) -> Iterator[str]:
        forms = list_secret_forms(self.secret)
        places = [("stdout", run.stdout), ("stderr", run.stderr), ("arguments", repr(run.arguments).encode())]
        files = [path for output in self.outputs if output.is_dir() for path in output.rglob("*")]
        files += [self.world / path for path in touched]
        for path in files:
            if path.is_file() and not path.is_symlink() and path not in self.planted:
                with contextlib.suppress(PermissionError):
                    places += [(str(path), data) for data in _read_plain(path)]
        for place, data in places:
            LEDGER.searched_bytes += len(data)
            if any(form in data for form in forms):
                yield place


def _read_plain(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield data
    if data.startswith(b"\x1f\x8b"):
        with contextlib.suppress(zlib.error):
            yield zlib.decompressobj(31).decompress(data)


def _find_controls(data: bytes) -> list[str]:
    text = data.decode("utf-8", "surrogateescape")
    return [
        char for char in text if char not in "\n\t" and unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    ]


def _wait_for_process(process: subprocess.Popen[bytes]) -> Any:
    def wait(timeout_s: float) -> int:
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    return wait


def _order_run(path: str, order: Mapping[str, Any], stdout: int, stderr: int) -> tuple[int, Any]:
    """Return the process ID of a forked run, and a function that waits for its end."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    text = json.dumps(order).encode()
    with open(os.devnull, "rb") as null:
        socket.send_fds(connection, [b"%d\n" % len(text) + text], [null.fileno(), stdout, stderr])
    answers = connection.makefile("rb")
    pid = int(answers.readline())

    def wait(timeout_s: float) -> int:
        connection.settimeout(timeout_s)
        with connection, answers:
            return int(answers.readline())

    return pid, wait
