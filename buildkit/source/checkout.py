"""What git knows about a source tree: its commit, and which rule ignores a path."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError
from buildkit.source.dependencies import GitDescription
from buildkit.source.git import check_done, find_checkout, run_git, split_entries

if TYPE_CHECKING:
    from pathlib import Path

_LOG_FORMAT = ("--no-show-signature", "--format=%H %ct")


_DESCRIBED = re.compile(r"(?P<tag>.*)-(?P<distance>[0-9]+)-g(?P<sha>[0-9a-f]+)")
_RELEASE = re.compile(
    r"(?:^|[-_/v])(?P<number>[0-9]+(?:\.[0-9]+)*)(?P<stage>(?:[-_.]?(?:a|b|rc|alpha|beta|post|dev)\.?[0-9]*)?)$"
)
NO_DESCRIPTION = GitDescription("unknown", "0.0.dev0")


class IgnoredBy(NamedTuple):
    """The rule by which git ignores a path."""

    file: str
    line: int
    pattern: str


class Commit(NamedTuple):
    """A commit: 40 (or 64) hexadecimal digits, and its committer time in seconds since the epoch, if it is known."""

    sha: str
    time: int | None


def is_checkout(source: Path) -> bool:
    """Return whether `source` belongs to a checkout, and not only to a folder that the checkout ignores.

    Raises:
        LocalError: git is missing or refuses the repository.
    """
    top = find_checkout(source)
    return top == source or (
        top is not None and run_git(source, ["check-ignore", "-q", "."], ok=(0, 1)).returncode == 1
    )


def read_head(source: Path) -> Commit | None:
    """Return the commit that is checked out, or None if the checkout has no commit yet.

    Raises:
        LocalError: git is missing or refuses the repository, or the commit cannot be read.
    """
    arguments = ["log", "-1", *_LOG_FORMAT]
    done = run_git(source, arguments, ok=(0, 128))
    if done.returncode:
        if b"does not have any commits yet" in done.stderr:
            return None
        check_done(source, arguments, done.returncode, done.stderr)
    return _parse_commit(done.stdout)


def find_commit(source: Path, revision: str) -> Commit | None:
    """Return the commit that `revision` names, or None if the checkout has no such commit.

    Raises:
        LocalError: git is missing or refuses the repository.
    """
    done = run_git(source, ["log", "-1", *_LOG_FORMAT, "--end-of-options", revision, "--"], ok=(0, 128))
    return None if done.returncode else _parse_commit(done.stdout)


def describe(source: Path) -> GitDescription:
    """Return where the commit that is checked out is in the history.

    Raises:
        LocalError: git is missing or refuses the repository.
    """
    done = run_git(source, ["describe", "--tags", "--long", "--always", "--end-of-options", "HEAD"], ok=(0, 128))
    text = done.stdout.decode("utf-8", "replace").strip()
    if not text:
        return NO_DESCRIPTION
    tagged = _DESCRIBED.fullmatch(text)
    release = _RELEASE.search(tagged["tag"]) if tagged else None
    if tagged is None or release is None:
        return GitDescription(text, f"0.0.dev0+g{tagged['sha'] if tagged else text}")
    if tagged["distance"] == "0":
        return GitDescription(text, release["number"] + release["stage"])
    *parts, last = release["number"].split(".")
    following = ".".join([*parts, str(int(last) + 1)])
    return GitDescription(text, f"{following}.dev{tagged['distance']}+g{tagged['sha']}")


def _parse_commit(output: bytes) -> Commit:
    sha, _, moment = output.decode("ascii").strip().partition(" ")
    if not re.fullmatch("[0-9]{1,10}", moment):
        raise LocalError(
            f"commit {sha} has the committer time {moment[:40] or 'none'}, which an archive cannot have",
            "commit again with a correct clock",
        )
    return Commit(sha, int(moment))


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
