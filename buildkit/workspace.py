"""The directory of one build: whether it is ours, one run at a time, its state, and cleaning that removes only ours."""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, ClassVar

from buildkit import files
from buildkit.errors import LocalError, SettingError, run
from buildkit.folder import Folder
from buildkit.location import find_problem
from buildkit.lock import hold_lock
from buildkit.models import PROGRAMS, BuildContext, Version, is_archive_name
from buildkit.state import Result, format_state, parse_state

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from buildkit.models import StepResult

MARKER = ".gitignore"
STAT_CACHE = ".context-cache"
DOCKERFILE = "Dockerfile"
INSTRUCTIONS = "BUILD_INSTRUCTIONS.md"
MANIFEST = "manifest.yaml"
BUILD_LOG = "build.log"
# What `images` leaves: a journal and results, and two folders that have a workspace for each image and each recipe.
JOURNAL, RESULTS, SUMMARY = "images.jsonl", "images.json", "images.md"
IMAGES, RECIPES = "images", "recipes"
SBOM = "sbom.cdx.json"
ATTESTATIONS = "attestations.json"
_SIGNATURE = b"# Created by runtime-build. Everything in this folder may be removed by it.\n"
_STATES = tuple(f"{step}.json" for step in ("version", "dockerfile", "context", "upload", "wait", "build", "verify"))
_OURS = frozenset(
    {
        *_STATES,
        MARKER,
        STAT_CACHE,
        DOCKERFILE,
        INSTRUCTIONS,
        MANIFEST,
        BUILD_LOG,
        SBOM,
        ATTESTATIONS,
        *PROGRAMS,
    }
)
_ARCHIVE = re.compile(r"agent-server-(?:[0-9a-f]{7}|unknown)-[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\.tar\.gz")


class Workspace(Folder):
    """One output directory; nothing exists there until `writing` has created it.

    Attributes:
        setting: The setting that names the directory, for messages.
        example: A value of it that always works.
    """

    setting: ClassVar[str] = "OUTPUT_DIR"
    example: ClassVar[str] = "./runtime-build"

    @property
    def lock_path(self) -> Path:
        """The lock: beside the directory, because the directory itself may be removed."""
        return self.path.with_name(f".{self.name}.lock")

    def child(self, name: str) -> Workspace:
        """Return the workspace of another build, in a directory inside this one."""
        return Workspace(self.path / name)

    def check(self, *protected: Path) -> None:
        """Refuse a directory that is not ours to write to; touches nothing.

        Args:
            protected: The source, the project, the working directory: none of them may be this directory or inside it.

        Raises:
            SettingError: It is `/`, a home or a checkout, contains one of `protected`, is a symbolic link, or has files
                that we did not write.
        """
        problem = find_problem(self.path, protected)
        if problem is None and self.path.is_dir() and not self._is_ours():
            problem = f"has files that runtime-build did not write: {self.path}"
        if problem:
            raise SettingError(
                f"{self.setting} {problem}",
                f"set {self.setting} to a folder that does not exist yet, such as {self.example}",
            )

    def _is_ours(self) -> bool:
        """Return whether we wrote it: our marker, or, as in an artifact without hidden files, one of our state files.

        A name alone proves nothing: other programs write a `version.json` too.
        """
        names = {name for name in os.listdir(self.path) if not files.is_temporary(name)}  # left by a run killed early
        return (
            not names
            or self._has_marker()
            or names == {JOURNAL}  # passed on alone, from one CI job to the next
            or any(self._read_record(name).keys() >= {"schema", "made_from"} for name in names & set(_STATES))
        )

    def _has_marker(self) -> bool:
        try:
            return self.read(MARKER).startswith(_SIGNATURE)
        except OSError:
            return False

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
            if os.listdir(self.path) in ([], [JOURNAL]):
                self.write(MARKER, _SIGNATURE + b"*\n")
            yield

    def _check_files(self) -> None:
        """Refuse a link, a FIFO, a device or a folder with the name of one of our files: we never write any of these.

        Raises:
            LocalError: There is one; it is named.
        """
        for name in self._list_ours():
            if not stat.S_ISREG((self.path / name).lstat().st_mode):
                raise LocalError(
                    f"{self.show(name)} is not a regular file", "remove it, then run the same command again"
                )

    def save(self, result: StepResult) -> None:
        """Write `<step>.json`, whole or not at all.

        Raises:
            LocalError: It cannot be written.
        """
        self.write(f"{result.step}.json", format_state(result).encode("ascii"))

    def load(self, kind: type[Result], *, trace: bool = True) -> Result:
        """Return the contents of `<step>.json`, provided that everything it was made from is unchanged.

        Args:
            trace: Whether to check what it was made from.

        Raises:
            LocalError: It is missing or damaged, or was made from something else; the fix names the task to run.
        """
        name, fix = f"{kind.step}.json", f"run {run(kind.step)}"
        try:
            result = parse_state(self.read(name), kind)
        except FileNotFoundError:
            raise LocalError(f"{self.show(name)} is missing", fix) from None
        except (OSError, ValueError) as error:
            reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else error
            raise LocalError(f"{self.show(name)} {reason}", f"{fix} again") from error
        made_from = result.made_from if trace else {}
        changed = next((name for name, digest in made_from.items() if self.digest(name) != digest), None)
        if changed is not None:
            raise LocalError(f"{self.show(name)} was made from another {changed}", f"{fix} again")
        return result

    def find(self, kind: type[Result]) -> Result | None:
        """Return the contents of `<step>.json`, or None if there is no such file.

        Raises:
            LocalError: As in `load`, except for a missing file.
        """
        return self.load(kind) if self.exists(f"{kind.step}.json") else None

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

    def list_children(self) -> Iterator[Workspace]:
        """Yield the workspace of each image and of each recipe that `images` has left."""
        for folder in (self.child(IMAGES), self.child(RECIPES)):
            if folder.path.is_dir() and not folder.path.is_symlink():
                yield from (folder.child(name) for name in sorted(os.listdir(folder.path)) if not name.startswith("."))

    def delete(self) -> None:
        """Remove the marker and the directory if nothing else is in it."""
        if self.path.is_dir() and os.listdir(self.path) == [MARKER]:
            self.remove(MARKER)
            self.path.rmdir()

    def _list_ours(self) -> list[str]:
        known = _OURS | {str(self._read_record(f"{kind.step}.json").get("archive")) for kind in (Version, BuildContext)}
        names = os.listdir(self.path)
        ours = [name for name in names if name in _OURS or _ARCHIVE.fullmatch(name)]
        return sorted({*ours, *(name for name in known & set(names) if is_archive_name(name))})

    def _read_record(self, name: str) -> dict[str, object]:
        """Return the JSON object in a file, or an empty one if it has none."""
        try:
            record = json.loads(self.read(name))
        except (OSError, ValueError, RecursionError):
            return {}
        return record if isinstance(record, dict) else {}
