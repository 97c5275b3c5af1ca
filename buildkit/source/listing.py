"""The files of a checkout as git lists them, with the mode and ID that each was committed with."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from buildkit.source.checkout import read_head
from buildkit.source.git import run_git, split_entries, stream_git

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

_SUBMODULE = "160000 "


class Status(Enum):
    """What git says about a listed file, without looking at it."""

    TRACKED = "tracked"  # as it was committed, unless it is listed as STAGED too
    CHANGED = "changed"  # untracked, or in conflict
    STAGED = "staged"  # the index differs from the commit; another entry says whether it exists
    ABSENT = "absent"  # left out by a sparse checkout
    SUBMODULE = "submodule"  # a submodule that is not checked out


class ListedFile(NamedTuple):
    """A file that git lists.

    Attributes:
        committed: Mode and ID, as in `100644 4b825dc…`, of a tracked file.
    """

    path: str
    status: Status
    committed: str = ""


@contextmanager
def list_files(
    source: Path, roots: Sequence[str] = (), prunes: Callable[[str], bool] = lambda _: False, *, untracked: bool = True
) -> Iterator[Iterator[ListedFile]]:
    """Give an iterator over the files of `source` that git tracks or, too, does not ignore; git starts at once.

    Paths are POSIX and relative to `source`, below `roots` if there are any, unordered. Submodules and other
    repositories inside the tree are listed by their own index and rules. No file is opened, so no program of the
    repository's choice has anything to convert.

    Args:
        prunes: Whether nothing below a folder is packed, so that git need not be able to read it.
        untracked: Whether files that git neither tracks nor ignores are listed, too.

    Raises:
        LocalError: git is missing, refuses the repository, or could not read a directory.
    """
    # Two commands at once: what is in the index is read while git still looks for what is not.
    read_index = ["ls-files", "-z", "-t", "-s", "--", *roots]
    with ExitStack() as stack:
        found = stack.enter_context(stream_untracked(source, prunes, roots)) if untracked else iter(())
        entries = stack.enter_context(stream_git(source, read_index))
        yield _follow(source, roots, prunes, entries, found)


def stream_untracked(
    source: Path, prunes: Callable[[str], bool], roots: Sequence[str] = ()
) -> AbstractContextManager[Iterator[str]]:
    """Give an iterator over the files that git neither tracks nor ignores; of another repository, its folder and `/`.

    Raises:
        LocalError: As in `list_files`.
    """
    return stream_git(source, ["ls-files", "-z", "-o", "--exclude-standard", "--", *roots], prunes)


def _follow(
    source: Path,
    roots: Sequence[str],
    prunes: Callable[[str], bool],
    entries: Iterable[str],
    untracked: Iterable[str],
) -> Iterator[ListedFile]:
    """Yield the files in the index, those that are not, those that are staged, and those of repositories inside."""
    tracked = Status.TRACKED
    nested: dict[str, str] = {}
    for entry in entries:
        head, _, path = entry.partition("\t")
        if head.startswith("H 100") and head.endswith(" 0"):  # nearly all of them
            yield ListedFile(path, tracked, head[2:-2])
            continue
        file = _parse_entry(head, path)
        if file.committed.startswith(_SUBMODULE):
            nested[path] = file.committed.removeprefix(_SUBMODULE)
        elif file.status is Status.ABSENT and os.path.lexists(source / path):
            yield file._replace(status=tracked)
        else:
            yield file
    for path in untracked:
        if path.endswith("/"):
            nested.setdefault(path[:-1], "")
        else:
            yield ListedFile(path, Status.CHANGED)
    yield from (ListedFile(path, Status.STAGED) for path in _list_staged(source, roots) if path not in nested)
    for folder in sorted(nested):
        if not prunes(folder):
            yield from _list_nested(source / folder, folder, nested[folder])


def _parse_entry(head: str, path: str) -> ListedFile:
    """Return what `H 100644 4b825dc… 0` says about a path; one that is skipped may be there all the same."""
    if head[-1] != "0":  # the stage of a conflict
        return ListedFile(path, Status.CHANGED)
    return ListedFile(path, Status.ABSENT if head[0] == "S" else Status.TRACKED, head[2:-2])


def _list_nested(source: Path, folder: str, commit: str) -> Iterator[ListedFile]:
    """Yield the files of a repository inside the tree, and that repository itself if it is at another commit."""
    if source.is_symlink() or not os.path.lexists(source / ".git"):
        if commit:
            yield ListedFile(folder, Status.SUBMODULE)
        return
    with list_files(source) as inner:
        yield from (ListedFile(f"{folder}/{file.path}", file.status, file.committed) for file in inner)
    head = read_head(source) if commit else None
    if head and head.sha != commit:
        yield ListedFile(folder, Status.STAGED)


def _list_staged(source: Path, roots: Sequence[str]) -> Iterable[str]:
    """Return the paths whose index entry differs from the commit; all of them if there is no commit yet."""
    command = ["diff-index", "--cached", "--relative", "--name-only", "--no-renames", "-z", "HEAD", "--", *roots]
    done = run_git(source, command, ok=(0, 128))
    if not done.returncode:
        return split_entries(done.stdout)
    if read_head(source) is None:
        return split_entries(run_git(source, ["ls-files", "-z", "--", *roots]).stdout)
    return split_entries(run_git(source, command).stdout)  # which says what is wrong
