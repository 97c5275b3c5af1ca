"""Child processes of engines: run to the end, watched line by line, or cancelled; nothing of their group is left."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from typing import IO, TYPE_CHECKING, NamedTuple

from buildkit.display import keep_colours
from buildkit.errors import NotStarted
from buildkit.settings import make_child_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from threading import Event

    Translate = Callable[[bytes], Iterable[str]]

# A cancelled client gets this long to tell its engine; our own exit may take two seconds in all.
_CANCEL_TIMEOUT_S = 1.5
_POLL_S = 0.2
_READ_BYTES = 1 << 16
_LONGEST_LINE = 16_384
# A line of JSON holds a piece of a log; a part of it would say nothing.
_LONGEST_RECORD = 4 << 20
_KEPT_LINES = 200


class Output(NamedTuple):
    """What a finished command left: its exit code, and both streams as stripped text."""

    code: int
    stdout: str
    stderr: str


def list_programs(name: str) -> Iterator[str]:
    """Yield each different program of that name on the PATH, in order."""
    seen: set[str] = set()
    for folder in os.get_exec_path():
        program = shutil.which(name, path=folder)
        if program and os.path.realpath(program) not in seen:
            seen.add(os.path.realpath(program))
            yield program


def run_command(command: Sequence[str], *, stdin: str = "", timeout_s: float = 60.0) -> Output:
    """Return what the command left, whatever its exit code.

    Args:
        stdin: Text for its standard input; where secrets go, because everybody on the machine can read arguments.

    Raises:
        NotStarted: The command could not be run, or did not end in `timeout_s`.
    """
    # Files, not pipes: something that the command leaves behind may keep a pipe open.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        with _start(command, subprocess.PIPE, stdout.fileno(), stderr.fileno()) as process:
            _feed(process, stdin)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired as error:
                words = " ".join([os.path.basename(command[0]), *command[1:2]])
                raise NotStarted(
                    f"{words} did not finish within {timeout_s:.0f} s", f"check {command[0]}, then run again"
                ) from error
        return Output(process.returncode, _read(stdout), _read(stderr))


def format_line(line: bytes) -> Iterator[str]:
    """Yield a line of output as lines of a log: the states of a progress bar one by one, colours, no other controls."""
    for start in range(0, max(len(line), 1), _LONGEST_LINE):
        text = line[start : start + _LONGEST_LINE].decode("utf-8", "surrogateescape")
        yield from (keep_colours(part.replace("\t", "    ")) for part in text.removesuffix("\r").split("\r"))


def watch_command(
    command: Sequence[str],
    report: Callable[[str], None],
    *,
    stdin: int | None = None,
    cancelled: Event | None = None,
    translate: Translate = format_line,
) -> tuple[int, list[str]]:
    """Return the exit code and the last lines of a long command; each line is reported as it comes.

    An exception in this thread, such as an interruption, cancels the command. Its client gets SIGTERM, upon which it
    cancels what its engine does.

    Args:
        stdin: Descriptor that the command reads from.
        cancelled: Set from any thread to cancel the command.
        translate: Returns what a line of output, which may be JSON, is reported as.
    """
    last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
    source = subprocess.DEVNULL if stdin is None else stdin
    with _start([*_end_with_this_thread(), *command], source, subprocess.PIPE, subprocess.STDOUT) as process:
        for line in _read_lines(process, cancelled, translate):
            last_lines.append(line)
            report(line)
    is_cancelled = cancelled is not None and cancelled.is_set()
    # podman exits with 0 when it is terminated.
    code = process.returncode or (128 + signal.SIGTERM if is_cancelled else 0)
    return code, list(last_lines)


def _end_with_this_thread() -> list[str]:
    """Return what a command is run with so that it gets SIGTERM even if this process is killed; empty if it cannot be.

    The program is part of util-linux (https://man7.org/linux/man-pages/man1/setpriv.1.html).
    """
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, "--pdeathsig=TERM", "--"] if setpriv else []


@contextlib.contextmanager
def _start(command: Sequence[str], stdin: int, stdout: int, stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    """Give a running command; when the block ends, it and everything it has started are gone."""
    try:
        process = subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=stderr, env=_environment(), start_new_session=True
        )
    except OSError as error:
        if shutil.which(command[0]) is None and os.sep not in command[0]:
            raise NotStarted(f"{command[0]} is not installed", f"install {command[0]}") from error
        raise NotStarted(f"{command[0]} cannot be run: {error.strerror}", f"reinstall {command[0]}") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            _signal_group(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_CANCEL_TIMEOUT_S)
        _signal_group(process, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _read_lines(process: subprocess.Popen[bytes], cancelled: Event | None, translate: Translate) -> Iterator[str]:
    """Yield lines until the command has ended, even if something that it started keeps its output open."""
    if process.stdout is None:
        return
    rest = b""
    longest = _LONGEST_LINE if translate is format_line else _LONGEST_RECORD
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while cancelled is None or not cancelled.is_set():
            has_ended = process.poll() is not None  # asked first: all that it has written can then be read
            if not selector.select(0 if has_ended else _POLL_S):
                if has_ended:
                    break
                continue
            piece = os.read(process.stdout.fileno(), _READ_BYTES)
            if not piece:
                process.wait()
                break
            *lines, rest = (rest + piece).split(b"\n")
            yield from (part for line in lines for part in translate(line))
            while len(rest) > longest:
                yield from translate(rest[:longest])
                rest = rest[longest:]
    if rest:
        yield from translate(rest)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # everything in the group has ended
        os.killpg(process.pid, number)


def _feed(process: subprocess.Popen[bytes], text: str) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin as stream:  # the command need not read it
            stream.write(text.encode())


def _environment() -> dict[str, str]:
    """Return the environment for engines. Docker clients before 23 use BuildKit only if they are told to."""
    return {**make_child_environment(), "DOCKER_BUILDKIT": "1", "LC_ALL": "C.UTF-8"}


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "surrogateescape").strip()
