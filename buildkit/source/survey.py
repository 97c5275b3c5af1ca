"""Warnings about the names in the folders of a selection: special files that are skipped, names that fail elsewhere.

Each folder is listed once and its names are checked together, which costs less than checking every path.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

from buildkit.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_MAX_NAMED = 10
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_NOT_ON_WINDOWS = re.compile(
    r"[\\:*?\"<>|]|(?:^|/)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.[^/]*)?(?:/|$)|[. ](?:/|$)", re.IGNORECASE
)


def survey_names(source: Path, files: Sequence[str], packs: Callable[[str], bool]) -> list[str]:
    """Return a warning for each file that is skipped, and for names that fail on other systems.

    Args:
        files: Sorted paths of what is packed.
        packs: Whether a path would be packed if it were a file.

    Raises:
        LocalError: A name has control characters.
    """
    specials: list[str] = []
    odd: list[str] = []
    twins: list[str] = []
    for folder in _list_folders(files):
        prefix = f"{folder}/" if folder else ""
        names: list[str] = []
        with os.scandir(f"{source}/{folder}") as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False) or entry.is_symlink():
                    names.append(entry.name)
                elif packs(prefix + entry.name):
                    specials.append(prefix + entry.name)
        odd += [path for path in _find_odd(prefix, names) if _is_packed(files, path)]
        twins += [path for path in _find_twins(prefix, names) if _is_packed(files, path)]
    _refuse_controls([path for path in odd if _CONTROLS.search(path)])
    warnings = [f"skipped {path}: not a file, folder or link" for path in sorted(specials)]
    if odd:
        warnings.append(f"names that not every system allows: {', '.join(sorted(odd)[:_MAX_NAMED])}")
    return warnings + _describe_twins(twins)


def _list_folders(files: Sequence[str]) -> Iterator[str]:
    """Yield the root and each folder that leads to a file, once; most neighbours share a folder."""
    seen = {""}
    yield ""
    last = ""
    for path in files:
        folder = path.rpartition("/")[0]
        if folder == last:
            continue
        last = folder
        while folder not in seen:
            seen.add(folder)
            yield folder
            folder = folder.rpartition("/")[0]


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
