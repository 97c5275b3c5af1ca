"""What git knows about a source tree: its commit, and which rule ignores a path; and how git is run."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError
from buildkit.source.walk import describe_unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# Set by a hook or another git for its own repository; ours is found from the source directory alone.
_FOREIGN_VARIABLES = frozenset(
    {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "RUNTIME_API_KEY"}
)
_CHUNK_BYTES = 1 << 16
_UNREADABLE = re.compile(rb"warning: could not open directory '(.*)': (.*)")


class IgnoredBy(NamedTuple):
    """The rule by which git ignores a path."""

    file: str
    line: int
    pattern: str


class Commit(NamedTuple):
    """A commit: 40 (or 64) hexadecimal digits, and its committer time in seconds since the epoch, if it is known."""

    sha: str
    time: int | None


def find_checkout(source: Path) -> Path | None:
    """Return the top of the checkout that contains `source`, found by its `.git`, without running git."""
    return next((folder for folder in (source, *source.parents) if (folder / ".git").exists()), None)


def is_checkout(source: Path) -> bool:
    """Return whether `source` belongs to a checkout, and not only to a folder that the checkout ignores.

    Raises:
        LocalError: git is missing or refuses the repository.
    """
    top = find_checkout(source)
    return top == source or (
        top is not None and run_git(source, ["check-ignore", "-q", "."], ok=(0, 1)).returncode == 1
    )


def read_commit(source: Path, revision: str = "HEAD") -> Commit | None:
    """Return the commit that `revision` names, or None if the checkout has no such commit (yet).

    Raises:
        LocalError: git is missing or refuses the repository.
    """
    command = ["log", "-1", "--no-show-signature", "--format=%H %ct", "--end-of-options", revision, "--"]
    done = run_git(source, command, ok=(0, 128))
    if done.returncode:
        return None
    sha, time = done.stdout.decode("ascii").split()
    return Commit(sha, int(time))


def explain_ignored(source: Path, path: str) -> IgnoredBy | None:
    """Return the rule by which git ignores `path`, or None if it does not.

    A repository inside the tree has rules of its own; the one around it may ignore all of it.
    """
    nested = next((str(folder) for folder in reversed(PurePosixPath(path).parents) if _is_nested(source, folder)), None)
    done = run_git(source, ["check-ignore", "-v", "-z", "--stdin"], ok=(0, 1), stdin=os.fsencode(f"./{nested or path}"))
    if not done.returncode:
        file, line, pattern, _ = split_entries(done.stdout)
        return IgnoredBy(file, int(line), pattern)
    return explain_ignored(source / nested, path.removeprefix(f"{nested}/")) if nested else None


def _is_nested(source: Path, folder: PurePosixPath) -> bool:
    return folder.name != "" and (source / folder / ".git").exists()


def run_git(
    source: Path, arguments: Sequence[str], ok: Sequence[int] = (0,), stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Return the finished git command.

    Raises:
        LocalError: git is missing or ended with a code that is not in `ok`.
    """
    with _running(source, arguments, subprocess.PIPE, subprocess.PIPE if stdin else subprocess.DEVNULL) as process:
        stdout, stderr = process.communicate(stdin or None)
    _check(source, arguments, process.returncode, stderr, ok)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


@contextmanager
def stream_git(source: Path, arguments: Sequence[str]) -> Iterator[Iterator[str]]:
    """Give an iterator over the entries (ended by NUL) that a git command prints; none of them is kept.

    The command starts at once, whenever the first entry is read.

    Raises:
        LocalError: As in `run_git`, or git could not read a directory.
    """
    with tempfile.TemporaryFile() as errors, _running(source, arguments, errors) as process:
        yield _read_entries(source, arguments, process, errors)


def _read_entries(
    source: Path, arguments: Sequence[str], process: subprocess.Popen[bytes], errors: IO[bytes]
) -> Iterator[str]:
    assert process.stdout is not None
    rest = b""
    while chunk := process.stdout.read(_CHUNK_BYTES):
        whole, end, rest = (rest + chunk).rpartition(b"\0")
        if end:
            yield from os.fsdecode(whole).split("\0")
    process.wait()
    errors.seek(0)
    stderr = errors.read()
    _check(source, arguments, process.returncode, stderr)
    unreadable = [os.fsdecode(name) for name, _ in _UNREADABLE.findall(stderr)]
    if unreadable:
        raise describe_unreadable(unreadable)


@contextmanager
def _running(
    source: Path, arguments: Sequence[str], stderr: IO[bytes] | int, stdin: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Give the running git, which has ended when the block ends; it is killed if the block fails."""
    with _start(source, arguments, stderr, stdin) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def _start(
    source: Path, arguments: Sequence[str], stderr: IO[bytes] | int, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Return git, started in `source`, without hooks, locks, prompts and pathspec magic."""
    literal = [] if arguments[0] == "check-ignore" else ["--literal-pathspecs"]  # which that command refuses
    command = ["git", "--no-optional-locks", *literal, "-c", "core.fsmonitor=false", "-C", str(source)]
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN_VARIABLES}
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    try:
        return subprocess.Popen(
            [*command, *arguments],
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    except FileNotFoundError as error:
        raise LocalError(
            f"{source.name} is a git checkout, but git is not installed",
            "install git (on Debian: `apt-get install git`)",
        ) from error


def _check(source: Path, arguments: Sequence[str], code: int, stderr: bytes, ok: Sequence[int] = (0,)) -> None:
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
