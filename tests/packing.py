"""A folder packed by the task `context`, as it is after `version` and `dockerfile`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from buildkit.models import BuildContext, Dockerfile, Version
from buildkit.settings import CiEnvironment, Settings
from buildkit.source.checkout import Commit
from buildkit.source.selection import SelectedFiles
from buildkit.source.tree import SourceTree
from buildkit.tasks.context import pack_context
from buildkit.ui import Ui
from buildkit.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


SHA = "0506352" + "0" * 33
ARCHIVE = "a.tar.gz"


def list_tree(source: Path) -> SelectedFiles:
    found = (
        os.path.relpath(os.path.join(folder, name), source)
        for folder, folders, names in os.walk(source)
        for name in [*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]
    )
    return SelectedFiles(sorted(found), [], [])


class PlainTree(SourceTree):
    """A folder of which everything is packed, at no commit or at `sha`; `lists` come before what is really there."""

    def __init__(self, path: Path, *lists: SelectedFiles, sha: str | None = None) -> None:
        super().__init__(path, Settings(), CiEnvironment())
        self._lists = list(lists)
        self._sha = sha

    def identify(self, warn: Callable[[str], None]) -> Commit | None:  # noqa: ARG002 - the name is the base class's
        return Commit(self._sha, None) if self._sha else None

    def select(self) -> SelectedFiles:
        return self._lists.pop(0) if self._lists else list_tree(self.path)


class QuietUi(Ui):
    """Keeps what is said; `interfere` is called while files are read."""

    def __init__(self, interfere: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self.reports: list[str] = []
        self.interfere = interfere

    def warn(self, line: str) -> None:
        self.warnings.append(line)

    def report(self, line: str) -> None:
        self.reports.append(line)

    def progress(self, label: str) -> Any:  # noqa: ARG002 - likewise
        return nullcontext(lambda _done, _total: self.interfere())


class Packing:
    """A folder with a source tree in it, which is packed into a workspace beside the tree."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.source.mkdir()
        self.workspace = Workspace(folder / "out")
        self.archive = self.workspace.path / ARCHIVE

    def pack(
        self,
        *lists: SelectedFiles,
        ui: QuietUi | None = None,
        version: dict[str, Any] | None = None,
        generated: dict[str, bytes] | None = None,
        use_cache: bool = True,
        **changed: Any,
    ) -> BuildContext:
        """Pack as it is after `version` and `dockerfile`; `changed` are settings."""
        names: dict[str, Any] = {"sha": None, "dirty": False, "archive": ARCHIVE, "commit_time": 1_760_000_000}
        names |= version or {}
        with self.workspace.writing():
            state = Version(name="a", short_sha="unknown", tags=["a"], primary_tag="a", **names)
            self.workspace.save(state)
            files = {"Dockerfile": b"FROM x\n", "BUILD_INSTRUCTIONS.md": b"# How\n"} | (generated or {})
            for name, data in files.items():
                self.workspace.write(name, data)
            made_from = self.workspace.digests("version.json")
            self.workspace.save(Dockerfile("source", "x", "0" * 64, {}, made_from=made_from))
            tree = PlainTree(self.source, *lists, sha=names["sha"])
            return pack_context(self.workspace, tree, Settings(**changed), ui or QuietUi(), use_cache=use_cache)

    def stays(self, **given: Any) -> bool:
        """Pack again, and return whether the archive was left as it is."""
        before = identify(self.archive)
        self.pack(**given)
        return identify(self.archive) == before


def identify(path: Path) -> tuple[int, int, int]:
    """Return what changes if a file is written or replaced; reading it may change the time of its last access."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns
