"""Files of the workspace, and of nothing else."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


class OutsideWorkspace(Exception):
    """A path that leads out of the workspace, by `..`, by a slash in front or by a link."""


class FileService:
    """Reads and writes below one folder."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace.resolve()

    def find(self, path: str) -> Path:
        """Return where `path` lies, links resolved.

        Raises:
            OutsideWorkspace: It lies outside, or is the workspace itself.
        """
        if "\0" in path:
            raise OutsideWorkspace(path)
        found = Path(os.path.realpath(self._workspace / path))
        if self._workspace not in found.parents:
            raise OutsideWorkspace(path)
        return found

    def read(self, path: str, limit_bytes: int) -> bytes:
        """Return the bytes of a regular file.

        Raises:
            FileNotFoundError: There is none.
            OverflowError: It is larger than the limit.
        """
        found = self.find(path)
        if not found.is_file():
            raise FileNotFoundError(path)
        with found.open("rb") as file:
            content = file.read(limit_bytes + 1)
        if len(content) > limit_bytes:
            raise OverflowError(path)
        return content

    def write(self, path: str, content: bytes) -> None:
        """Put `content` at `path`, whole or not at all, making the folders that lead there.

        Raises:
            FileExistsError: A folder is in the way, or a file where a folder is needed.
        """
        found = self.find(path)
        if found.is_dir():
            raise FileExistsError(path)
        found.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=found.parent, prefix=".upload-")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            temporary.chmod(0o644)
            temporary.replace(found)
        except BaseException:
            temporary.unlink()
            raise
