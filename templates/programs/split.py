"""Build the executable without the project's own files, which it loads from a second one next to it.

usage: split.py SPEC EXECUTABLE, from the root of the outline, after analyse.py

The executable has the third-party packages and changes only with the analysis. `EXECUTABLE.own`, built from the source,
is as small as the project. PyInstaller calls the two a multipackage bundle.
"""

import json
import runpy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analyse import OWN, RESOLVED, UNRESOLVED, WORK, run_pyinstaller

Entry = tuple[str, str, str]
# Runs a script of the project in the main module, as PyInstaller would.
STUB = """import marshal, sys
with open(sys._MEIPASS + "/SCRIPT", "rb") as file:
    exec(marshal.loads(file.read()[16:]))
"""


class Archive:
    """A call to PYZ, without the project's own modules."""

    def __init__(self, *parts: Any, **options: Any) -> None:
        entries = [entry for part in parts for entry in part]
        self.others = [entry for entry in entries if not is_own(entry)]
        self.own = [(place_module(name, source), source, kind) for name, source, kind in filter(is_own, entries)]
        self.options = options

    def __repr__(self) -> str:
        return f"PYZ({self.others!r}, **{self.options!r})"


def place_module(name: str, source: str) -> str:
    """Return the path of a compiled module."""
    return name.replace(".", "/") + ("/__init__.pyc" if source.endswith("/__init__.py") else ".pyc")


def is_own(entry: Entry) -> bool:
    """Return whether an entry is a file of the source tree, and not of the environment inside it."""
    _, source, kind = entry
    if kind in {"OPTION", "SYMLINK"} or source == "-":
        return False
    path = Path.cwd() / source
    return path.is_relative_to(Path.cwd()) and not path.is_relative_to(sys.prefix)


def separate(entries: Iterable[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Return the entries that stay in the executable, and the project's own files."""
    others, own = [], []
    for entry in entries:
        place, source, kind = entry
        if not is_own(entry):
            others.append(entry)
        elif kind.startswith("PYSOURCE"):
            script, stub = f"{place}.script", WORK / f"{place}.py"
            stub.write_text(STUB.replace("SCRIPT", script))
            others.append((place, str(stub), "PYSOURCE"))
            own.append((script, source, kind))
        else:
            own.append(entry)
    return others, own


def split(spec: Path, executable: str) -> None:
    """Build the executable, and write the list of files for the second one."""
    if not spec.exists():
        sys.exit(f"the executable cannot be split: {UNRESOLVED.read_text()}")
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    names = {"PYZ": Archive, "EXE": lambda *parts, **options: calls.append((parts, options))}
    runpy.run_path(str(spec), names)
    if len(calls) != 1:
        sys.exit(f"the executable cannot be split: the spec builds {len(calls)} of them")
    ((parts, options),) = calls
    if options.get("name") != executable:
        sys.exit(f"the spec does not build the executable {executable}, but {options.get('name')}")
    own: list[Entry] = []
    written = []
    for part in parts:
        others, of_part = (part, part.own) if isinstance(part, Archive) else separate(part)
        own += of_part
        written.append(repr(others))
    beside = f"{executable}.own"
    references = [(place, beside, "DEPENDENCY") for place, _, _ in own]
    spec.write_text(f"EXE({', '.join(written)}, {references!r}, **{options!r})")
    run_pyinstaller(str(spec), WORK / "split")
    OWN.write_text(json.dumps({"entries": own, "options": options | {"name": beside}}))


if __name__ == "__main__":
    split(RESOLVED / Path(sys.argv[1]).name, sys.argv[2])
