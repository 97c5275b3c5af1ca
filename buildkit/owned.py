"""A directory that is ours: where it may be, our marker in it, one run at a time, and removing nothing but ours."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from buildkit import files
from buildkit.errors import LocalError, SettingError
from buildkit.folder import Folder
from buildkit.lock import hold_lock

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

MARKER = ".gitignore"
_SIGNATURE = b"# Created by runtime-build. Everything in this folder may be removed by it.\n"


class OwnedFolder(Folder):
    """A directory that only we write to; nothing exists there until `writing` has created it.

    Attributes:
        setting: The setting that names the directory, for messages.
        example: A value of it that always works.
        passed_on: Files that may be there without our marker, because one CI job hands them to the next.
    """

    setting: ClassVar[str]
    example: ClassVar[str]
    passed_on: ClassVar[frozenset[str]] = frozenset()

    @property
    def lock_path(self) -> Path:
        """The lock: beside the directory, because the directory itself may be removed."""
        return self.path.with_name(f".{self.name}.lock")

    def check(self, *protected: Path) -> None:
        """Refuse a directory that is not ours to write to; touches nothing.

        Args:
            protected: The source, the project, the working directory: none of them may be this directory or inside it.

        Raises:
            SettingError: It is `/`, a home or a checkout, contains one of `protected`, is a symbolic link, or has files
                that we did not write.
        """
        problem = _find_problem(self.path, protected)
        if problem is None and self.path.is_dir():
            names = {name for name in os.listdir(self.path) if not files.is_temporary(name)}  # of a run killed early
            if not self._is_ours(names):
                problem = f"has files that runtime-build did not write: {self.path}"
        if problem:
            raise SettingError(
                f"{self.setting} {problem}",
                f"set {self.setting} to a folder that does not exist yet, such as {self.example}",
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other run out of the directory, and remove what a killed run left half-written.

        Raises:
            LocalError: Another run is using it.
        """
        with ExitStack() as stack:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(hold_lock(self.lock_path))
            except BlockingIOError:
                fix = f"wait for it to end, or set another {self.setting}"
                raise LocalError(f"another run is using {self.name}", fix) from None
            except OSError as error:
                raise LocalError(
                    f"cannot lock {self.name} with {self.lock_path.name} beside it: {error.strerror}",
                    f"remove {self.lock_path.name} if it is not a file, or set another {self.setting}",
                ) from error
            if self.path.is_dir():
                for name in filter(files.is_temporary, os.listdir(self.path)):
                    self.remove(name)
            yield

    @contextmanager
    def writing(self, *protected: Path) -> Iterator[None]:
        """Check the directory, keep other runs out of it, and create it with our marker.

        Raises:
            SettingError: As in `check`.
            LocalError: As in `locked`, or it cannot be created, or one of our files in it is not a regular file.
        """
        self.check(*protected)
        with self.locked():
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LocalError(
                    f"cannot create {self.name}: {error.strerror}", f"set another {self.setting}"
                ) from error
            self._check_files()
            if self.passed_on.issuperset(os.listdir(self.path)):
                self.write(MARKER, _SIGNATURE + b"*\n")
            yield

    def clean(self, *, keep: Collection[str] = ()) -> list[str]:
        """Return the names of the files that were removed: files of ours, and only if our marker is there.

        Args:
            keep: Names that stay.

        Raises:
            SettingError: There is no marker; nothing was removed.
            LocalError: One of our names is a folder; nothing was removed.
        """
        if not self.path.is_dir() or not os.listdir(self.path):
            return []
        if not self._has_marker():
            raise SettingError(
                f"{self.name} does not have our marker ({MARKER}), so nothing in it is removed",
                f"remove it by hand, set CLEAN_OUTPUT=false, or set another {self.setting}",
            )
        ours = self._list_ours()
        for name in ours:
            if stat.S_ISDIR((self.path / name).lstat().st_mode):
                raise LocalError(f"{self.show(name)} is a folder, not a file of ours", "move it somewhere else")
        removed = [name for name in ours if name not in {MARKER, *keep}]
        for name in removed:
            self.remove(name)
        return removed

    def delete(self) -> None:
        """Remove the marker and the directory if nothing else is in it."""
        if self.path.is_dir() and os.listdir(self.path) == [MARKER]:
            self.remove(MARKER)
            self.path.rmdir()

    def _is_ours(self, names: Collection[str]) -> bool:
        """Return whether we wrote what is in the directory."""
        return self.passed_on.issuperset(names) or self._has_marker()

    def _has_marker(self) -> bool:
        try:
            return self.read(MARKER).startswith(_SIGNATURE)
        except OSError:
            return False

    def _check_files(self) -> None:
        """Refuse a link, a FIFO, a device or a folder with the name of one of our files: we never write these."""
        for name in self._list_ours():
            if not stat.S_ISREG((self.path / name).lstat().st_mode):
                raise LocalError(
                    f"{self.show(name)} is not a regular file", "remove it, then run the same command again"
                )

    def _list_ours(self) -> list[str]:
        """Return the names of our files that are there."""
        return [MARKER] if self.exists(MARKER) else []


def _find_problem(directory: Path, protected: Iterable[Path]) -> str | None:
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
