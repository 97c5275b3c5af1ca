"""Separate the third-party packages of a list from the project's own, which are folders of the source.

usage: separate.py LIST FOLDER, from the root of the source; LIST is a requirements file or a pylock.toml

FOLDER gets a file of the same name as LIST, without the project's own packages, and `own.txt`, a requirements file with
only those, as paths relative to the root.
"""

import re
import sys
from pathlib import Path

OWN = re.compile(r"(?:(?:-e|--editable)[\s=]+)?(?:[\w.-]+(?:\[[^]]*\])?\s*@\s*)?(?:file:|\.{1,2}(?:[/\[]|\s|$))")
# What uv and Poetry write for a folder; the source is at another place when it is installed.
PREFIX = re.compile(r"(?:[\w.-]+(\[[^]]*\])?\s*@\s*)?file:(?://)?(?P<path>/[^\s;#\[]*)")
PYLOCK_FOLDER = re.compile(r"^directory\s*=|^\[packages\.directory\]", re.MULTILINE)
PYLOCK_PATH = re.compile(r"""^(?:directory\s*=.*?\b)?path\s*=\s*["']([^"']*)["']""", re.MULTILINE)


def separate_requirements(text: str) -> tuple[str, list[str]]:
    """Return the text without the project's own packages, and those."""
    kept, own = [], []
    for line in text.splitlines():
        (own if OWN.match(line) else kept).append(line)
    return "".join(f"{line}\n" for line in kept), [relocate(line) for line in own]


def relocate(line: str) -> str:
    """Return a requirement with the path of its folder relative to the root."""

    def write(match: re.Match[str]) -> str:
        path = Path(match["path"])
        place = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return f"./{place.as_posix()}{match[1] or ''}" if not place.is_absolute() else str(place)

    return PREFIX.sub(write, line, count=1)


def separate_pylock(text: str) -> tuple[str, list[str]]:
    """Return the same for a pylock.toml."""
    head, *packages = re.split(r"^(?=\[\[packages\]\])", text, flags=re.MULTILINE)
    own = [package for package in packages if PYLOCK_FOLDER.search(package)]
    paths = [match[1] for match in map(PYLOCK_PATH.search, own) if match]
    return head + "".join(package for package in packages if package not in own), [f"./{path}" for path in paths]


def separate(listed: Path, folder: Path) -> None:
    """Write both files."""
    text = listed.read_text(encoding="utf-8")
    third_party, own = (separate_pylock if listed.suffix == ".toml" else separate_requirements)(text)
    (folder / listed.name).write_text(third_party, encoding="utf-8")
    (folder / "own.txt").write_text("".join(f"{line}\n" for line in own), encoding="utf-8")


if __name__ == "__main__":
    separate(Path(sys.argv[1]), Path(sys.argv[2]))
