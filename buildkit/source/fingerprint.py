"""What the file system says about files, in one digest: if it is the same, none of them changed."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
import struct
from array import array
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    StatFields = tuple[int, int, int, int, int]

_BATCH = 256
_TIMED_FILE_SYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "overlay"})
_OCTAL = re.compile(r"\\([0-7]{3})")

# Size, both times, inode and mode of a file: if they are the same, so is its content.
get_fields: Callable[[os.stat_result], StatFields] = attrgetter(
    "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_mode"
)


class StatFingerprint:
    """Size, times, inode, mode and link target of files, in order."""

    def __init__(self) -> None:
        self._sizes = array("q")
        self._newest_ns = 0
        self._digest = hashlib.sha256()
        self._names: list[str] = []
        self._fields: list[StatFields] = []

    @property
    def sizes(self) -> array[int]:
        """Bytes of each file."""
        self._digest_batch()
        return self._sizes

    @property
    def newest_ns(self) -> int:
        """The latest change (ctime) of any of the files, in nanoseconds since the epoch."""
        self._digest_batch()
        return self._newest_ns

    def add(self, path: str, fields: StatFields, link: str = "") -> None:
        """Add one file; `link` is its target if it is a symbolic link."""
        self._fields.append(fields)
        self._names.append(f"{path}\0{link}" if link else path)
        if len(self._names) == _BATCH:
            self._digest_batch()

    def hexdigest(self) -> str:
        """Return the digest of everything that was added."""
        self._digest_batch()
        return self._digest.hexdigest()

    def _digest_batch(self) -> None:
        """Digest the files that were added last together, which takes half the time."""
        if self._names:
            self._digest.update(struct.pack("<" + "qqqQI" * len(self._fields), *chain.from_iterable(self._fields)))
            self._digest.update(os.fsencode("\0".join(self._names) + "\0"))
            sizes, _, changes_ns, _, _ = zip(*self._fields, strict=True)
            self._sizes.extend(sizes)
            self._newest_ns = max(self._newest_ns, *changes_ns)
            self._names.clear()
            self._fields.clear()


def take_fingerprint(source: Path, files: Iterable[str]) -> StatFingerprint | None:
    """Return the fingerprint that reading `files` would give now, without opening them; None if one is missing.

    Raises:
        LocalError: A link leaves the tree, which may be because of a folder that is not packed.
    """
    fingerprint = StatFingerprint()
    root = os.path.realpath(source)
    prefix = f"{root}/"
    try:
        for path in files:
            found = os.lstat(prefix + path)
            target = ""
            if stat.S_ISLNK(found.st_mode):
                target = os.readlink(prefix + path)
                refuse_escape(root, path, target)
            fingerprint.add(path, get_fields(found), target)
    except OSError:
        return None
    return fingerprint


def keeps_times(folder: Path) -> bool:
    """Return whether the file system of a folder gives each changed file another time, so that times prove something.

    tmpfs, for one, does not if the file is changed through a memory mapping; network file systems may lag behind.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False  # not Linux: nothing is known about it, so nothing is proved
    real = os.path.realpath(folder)
    kind, longest = "", -1
    for line in lines:
        point = _OCTAL.sub(lambda code: chr(int(code[1], 8)), line.split()[4])
        if len(point) >= longest and (real == point or real.startswith(point.rstrip("/") + "/")):
            kind, longest = line.partition(" - ")[2].split()[0], len(point)
    return kind in _TIMED_FILE_SYSTEMS


def refuse_escape(root: str, path: str, target: str) -> None:
    """Refuse a symbolic link that leads out of the tree.

    Args:
        root: The tree, resolved.

    Raises:
        LocalError: It does.
    """
    lexical = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    real = os.path.realpath(f"{root}/{path}")
    inside = real == root or real.startswith(f"{root}/")
    if posixpath.isabs(target) or lexical == ".." or lexical.startswith("../") or not inside:
        raise LocalError(
            f"the symbolic link {path} leaves the source tree: it points to {target}",
            "make it relative and inside the tree, or leave it out with EXCLUDE",
        )
