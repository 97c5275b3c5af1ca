"""Where an output directory may be: never where a mistake would cost somebody their files."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def find_problem(directory: Path, protected: Iterable[Path]) -> str | None:
    """Return why we must not write to a directory, or None.

    Args:
        protected: Folders that must be neither this directory nor inside it, in addition to the home.
    """
    try:
        mode = directory.lstat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFDIR
    except OSError as error:  # its name is too long, or it is below a file or in a folder that we cannot enter
        return f"cannot be reached: {directory}: {error.strerror}"
    if not stat.S_ISDIR(mode):
        return f"is {'a symbolic link' if stat.S_ISLNK(mode) else 'not a folder'}: {directory}"
    real, home = directory.resolve(), _find_home()
    if real in {Path("/"), home} or (real / ".git").exists():
        return f"is the root, a home or a checkout: {directory}"
    inside = next((path for path in (*protected, home) if path.resolve().is_relative_to(real)), None)
    if inside is not None:
        return f"contains more than our output: {inside} is inside {directory}"
    if ".git" in real.parts:
        return f"is inside a repository's own folder: {directory}"
    return None


def _find_home() -> Path:
    """Return the home, or the root if the user has none, as in a container that runs under an arbitrary number."""
    try:
        return Path.home().resolve()
    except RuntimeError:
        return Path("/")
