"""What git knows of a source tree: its commit, its files, and which rule ignores a path."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

# A hook or another git sets these for its own repository; ours is found from the source directory alone.
_FOREIGN_VARIABLES = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR"})
_UNREADABLE = re.compile(rb"warning: could not open directory '(.*)': (.*)")


@dataclass(frozen=True)
class Commit:
    """A commit: 40 (or 64) hexadecimal digits, and its committer time in seconds since the epoch."""

    sha: str
    time: int


@dataclass(frozen=True)
class Listing:
    """The files below a source directory that git does not ignore; POSIX paths relative to it.

    Attributes:
        files: Tracked and untracked, unordered. A tracked file stays listed where it has been deleted.
        changed: Those that differ from the commit: modified, staged, deleted, untracked.
    """

    files: frozenset[str]
    changed: frozenset[str]


def find_checkout(source: Path) -> Path | None:
    """Return the top of the checkout that `source` lies in, looking for `.git` without running git."""
    return next((folder for folder in (source, *source.parents) if (folder / ".git").exists()), None)


def is_ignored(source: Path) -> bool:
    """Return whether the checkout around `source` ignores it: a tree unpacked inside somebody else's checkout."""
    return _run(source, ["check-ignore", "-q", "."], ok=(0, 1)).returncode == 0


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


def list_files(source: Path, roots: Sequence[str] = ()) -> Listing:
    """Return the files of `source` that git does not ignore, below `roots` where there are any.

    Submodules and other repositories inside the tree are listed by their own index and rules.

    Raises:
        LocalError: git is missing, refuses the repository, or could not read a directory.
    """
    files: set[str] = set()
    changed: set[str] = set()
    listed = _run(source, ["ls-files", "-z", "-t", "-c", "-o", "-m", "-d", "--exclude-standard", "--", *roots])
    _refuse_unreadable(listed.stderr)
    nested: set[str] = set()
    for entry in _split(listed.stdout):
        mark, path = entry[0], entry[2:]
        if path.endswith("/"):
            nested.add(path[:-1])
            continue
        files.add(path)
        if mark not in "HhSM":
            changed.add(path)
    changed.update(_list_staged(source, roots))
    nested.update(_list_submodules(source, roots))
    for folder in sorted(nested):
        files.discard(folder)
        if (source / folder / ".git").exists():
            inner = list_files(source / folder)
            files.update(f"{folder}/{path}" for path in inner.files)
            changed.update(f"{folder}/{path}" for path in inner.changed)
    return Listing(frozenset(files), frozenset(changed))


def explain_ignored(source: Path, path: str) -> tuple[str, int, str] | None:
    """Return file, line and pattern of the rule by which git ignores `path`; None where it does not."""
    done = _run(source, ["check-ignore", "-v", "-z", "--", path], ok=(0, 1))
    if done.returncode:
        return None
    file, line, pattern, _ = _split(done.stdout)
    return file, int(line), pattern


def _list_staged(source: Path, roots: Sequence[str]) -> Iterable[str]:
    """Return paths whose index entry differs from the commit; all of them where there is no commit yet."""
    command = ["diff-index", "--cached", "--relative", "--name-only", "--no-renames", "-z", "HEAD", "--", *roots]
    done = _run(source, command, ok=(0, 128))
    if done.returncode:
        return _split(_run(source, ["ls-files", "-z", "--", *roots]).stdout)
    return _split(done.stdout)


def _list_submodules(source: Path, roots: Sequence[str]) -> list[str]:
    checkout = find_checkout(source)
    if checkout is None or not (checkout / ".gitmodules").exists():
        return []
    staged = _split(_run(source, ["ls-files", "-z", "-s", "--", *roots]).stdout)
    return [entry.partition("\t")[2] for entry in staged if entry.startswith("160000 ")]


def _run(source: Path, arguments: Sequence[str], ok: Sequence[int] = (0,)) -> subprocess.CompletedProcess[bytes]:
    """Return the finished git command, run in `source`; nothing in it is followed, hooked or locked.

    Raises:
        LocalError: git is missing or ended with a code that is not in `ok`.
    """
    command = ["git", "--no-optional-locks", "--literal-pathspecs", "-c", "core.fsmonitor=false", "-C", str(source)]
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN_VARIABLES}
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise LocalError(
            f"{source.name} is a git checkout, but git is not installed",
            "install git (on Debian: `apt-get install git`)",
        ) from error
    if b"dubious ownership" in done.stderr or b"unsafe repository" in done.stderr:
        top = find_checkout(source) or source
        raise LocalError(
            f"git refuses the checkout {top.name}, because another user owns it",
            f"git config --global --add safe.directory {top}",
        )
    if done.returncode not in ok or b"not a git repository" in done.stderr:
        raise LocalError(
            f"git {arguments[0]} failed: {done.stderr.decode('utf-8', 'replace').strip()[:500]}",
            f"run `git -C {source} status` and mend what it says",
        )
    return done


def _refuse_unreadable(stderr: bytes) -> None:
    unreadable = _UNREADABLE.findall(stderr)
    if unreadable:
        names = ", ".join(os.fsdecode(name) for name, _ in unreadable[:10])
        raise LocalError(f"{len(unreadable)} directories cannot be read: {names}", "make them readable, or EXCLUDE them")


def _split(output: bytes) -> list[str]:
    return [os.fsdecode(part) for part in output.split(b"\0") if part]
