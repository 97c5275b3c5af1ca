"""Source trees to measure on: a checkout, and made ones whose size and content are the same on every machine."""

from __future__ import annotations

import random
import shutil
import subprocess
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

_SEED = 20251
_FILES_PER_FOLDER = 25
_PROJECT_FILE = """\
[project]
name = "{name}"
version = "0"

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
"""


@dataclass(frozen=True)
class Shape:
    """How many files a made tree has, and how many bytes in all; as many again lie in folders that git ignores."""

    files: int
    size_bytes: int
    ignored: bool = True


SHAPES = {
    "a": Shape(500, 5_500_000, ignored=False),
    "b": Shape(20_000, 339_000_000),
    "c": Shape(100_000, 126_000_000),
}


def make_tree(folder: Path, shape: Shape) -> Path:
    """Return the checkout at `folder`, made unless it is there already: one package, committed."""
    if (folder / ".git" / "made").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    name = "package"
    (folder / "pyproject.toml").write_text(_PROJECT_FILE.format(name=name))
    (folder / "uv.lock").write_text("version = 1\n")
    (folder / "LICENSE").write_text("as you like\n")
    (folder / ".gitignore").write_text("node_modules/\n.venv/\n*.log\nruntime-build/\n.runtime-build.lock\n")
    (folder / ".dockerignore").write_text("**/node_modules\n**/.venv\n**/*.log\n**/__pycache__\n!**/keep.log\n")
    _write_files(folder / name, shape.files, shape.size_bytes)
    if shape.ignored:
        _write_files(folder / name / "node_modules", shape.files // 2, shape.size_bytes // 2)
        _write_files(folder / ".venv", shape.files // 2, shape.size_bytes // 2)
    _commit(folder)
    (folder / ".git" / "made").touch()
    return folder


def copy_checkout(checkout: Path, folder: Path) -> Path:
    """Return a fresh clone of `checkout` at `folder`: nothing that is ignored or changed there comes along."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", checkout, folder], check=True)
    _settle_index(folder)
    return folder


def _write_files(folder: Path, count: int, size_bytes: int) -> None:
    """Write `count` files of source text with `size_bytes` in all, most of them small, few to a folder."""
    chance = random.Random(_SEED)
    text = _read_sources()
    weights = [chance.expovariate(1) for _ in range(count)]
    scale = size_bytes / sum(weights)
    for number, weight in enumerate(weights):
        inner = number // _FILES_PER_FOLDER
        place = folder / f"part{inner // 40:03}" / f"module{inner % 40:02}"
        if number % _FILES_PER_FOLDER == 0:
            place.mkdir(parents=True)
        start = chance.randrange(len(text) // 2)
        size = min(int(weight * scale), len(text) // 2)
        (place / f"file{number:06}.py").write_bytes(text[start : start + size])


def _read_sources() -> bytes:
    """Return the standard library's source: what people pack is text of this kind."""
    library = Path(sysconfig.get_path("stdlib"))
    return b"".join(path.read_bytes() for path in sorted(library.glob("[a-z]*.py")))


def _commit(folder: Path) -> None:
    git = ["git", "-C", str(folder), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "-c", "gc.auto=0", "commit", "--quiet", "--message", "made"], check=True)
    _settle_index(folder)


def _settle_index(folder: Path) -> None:
    """Write the index a second time, later: git reads each file that is no older than its index again, every time."""
    time.sleep(1.1)
    for command in (["read-tree", "HEAD"], ["update-index", "-q", "--refresh"]):
        subprocess.run(["git", "-C", folder, *command], check=True)
