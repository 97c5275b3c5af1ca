"""The output directory: whether it is ours, one run at a time, and cleaning that removes only what we wrote."""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit.errors import LocalError, SettingError
from buildkit.output.atomic import is_temporary, sweep_temporaries, write_file
from buildkit.output.lock import hold_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = ".gitignore"
_SIGNATURE = "# Created by runtime-build. Everything in this folder may be removed by it.\n"
STAT_CACHE = ".context-cache"
_STATE_FILES = frozenset(
    f"{step}.json" for step in ("version", "dockerfile", "context", "upload", "wait", "build", "verify")
)
_OUR_FILES = _STATE_FILES | {MARKER, STAT_CACHE, "Dockerfile", "BUILD_INSTRUCTIONS.md", "manifest.yaml"}
_OUR_ARCHIVE = re.compile(r"agent-server-(?:[0-9a-f]{7}|unknown)-[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\.tar\.gz")


def check_output_dir(directory: Path, *protected: Path) -> None:
    """Refuse a directory that is not ours to write into; touches nothing.

    Args:
        protected: The source, the project, the working directory: none may be `directory` or lie in it.

    Raises:
        SettingError: It is `/`, a home, a checkout, holds one of `protected`, is or lies behind a symbolic link of its
            own name, or holds files that we did not write.
    """
    shown = str(directory)
    fix = "set OUTPUT_DIR to a folder that does not exist yet, such as ./runtime-build"
    try:
        mode = directory.lstat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFDIR
    except OSError as error:  # its name is too long, or it lies below a file or in a folder that is closed to us
        raise SettingError(f"OUTPUT_DIR cannot be reached: {shown}: {error.strerror}", fix) from error
    if stat.S_ISLNK(mode):
        raise SettingError(f"OUTPUT_DIR is a symbolic link: {shown}", fix)
    if not stat.S_ISDIR(mode):
        raise SettingError(f"OUTPUT_DIR is not a folder: {shown}", fix)
    real, home = directory.resolve(), _find_home()
    if real in {Path("/"), home} or (real / ".git").exists():
        raise SettingError(f"OUTPUT_DIR is the root, a home or a checkout: {shown}", fix)
    for path in (*protected, home):
        if path.resolve().is_relative_to(real):
            raise SettingError(f"OUTPUT_DIR holds more than our output: {shown} contains {path}", fix)
    if ".git" in real.parts:
        raise SettingError(f"OUTPUT_DIR lies in a repository's own folder: {shown}", fix)
    if directory.is_dir() and not _is_ours(directory):
        raise SettingError(f"OUTPUT_DIR holds files that runtime-build did not write: {shown}", fix)


@contextmanager
def lock_output_dir(directory: Path) -> Iterator[None]:
    """Keep every other run out of `directory`. The lock lies beside it, since the directory itself may be cleared.

    Raises:
        LocalError: Another run is at work there.
    """
    path = directory.parent / f".{directory.name}.lock"
    with ExitStack() as stack:
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                raise LocalError(f"{path.name} beside {directory.name} is not a lock of ours", "remove it")
            stack.enter_context(hold_lock(path))
        except BlockingIOError:
            raise LocalError(
                f"another run is at work in {directory.name}", "wait for it to end, or set another OUTPUT_DIR"
            ) from None
        except OSError as error:
            raise LocalError(
                f"cannot write beside {directory.name}: {error.strerror}", "set another OUTPUT_DIR"
            ) from error
        if directory.is_dir():
            sweep_temporaries(directory)
        yield


def make_output_dir(directory: Path) -> None:
    """Create the directory with our marker in it; does nothing where it is there already."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocalError(f"cannot create {directory.name}: {error.strerror}", "set another OUTPUT_DIR") from error
    if not any(directory.iterdir()):
        write_file(directory / MARKER, f"{_SIGNATURE}*\n".encode("ascii"))


def clean_output_dir(directory: Path, archives: frozenset[str], keep: frozenset[str] = frozenset()) -> list[str]:
    """Return the names of the files that were removed: known ones, and only where our marker is.

    Args:
        archives: Names of archives that our state files tell of, besides those with a generated name.
        keep: Names that stay.

    Raises:
        SettingError: There is no marker; nothing was removed.
        LocalError: A folder stands under one of our names; nothing was removed.
    """
    if not directory.is_dir() or not any(directory.iterdir()):
        return []
    if not _has_marker(directory):
        raise SettingError(
            f"{directory.name} has no marker of ours ({MARKER}), so nothing in it is removed",
            "remove it by hand, set CLEAN_OUTPUT=false, or set another OUTPUT_DIR",
        )
    known = _OUR_FILES | archives
    ours = [name for name in sorted(os.listdir(directory)) if name in known or _OUR_ARCHIVE.fullmatch(name)]
    for name in ours:
        if stat.S_ISDIR((directory / name).lstat().st_mode):
            raise LocalError(f"{directory.name}/{name} is a folder, not a file of ours", "move it somewhere else")
    removed = [name for name in ours if name not in keep | {MARKER}]
    for name in removed:
        (directory / name).unlink()
    return removed


def remove_output_dir(directory: Path) -> None:
    """Remove the marker and the directory when nothing else is left in it."""
    if directory.is_dir() and os.listdir(directory) == [MARKER]:
        (directory / MARKER).unlink()
        directory.rmdir()


def _find_home() -> Path:
    """Return the home; the root where the user has none, as in a container that runs under just any number."""
    try:
        return Path.home().resolve()
    except RuntimeError:
        return Path("/")


def is_archive_name(name: str) -> bool:
    """Return whether a file of that name can be a build context of ours; no other name is ever removed as one."""
    return bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}", name)) and name.endswith((".tar.gz", ".tgz"))


def _is_ours(directory: Path) -> bool:
    """Return whether we wrote it: our marker, or, as in an artifact without hidden files, one of our state files.

    The name alone proves nothing: other programs write a `version.json` too.
    """
    names = {name for name in os.listdir(directory) if not is_temporary(name)}  # all that a run killed early leaves
    return not names or _has_marker(directory) or any(_is_state(directory / name) for name in names & _STATE_FILES)


def _is_state(path: Path) -> bool:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and record.keys() >= {"schema", "made_from"}


def _has_marker(directory: Path) -> bool:
    marker = directory / MARKER
    return marker.is_file() and not marker.is_symlink() and marker.read_bytes().startswith(_SIGNATURE.encode("ascii"))
