"""What git knows of a source tree: its commit, its files, and which rule ignores a path."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from enum import Enum
from typing import IO, TYPE_CHECKING

from buildkit.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

# A hook or another git sets these for its own repository; ours is found from the source directory alone.
_FOREIGN_VARIABLES = frozenset(
    {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "RUNTIME_API_KEY"}
)
_IGNORE_RULE = re.compile(r"(.*?):([0-9]+):(.*)\t")
_CHUNK_BYTES = 1 << 17
_UNREADABLE = re.compile(rb"warning: could not open directory '(.*)': (.*)")


@dataclass(frozen=True)
class Commit:
    """A commit: 40 (or 64) hexadecimal digits, and its committer time in seconds since the epoch, where it is known."""

    sha: str
    time: int | None


class Status(Enum):
    """How a listed file stands to the commit."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    DELETED = "deleted"
    ABSENT = "absent"  # left out by a sparse checkout


_STATUS_OF_MARK = {
    "H": Status.UNCHANGED,
    "S": Status.UNCHANGED,
    "M": Status.CHANGED,
    "C": Status.CHANGED,
    "?": Status.CHANGED,
    "R": Status.DELETED,
}


def find_checkout(source: Path) -> Path | None:
    """Return the top of the checkout that `source` lies in, looking for `.git` without running git."""
    return next((folder for folder in (source, *source.parents) if (folder / ".git").exists()), None)


def is_checkout(source: Path) -> bool:
    """Return whether git speaks for `source`; not where it was unpacked into an ignored folder of another checkout.

    Raises:
        LocalError: git is missing or refuses the repository.
    """
    top = find_checkout(source)
    return top == source or (top is not None and _run(source, ["check-ignore", "-q", "."], ok=(0, 1)).returncode == 1)


def read_commit(source: Path, revision: str = "HEAD") -> Commit | None:
    """Return the commit that `revision` names, None where the checkout has no such commit (yet).

    Raises:
        LocalError: git is missing or refuses the repository.
    """
    done = _run(source, ["log", "-1", "--no-show-signature", "--format=%H %ct", revision, "--"], ok=(0, 128))
    if done.returncode:
        return None
    sha, time = done.stdout.decode("ascii").split()
    return Commit(sha, int(time))


def list_files(source: Path, roots: Sequence[str] = ()) -> Iterator[tuple[str, Status]]:
    """Yield each file of `source` that git does not ignore, below `roots` where there are any; unordered.

    Paths are POSIX and relative to `source`. A file that differs from the commit comes again with what became of it;
    the last word holds. Submodules and other repositories inside the tree are listed by their own index and rules.

    Raises:
        LocalError: git is missing, refuses the repository, or could not read a directory.
    """
    nested = _list_submodules(source, roots)
    listing = ["ls-files", "-z", "-t", "-c", "-o", "-m", "-d", "--exclude-standard", "--", *roots]
    for entry in _stream(source, listing):
        mark, path = entry[0], entry[2:]
        if path.endswith("/"):
            nested.add(path[:-1])
        elif path not in nested:
            absent = mark == "S" and not (source / path).is_symlink() and not (source / path).exists()
            yield path, Status.ABSENT if absent else _STATUS_OF_MARK[mark]
    for path in _list_staged(source, roots):
        if path not in nested:
            exists = (source / path).is_symlink() or (source / path).exists()
            yield path, Status.CHANGED if exists else Status.DELETED
    for folder in sorted(nested):
        if (source / folder / ".git").exists():
            for path, status in list_files(source / folder):
                yield f"{folder}/{path}", status


def explain_ignored(source: Path, path: str) -> tuple[str, int, str] | None:
    """Return file, line and pattern of the rule by which git ignores `path`; None where it does not."""
    done = _run(source, ["check-ignore", "-v", "--", f"./{path}"], ok=(0, 1))
    rule = _IGNORE_RULE.match(os.fsdecode(done.stdout))
    return (rule[1], int(rule[2]), rule[3]) if rule else None


def _list_staged(source: Path, roots: Sequence[str]) -> Iterable[str]:
    """Return paths whose index entry differs from the commit; all of them where there is no commit yet."""
    command = ["diff-index", "--cached", "--relative", "--name-only", "--no-renames", "-z", "HEAD", "--", *roots]
    done = _run(source, command, ok=(0, 128))
    if done.returncode:
        return _split(_run(source, ["ls-files", "-z", "--", *roots]).stdout)
    return _split(done.stdout)


def _list_submodules(source: Path, roots: Sequence[str]) -> set[str]:
    checkout = find_checkout(source)
    if checkout is None or not (checkout / ".gitmodules").exists():
        return set()
    staged = _split(_run(source, ["ls-files", "-z", "-s", "--", *roots]).stdout)
    return {entry.partition("\t")[2] for entry in staged if entry.startswith("160000 ")}


def _stream(source: Path, arguments: Sequence[str]) -> Iterator[str]:
    """Yield what the git command prints, entry by entry: a listing of a large tree is not held in memory."""
    with tempfile.TemporaryFile() as errors, _start(source, arguments, errors) as process:
        assert process.stdout is not None  # noqa: S101 - it was asked for as a pipe; this is for the type checker
        rest = b""
        while chunk := process.stdout.read(_CHUNK_BYTES):
            *whole, rest = (rest + chunk).split(b"\0")
            for entry in whole:
                yield os.fsdecode(entry)
        process.wait()
        errors.seek(0)
        stderr = errors.read()
        _check(source, arguments, process.returncode, stderr)
    unreadable = _UNREADABLE.findall(stderr)
    if unreadable:
        names = ", ".join(os.fsdecode(name) for name, _ in unreadable[:10])
        raise LocalError(
            f"{len(unreadable)} directories cannot be read: {names}", "make them readable, or EXCLUDE them"
        )


def _run(source: Path, arguments: Sequence[str], ok: Sequence[int] = (0,)) -> subprocess.CompletedProcess[bytes]:
    """Return the finished git command.

    Raises:
        LocalError: git is missing or ended with a code that is not in `ok`.
    """
    with _start(source, arguments, subprocess.PIPE) as process:
        stdout, stderr = process.communicate()
    _check(source, arguments, process.returncode, stderr, ok)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def _start(source: Path, arguments: Sequence[str], stderr: IO[bytes] | int) -> subprocess.Popen[bytes]:
    """Return git, started in `source`, with no hook, lock, prompt or pathspec magic."""
    literal = [] if arguments[0] == "check-ignore" else ["--literal-pathspecs"]  # which that one refuses
    command = ["git", "--no-optional-locks", *literal, "-c", "core.fsmonitor=false", "-C", str(source)]
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN_VARIABLES}
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    try:
        return subprocess.Popen(
            [*command, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
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
            f"run `git -C {source} status` and mend what it says",
        )


def _split(output: bytes) -> list[str]:
    return [os.fsdecode(part) for part in output.split(b"\0") if part]
