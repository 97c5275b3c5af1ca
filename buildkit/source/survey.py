"""What the folders of a selection contain: files that are gone, special files, names that fail elsewhere.

Each folder is listed once and its names are checked together, which costs less than checking every path.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from buildkit.display import name_first
from buildkit.errors import LocalError
from buildkit.source.folders import FolderNames, SourceFolders
from buildkit.source.walk import describe_unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
# Not on Windows: characters, the end of a name, devices. Names are folded, with a slash before and after each. Three
# expressions are faster than one, because each finds its first character without trying the others.
_ODD_CHARACTER = re.compile(r"[\x00-\x1f\x7f\\:*?\"<>|]")
_ODD_END = re.compile(r"[. ]/")
_DEVICE = re.compile(r"/(?:con|prn|aux|nul|com[0-9]|lpt[0-9])[./]")
_READ_BY_GIT = frozenset({".gitattributes", ".gitignore", ".gitmodules"})


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
        LocalError: A name has control characters, a folder cannot be read, or git's own files are something else.
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
            chosen, paths = set(selected), [prefix + name for name in found.files]
            missing += chosen.difference(paths)
            links += chosen.intersection([prefix + name for name in found.links])
            if len(paths) > len(selected):
                modules += [path for path in paths if path.endswith(".py") and path not in chosen]
            modules += [path for path in (prefix + name for name in found.folders) if path not in groups]
            _refuse_specials(prefix, found.specials)
            specials += [prefix + name for name in found.specials if packs(prefix + name)]
            names = [*found.files, *found.folders]
            folded = "/".join(names).casefold()
            if _is_odd(folded):
                odd += [path for path in _find_odd(prefix, names) if has_any(files, path)]
            if len(set(folded.split("/"))) < len(names):
                twins += [path for path in _find_twins(prefix, names) if has_any(files, path)]
    _refuse_controls([path for path in odd if _CONTROLS.search(path)])
    warnings = [f"skipped {path}: not a file, folder or link" for path in sorted(specials)]
    if odd:
        warnings.append(f"names that not every system allows: {name_first(sorted(odd))}")
    return Survey(sorted(missing), warnings + _describe_twins(twins), sorted(links), sorted(modules))


def has_any(files: Sequence[str], path: str) -> bool:
    """Return whether `path` is one of the sorted `files`, or a folder with one in it."""
    at = bisect_left(files, path)
    if at < len(files) and files[at] == path:
        return True
    at = bisect_left(files, f"{path}/")
    return at < len(files) and files[at].startswith(f"{path}/")


def _list_names(folders: SourceFolders, folder: str) -> FolderNames:
    try:
        return folders.list_names(folder)
    except (FileNotFoundError, NotADirectoryError):
        return FolderNames([], [], [], [])  # all of it is missing
    except PermissionError:
        raise describe_unreadable([folder]) from None


def _group_by_folder(files: Sequence[str]) -> dict[str, list[str]]:
    """Return the root and each folder that leads to a file, with the files that are directly in it."""
    groups: dict[str, list[str]] = {"": []}
    last, group = "", groups[""]
    for path in files:
        folder = path.rpartition("/")[0]
        if folder != last:  # most neighbours share a folder
            last, group = folder, groups.setdefault(folder, [])
            above = folder.rpartition("/")[0]
            while above not in groups:
                groups[above] = []
                above = above.rpartition("/")[0]
        group.append(path)
    return groups


def _is_odd(folded: str) -> bool:
    """Return whether names, joined by slashes, contain one that some systems do not allow."""
    text = f"/{folded}/"
    return bool(_ODD_CHARACTER.search(text) or _ODD_END.search(text) or _DEVICE.search(text))


def _find_odd(prefix: str, names: Sequence[str]) -> list[str]:
    return [prefix + name for name in names if _is_odd(name.casefold())]


def _find_twins(prefix: str, names: Sequence[str]) -> list[str]:
    folded = [name.casefold() for name in names]
    counts = Counter(folded)
    return [prefix + name for name, key in zip(names, folded, strict=True) if counts[key] > 1]


def _refuse_specials(prefix: str, names: Sequence[str]) -> None:
    """Refuse FIFOs and the like that have the name of a file that git reads, or would read with other settings."""
    if blocked := _READ_BY_GIT.intersection(names):
        raise LocalError(f"{prefix}{min(blocked)} is not a file", "remove it, or restore it from the commit")


def _refuse_controls(paths: Sequence[str]) -> None:
    if paths:
        named = name_first([*map(repr, sorted(paths))])
        raise LocalError(f"control characters in the name of {named}", "rename it, or leave it out with EXCLUDE")


def _describe_twins(paths: Sequence[str]) -> list[str]:
    """Return a sentence for each pair, if both are packed."""
    first: dict[str, str] = {}
    warnings = []
    for path in sorted(paths):
        twin = first.setdefault(path.casefold(), path)
        if twin != path:
            warnings.append(f"{twin} and {path} differ only in case")
    return warnings
