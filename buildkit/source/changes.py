"""Which files really differ from the commit, and why: git may store a file in another form than it checks it out.

Nothing of git's own conversions runs here. A form that the commit itself asks for, in its `.gitattributes`, is the same
in every clone, so it is no difference; one that the settings of a clone ask for is.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

from buildkit.display import name_first
from buildkit.source.git import run_git
from buildkit.source.reader import start_blob

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from buildkit.source.folders import SourceFolders

_LINE_ENDINGS = "line endings: see core.autocrlf"
_MAX_NAMED = 5
_MAX_TEXT_BYTES = 16_000_000
_MAX_POINTER_BYTES = 1024
_POINTER = re.compile(rb"version https://git-lfs\S*\n(?:ext-.*\n)*oid sha256:([0-9a-f]{64})\nsize [0-9]+\n")


def explain_changes(
    source: Path, folders: SourceFolders, different: Mapping[str, str], committed: Mapping[str, str]
) -> dict[str, str]:
    """Return those of the files that really differ, each with the reason, which is empty if it was edited.

    Args:
        different: Mode and ID of each file that is not as it was committed.
        committed: Mode and ID that it was committed with.
    """
    attributes = _read_attributes(source, different)
    changes = {}
    for path, found in different.items():
        wanted = committed[path]
        asked = attributes.get(path, {})
        if asked.get("filter") == "lfs" and _matches_pointer(source, folders, path, wanted):
            continue
        reason = _compare_form(folders, path, found, wanted)
        if reason == _LINE_ENDINGS and asked.get("eol") == "crlf":
            continue
        changes[path] = reason
    return changes


def name_changes(changes: Mapping[str, str]) -> str:
    """Return the first few of the changes, with their reasons, for people."""
    return name_first([f"{path} ({reason})" if reason else path for path, reason in changes.items()], _MAX_NAMED)


def _compare_form(folders: SourceFolders, path: str, found: str, wanted: str) -> str:
    """Return in what form a file differs, or an empty text if its content does."""
    (mode, blob), (wanted_mode, wanted_blob) = found.split(), wanted.split()
    if wanted_mode == "120000" != mode and blob == wanted_blob:
        return "a file instead of a link: see core.symlinks"
    if mode != wanted_mode and blob == wanted_blob:
        return "executable or not: see core.fileMode"
    if mode == wanted_mode != "120000":
        with os.fdopen(folders.open(path), "rb") as file:
            text = file.read(_MAX_TEXT_BYTES).replace(b"\r\n", b"\n")
        if start_blob(wanted, len(text), text).hexdigest() == wanted_blob:
            return _LINE_ENDINGS
    return ""


def _matches_pointer(source: Path, folders: SourceFolders, path: str, wanted: str) -> bool:
    """Return whether a file is the one that its Git LFS pointer in the commit names."""
    blob = wanted.split()[1]
    size = run_git(source, ["cat-file", "-s", blob], ok=(0, 128)).stdout.strip()
    if not size.isdigit() or int(size) > _MAX_POINTER_BYTES:
        return False
    pointer = _POINTER.match(run_git(source, ["cat-file", "blob", blob]).stdout)
    with os.fdopen(folders.open(path), "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return pointer is not None and pointer[1].decode("ascii") == digest


def _read_attributes(source: Path, paths: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the attributes that the index gives to each path."""
    if not paths:
        return {}
    stdin = b"".join(os.fsencode(path) + b"\0" for path in paths)
    output = run_git(source, ["check-attr", "-z", "--cached", "--stdin", "filter", "eol"], stdin=stdin).stdout
    words = [os.fsdecode(word) for word in output.split(b"\0")]
    attributes: dict[str, dict[str, str]] = {}
    for path, name, value in zip(words[::3], words[1::3], words[2::3], strict=False):
        attributes.setdefault(path, {})[name] = value
    return attributes
