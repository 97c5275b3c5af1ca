"""How git is run: without programs of the repository's choice, and never for longer than it has something to do."""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError
from buildkit.files import read_bounded
from buildkit.settings import make_child_environment
from buildkit.source.walk import describe_unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

# Variables of git itself come from a hook, or lead elsewhere; those that configure it are the user's own.
_GIT_VARIABLE = re.compile(r"GIT_(?!CONFIG_|CEILING_|EXEC_PATH)")
_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",  # a commit is what its ID says
    "GIT_ATTR_NOSYSTEM": "1",
    # A partial clone fetches missing objects with programs that its own configuration names.
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
}
# The commands that are run read no file of the work tree except ignore files, so they need no filter or text converter;
# these are the other programs that a repository's configuration could start.
_QUIET = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}", f"core.attributesFile={os.devnull}")
_TICK_MS = 500
_STUCK_S = 5.0  # asleep without a word, as before a FIFO
_SILENT_S = 120.0  # busy without a word
_CHUNK_BYTES = 1 << 16
_UNREADABLE = re.compile(rb"warning: could not open directory '(.*)': (.*)")


def find_checkout(source: Path) -> Path | None:
    """Return the top of the checkout that contains `source`, found by its `.git`, without running git."""
    return next((folder for folder in (source, *source.parents) if (folder / ".git").exists()), None)


def run_git(
    source: Path, arguments: Sequence[str], ok: Sequence[int] = (0,), stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Return the finished git command.

    Raises:
        LocalError: git is missing or ended with a code that is not in `ok`.
    """
    with tempfile.TemporaryFile() as errors, _running(source, arguments, errors, stdin) as process:
        stdout = b"".join(_read_chunks(source, arguments, process))
        errors.seek(0)
        stderr = errors.read()
    check_done(source, arguments, process.returncode, stderr, ok)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


@contextmanager
def stream_git(
    source: Path, arguments: Sequence[str], prunes: Callable[[str], bool] = lambda _: False
) -> Iterator[Iterator[str]]:
    """Give an iterator over the entries (ended by NUL) that a git command prints; none of them is kept.

    The command starts at once, whenever the first entry is read.

    Args:
        prunes: Whether it does not matter that git cannot read a folder.

    Raises:
        LocalError: As in `run_git`, or git could not read a directory.
    """
    with tempfile.TemporaryFile() as errors, _running(source, arguments, errors) as process:
        yield _read_entries(source, arguments, process, _Report(errors, prunes))


class _Report(NamedTuple):
    """What git says on stderr, and whether it does not matter that it cannot read a folder."""

    errors: IO[bytes]
    prunes: Callable[[str], bool]


def _read_entries(
    source: Path, arguments: Sequence[str], process: subprocess.Popen[bytes], report: _Report
) -> Iterator[str]:
    rest = b""
    for chunk in _read_chunks(source, arguments, process):
        whole, end, rest = (rest + chunk).rpartition(b"\0")
        if end:
            yield from os.fsdecode(whole).split("\0")
    report.errors.seek(0)
    stderr = report.errors.read()
    check_done(source, arguments, process.returncode, stderr)
    found = [os.fsdecode(name).rstrip("/") for name, _ in _UNREADABLE.findall(stderr)]
    unreadable = [
        name for name in (os.path.relpath(name, _find_prefix(source)) for name in found) if not report.prunes(name)
    ]
    if unreadable:
        raise describe_unreadable(unreadable)


def _find_prefix(source: Path) -> str:
    """Return the path of `source` from the top of its checkout."""
    return source.relative_to(find_checkout(source) or source).as_posix()


def _read_chunks(source: Path, arguments: Sequence[str], process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Yield what the process prints until it ends.

    Raises:
        LocalError: It prints nothing for too long: a FIFO is in its way, or a pattern that takes years.
    """
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    asleep_since = silent_since = time.monotonic()
    used = None
    while True:
        if poll.poll(_TICK_MS):
            if not (chunk := os.read(process.stdout.fileno(), _CHUNK_BYTES)):
                break
            yield chunk
            asleep_since = silent_since = time.monotonic()
            continue
        now, before, used = time.monotonic(), used, _read_cpu_time(process.pid)
        if used is None or used != before:
            asleep_since = now
        if now - asleep_since > _STUCK_S or now - silent_since > _SILENT_S:
            raise _describe_hang(source, arguments)
    try:
        process.wait(_SILENT_S)
    except subprocess.TimeoutExpired as error:
        raise _describe_hang(source, arguments) from error


def _describe_hang(source: Path, arguments: Sequence[str]) -> LocalError:
    return LocalError(
        f"git {arguments[0]} hangs in {source.name}",
        f"run `git -C {source} status`; remove what is not a file from .gitignore and .git/info/exclude",
    )


def _read_cpu_time(pid: int) -> tuple[bytes, ...] | None:
    """Return the CPU time of a sleeping process; None if it is doing something, or if the system does not say."""
    try:
        fields = read_bounded(f"/proc/{pid}/stat", _CHUNK_BYTES).rpartition(b")")[2].split()
    except OSError:
        return None
    return tuple(fields[11:13]) if fields[0] == b"S" else None


@contextmanager
def _running(
    source: Path, arguments: Sequence[str], stderr: IO[bytes], stdin: bytes = b""
) -> Iterator[subprocess.Popen[bytes]]:
    """Give git, started in `source`; it has ended, or is killed, when the block ends."""
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        process = _start(source, arguments, given, stderr)
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _start(source: Path, arguments: Sequence[str], stdin: IO[bytes], stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    """Return git without hooks, locks, prompts, pathspec magic and programs of the repository's choice."""
    literal = [] if arguments[0].startswith("check-") else ["--literal-pathspecs"]  # which those commands refuse
    quiet = [word for setting in _QUIET for word in ("-c", setting)]
    command = ["git", "--no-optional-locks", "--no-pager", *literal, *quiet, "-C", str(source), *arguments]
    environment = {name: value for name, value in make_child_environment().items() if not _GIT_VARIABLE.match(name)}
    try:
        return subprocess.Popen(
            command, env=environment | _ENVIRONMENT, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr
        )
    except FileNotFoundError as error:
        raise LocalError(
            f"{source.name} is a git checkout, but git is not installed",
            "install git (on Debian: `apt-get install git`)",
        ) from error


def check_done(source: Path, arguments: Sequence[str], code: int, stderr: bytes, ok: Sequence[int] = (0,)) -> None:
    """Raise LocalError if git refused the repository, or ended with a code that is not in `ok`."""
    if b"dubious ownership" in stderr or b"unsafe repository" in stderr:
        top = find_checkout(source) or source
        raise LocalError(
            f"git refuses the checkout {top.name}, because another user owns it",
            f"git config --global --add safe.directory {top}",
        )
    if code not in ok or b"not a git repository" in stderr:
        raise LocalError(
            f"git {arguments[0]} failed: {stderr.decode('utf-8', 'replace').strip()[:500]}",
            f"run `git -C {source} status`, and fix what it reports",
        )


def split_entries(output: bytes) -> list[str]:
    """Return the entries (ended by NUL) in a git command's output."""
    return [os.fsdecode(part) for part in output.split(b"\0") if part]
