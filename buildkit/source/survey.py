"""What the folders of a selection contain: files that are gone, special files, names that fail elsewhere.

Each folder is listed once and its names are checked together, which costs less than checking every path.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError
from buildkit.source.folders import SourceFolders
from buildkit.source.walk import describe_unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_MAX_NAMED = 10
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_NOT_ON_WINDOWS = re.compile(
    r"[\\:*?\"<>|]|(?:^|/)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.[^/]*)?(?:/|$)|[. ](?:/|$)", re.IGNORECASE
)


class Survey(NamedTuple):
    """What was found.

    Attributes:
        missing: Those of the files that are not there, or are no longer files or links.
        warnings: A sentence for each file that is skipped, and for names that fail on other systems.
        links: Those of the files that are symbolic links.
        modules: Python files that are not packed although others in their folder are, and folders of which nothing is.
    """

    missing: list[str]
    warnings: list[str]
    links: list[str]
    modules: list[str]


def survey_names(source: Path, files: Sequence[str], packs: Callable[[str], bool]) -> Survey:
    """Return what the folders of the selected files contain.

    Args:
        files: Sorted paths of what is packed.
        packs: Whether a path would be packed if it were a file.

    Raises:
        LocalError: A name has control characters, or a folder cannot be read.
    """
    missing: list[str] = []
    specials: list[str] = []
    odd: list[str] = []
    twins: list[str] = []
    links: list[str] = []
    modules: list[str] = []
    groups = _group_by_folder(files)
    with SourceFolders(source) as folders:
        for folder, selected in sorted(groups.items()):
            prefix = f"{folder}/" if folder else ""
            found = _list_names(folders, folder)
            missing += [prefix + name for name in selected.difference(found.files)]
            links += [prefix + name for name in found.links if name in selected]
            modules += [prefix + name for name in found.files if name.endswith(".py") and name not in selected]
            modules += [path for path in (prefix + name for name in found.folders) if path not in groups]
            specials += [prefix + name for name in found.specials if packs(prefix + name)]
            names = [*found.files, *found.folders]
            odd += [path for path in _find_odd(prefix, names) if _is_packed(files, path)]
            twins += [path for path in _find_twins(prefix, names) if _is_packed(files, path)]
    _refuse_controls([path for path in odd if _CONTROLS.search(path)])
    warnings = [f"skipped {path}: not a file, folder or link" for path in sorted(specials)]
    if odd:
        warnings.append(f"names that not every system allows: {', '.join(sorted(odd)[:_MAX_NAMED])}")
    return Survey(sorted(missing), warnings + _describe_twins(twins), sorted(links), sorted(modules))


class _Names(NamedTuple):
    """The names in a folder; links count as files, too."""

    files: list[str]
    folders: list[str]
    specials: list[str]
    links: list[str]


def _list_names(folders: SourceFolders, folder: str) -> _Names:
    found = _Names([], [], [], [])
    try:
        with os.scandir(folders.enter(folder)) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    found.files.append(entry.name)
                elif entry.is_symlink():
                    found.files.append(entry.name)
                    found.links.append(entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    found.folders.append(entry.name)
                else:
                    found.specials.append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        pass  # all of it is missing
    except PermissionError:
        raise describe_unreadable([folder]) from None
    return found


def _group_by_folder(files: Sequence[str]) -> dict[str, set[str]]:
    """Return the root and each folder that leads to a file, with the names of the files that are directly in it."""
    groups: dict[str, set[str]] = {"": set()}
    last, group = "", groups[""]
    for path in files:
        folder, _, name = path.rpartition("/")
        if folder != last:  # most neighbours share a folder
            last, group = folder, groups.setdefault(folder, set())
            above = folder.rpartition("/")[0]
            while above not in groups:
                groups[above] = set()
                above = above.rpartition("/")[0]
        group.add(name)
    return groups


def _find_odd(prefix: str, names: Sequence[str]) -> list[str]:
    together = "/".join(names)
    if not (_CONTROLS.search(together) or _NOT_ON_WINDOWS.search(together)):
        return []
    return [prefix + name for name in names if _CONTROLS.search(name) or _NOT_ON_WINDOWS.search(name)]


def _find_twins(prefix: str, names: Sequence[str]) -> list[str]:
    folded = [name.casefold() for name in names]
    if len(set(folded)) == len(names):
        return []
    counts = Counter(folded)
    return [prefix + name for name, key in zip(names, folded, strict=True) if counts[key] > 1]


def _is_packed(files: Sequence[str], path: str) -> bool:
    """Return whether `path` is one of the sorted `files` or a folder with one in it."""
    at = bisect_left(files, path)
    if at < len(files) and files[at] == path:
        return True
    at = bisect_left(files, f"{path}/")
    return at < len(files) and files[at].startswith(f"{path}/")


def _refuse_controls(paths: Sequence[str]) -> None:
    if paths:
        raise LocalError(
            f"control characters in the name of {', '.join(repr(path) for path in sorted(paths)[:_MAX_NAMED])}",
            "rename it, or leave it out with EXCLUDE",
        )


def _describe_twins(paths: Sequence[str]) -> list[str]:
    """Return a sentence for each pair, if both are packed."""
    first: dict[str, str] = {}
    warnings = []
    for path in sorted(paths):
        twin = first.setdefault(path.casefold(), path)
        if twin != path:
            warnings.append(f"{twin} and {path} differ only in case")
    return warnings
