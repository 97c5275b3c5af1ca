"""The directory of one build: its files, and the results of its steps."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from buildkit.errors import LocalError, run
from buildkit.models import PROGRAMS, BuildContext, Version, is_archive_name
from buildkit.owned import MARKER, OwnedFolder
from buildkit.state import Result, format_state, parse_state

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from buildkit.models import StepResult

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
_STATES = frozenset(
    f"{step}.json" for step in ("version", "dockerfile", "context", "upload", "wait", "build", "verify")
)
_OURS = _STATES.union(PROGRAMS, {MARKER, STAT_CACHE, DOCKERFILE, INSTRUCTIONS, MANIFEST, BUILD_LOG, SBOM, ATTESTATIONS})
_ARCHIVE = re.compile(r"agent-server-(?:[0-9a-f]{7}|unknown)-[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\.tar\.gz")


class Workspace(OwnedFolder):
    """The output directory of one build."""

    setting = "OUTPUT_DIR"
    example = "./runtime-build"
    passed_on = frozenset({JOURNAL})

    def child(self, name: str) -> Workspace:
        """Return the workspace of another build, in a directory inside this one."""
        return Workspace(self.path / name)

    def save(self, result: StepResult) -> None:
        """Write `<step>.json`, whole or not at all."""
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
        """Return the contents of `<step>.json` as `load` does, or None if there is no such file."""
        return self.load(kind) if self.exists(f"{kind.step}.json") else None

    def list_children(self) -> Iterator[Workspace]:
        """Yield the workspace of each image and of each recipe that `images` has left."""
        for folder in (self.child(IMAGES), self.child(RECIPES)):
            if folder.path.is_dir() and not folder.path.is_symlink():
                yield from (folder.child(name) for name in sorted(os.listdir(folder.path)) if not name.startswith("."))

    def _is_ours(self, names: Collection[str]) -> bool:
        """Return whether we wrote it: our marker, or, as in an artifact without hidden files, one of our state files.

        A name alone proves nothing: other programs write a `version.json` too.
        """
        states = _STATES.intersection(names)
        return super()._is_ours(names) or any(
            self._read_record(name).keys() >= {"schema", "made_from"} for name in states
        )

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
