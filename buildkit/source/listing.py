"""The files of a checkout as git lists them, and how each differs from the commit."""

from __future__ import annotations

import os
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

from buildkit.source.git import find_checkout, run_git, split_entries, stream_git

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


class Status(Enum):
    """How a listed file differs from the commit."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    DELETED = "deleted"
    STAGED = "staged"  # it differs; another entry says whether it exists
    ABSENT = "absent"  # left out by a sparse checkout


_STATUS_OF_MARK = {
    "H": Status.UNCHANGED,
    "S": Status.UNCHANGED,
    "M": Status.CHANGED,
    "C": Status.CHANGED,
    "?": Status.CHANGED,
    "R": Status.DELETED,
}


@contextmanager
def list_files(
    source: Path, roots: Sequence[str] = (), *, only_changes: bool = False
) -> Iterator[Iterator[tuple[str, Status]]]:
    """Give an iterator over the files of `source` that git does not ignore; git starts at once.

    Paths are POSIX and relative to `source`, below `roots` if there are any, unordered. A file that differs from the
    commit is listed again with each difference. Submodules and other repositories inside the tree are listed by their
    own index and rules.

    Args:
        only_changes: Leave out files that are as they were committed.

    Raises:
        LocalError: git is missing, refuses the repository, or could not read a directory.
    """
    cached = [] if only_changes else ["-c"]
    command = ["ls-files", "-z", "-t", *cached, "-o", "-m", "-d", "--exclude-standard", "--", *roots]
    with stream_git(source, command) as entries:
        yield _follow(source, roots, entries, only_changes=only_changes)


def _follow(
    source: Path, roots: Sequence[str], entries: Iterable[str], *, only_changes: bool
) -> Iterator[tuple[str, Status]]:
    """Yield the entries of `list_files`, from what git lists in the repository itself."""
    nested = _list_submodules(source, roots)
    for entry in entries:
        mark, path = entry[0], entry[2:]
        if path.endswith("/"):
            nested.add(path[:-1])
        elif mark == "S" and path not in nested and not os.path.lexists(source / path):
            yield path, Status.ABSENT
        elif path not in nested:
            yield path, _STATUS_OF_MARK[mark]
    for path in _list_staged(source, roots):
        if path not in nested:
            yield path, Status.STAGED
    for folder in sorted(nested):
        if os.path.lexists(source / folder / ".git"):
            with list_files(source / folder, only_changes=only_changes) as inner:
                yield from ((f"{folder}/{path}", status) for path, status in inner)


def _list_staged(source: Path, roots: Sequence[str]) -> Iterable[str]:
    """Return the paths whose index entry differs from the commit; all of them if there is no commit yet."""
    command = ["diff-index", "--cached", "--relative", "--name-only", "--no-renames", "-z", "HEAD", "--", *roots]
    done = run_git(source, command, ok=(0, 128))
    if done.returncode:
        return split_entries(run_git(source, ["ls-files", "-z", "--", *roots]).stdout)
    return split_entries(done.stdout)


def _list_submodules(source: Path, roots: Sequence[str]) -> set[str]:
    checkout = find_checkout(source)
    if checkout is None or not (checkout / ".gitmodules").exists():
        return set()
    staged = split_entries(run_git(source, ["ls-files", "-z", "-s", "--", *roots]).stdout)
    return {entry.partition("\t")[2] for entry in staged if entry.startswith("160000 ")}
