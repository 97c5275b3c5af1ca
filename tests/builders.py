"""Stand-ins around the server's workers: engines that are small programs, and plain files for contexts and logs."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from buildkit.engines.docker import Buildx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from buildkit.server.records import Build

# A buildx whose context is a shell script that is the build. `NAME.down` beside it means that builder NAME is gone.
_PROGRAM = """#!/bin/sh
here=$(dirname "$0")
case "$1 $2" in
    "buildx version") echo "github.com/docker/buildx v0.12.0 abc" ;;
    "buildx inspect") test ! -e "$here/$3.down" || echo "Error: connection refused" ;;
    "buildx build")
        for word in "$@"; do
            case "$word" in
                --builder=*) builder=${word#*=} ;;
                --metadata-file=*) receipt=${word#*=} ;;
                --tag=*) tag=${tag:-${word#*=}} ;;
            esac
        done
        echo "$tag $builder begins" >>"$here/ledger"
        down="$here/$builder.down" builder=$builder /bin/sh /dev/stdin
        code=$?
        echo "$tag $builder ends" >>"$here/ledger"
        test $code != 0 || echo '{"containerimage.digest": "sha256:0"}' >"$receipt"
        exit $code ;;
esac
"""
LOST = "ERROR: failed to receive status: rpc error: code = Unavailable desc = error reading from server: EOF"


class Builds:
    """A folder with the program, its ledger, contexts and logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program = folder / "docker"
        self._program.write_text(_PROGRAM)
        self._program.chmod(0o755)

    def make_engine(self, builder: str) -> Buildx:
        return Buildx(str(self._program), builder)

    def break_builder(self, builder: str) -> None:
        (self.folder / f"{builder}.down").touch()

    def mend_builder(self, builder: str) -> None:
        (self.folder / f"{builder}.down").unlink()

    def read_ledger(self) -> list[list[str]]:
        """Return `[image, builder, "begins" or "ends"]` in order; a build that was killed has no end."""
        ledger = self.folder / "ledger"
        return [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []


class FileContexts:
    """Contexts that are files named by their digests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, digest: str, content: str | bytes) -> None:
        path = self.folder / digest
        if not path.exists():  # a running build may be reading it
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def open(self, build: Build) -> int:
        return os.open(self.folder / build.context_sha256, os.O_RDONLY)


class FileLog:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: str) -> None:
        self._file.write(f"{line}\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class FileLogs:
    """Logs that are files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, build_id: str) -> FileLog:
        return FileLog(self.folder / f"{build_id}.log")

    def read(self, build_id: str) -> str:
        return (self.folder / f"{build_id}.log").read_text()


def wait_for(is_true: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    """Return whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if is_true():
            return True
        time.sleep(0.02)
    return False
