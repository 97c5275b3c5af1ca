"""Build the executable by the own spec of the project, and prove that every data file of its packages is in it.

usage: bundle.py SPEC EXECUTABLE MODULE, from the root of the source tree

Data files that the spec leaves out are added, but for specs. The patterns in BINARY_OMIT, separated by spaces, match
paths such as `openhands/agent_server/README.md`: what they match is neither added nor asked for.
"""

import importlib.util
import os
import sys
from fnmatch import fnmatch
from importlib.machinery import ModuleSpec, all_suffixes
from pathlib import Path
from typing import Any

import PyInstaller.__main__
from PyInstaller.archive.readers import CArchiveReader
from PyInstaller.building import build_main


def find_spec(name: str) -> ModuleSpec | None:
    """Return where Python would import `name` from, or None."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def find_packages(root: Path, module: str) -> dict[Path, str]:
    """Return the names by which the packages in the tree are imported, by folder."""
    packages: dict[Path, str] = {}
    top = module.partition(".")[0]
    spec = find_spec(top)
    for location in (spec and spec.submodule_search_locations) or ():
        if Path(location).is_relative_to(root):
            packages[Path(location)] = top
    for init in sorted(root.rglob("__init__.py")):
        folder = init.parent
        parts = folder.relative_to(root).parts
        if any(part.startswith(".") for part in parts) or (folder.parent / "__init__.py").exists():
            continue
        for start in range(len(parts)):
            name = ".".join(parts[start:])
            spec = find_spec(name) if all(map(str.isidentifier, parts[start:])) else None
            if spec and spec.origin and Path(spec.origin) == init:
                packages[folder] = name
    return packages


def select_data(packages: dict[Path, str], omit: list[str]) -> dict[str, Path]:
    """Return every file of the packages that is no code, by its place in the executable."""
    code = tuple(all_suffixes())
    data: dict[str, Path] = {}
    for folder, name in packages.items():
        for path in sorted(folder.rglob("*")):
            place = Path(*name.split("."), path.relative_to(folder)).as_posix()
            compiled = "__pycache__" in path.parts
            omitted = any(fnmatch(place, pattern) for pattern in omit)
            if path.is_file() and not compiled and not omitted and not path.name.endswith(code):
                data[place] = path
    return data


def build_executable(spec: str, data: dict[str, Path]) -> None:
    """Run PyInstaller with the spec as it is, but for the data files that its analysis lacks."""

    class CompleteAnalysis(build_main.Analysis):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            known = {Path(entry[0]).as_posix() for entry in self.datas}
            missing = sorted(set(data) - known)
            self.datas = [*self.datas, *((place, str(data[place]), "DATA") for place in missing)]
            print("data files added to those of the spec:", *missing or ["none"], sep="\n    ")

    # PyInstaller runs a spec with this name from its own module; there is no option that adds to a spec.
    build_main.Analysis = CompleteAnalysis
    PyInstaller.__main__.run(["--clean", "--noconfirm", "--distpath", "/dist", "--workpath", "/pyinstaller", spec])


def check_executable(executable: Path, data: dict[str, Path]) -> None:
    """Stop where a data file is not in the executable as it is in the tree, naming each."""
    if not executable.is_file():
        made = ", ".join(sorted(path.name for path in executable.parent.iterdir()))
        sys.exit(f"the spec made no one-file executable {executable.name}, but: {made}")
    archive = CArchiveReader(str(executable))
    carried = {Path(name).as_posix(): name for name in archive.toc}
    missing = [
        place
        for place, path in data.items()
        if place not in carried or archive.extract(carried[place]) != path.read_bytes()
    ]
    if missing:
        sys.exit("data files missing from the executable (BINARY_OMIT permits):\n    " + "\n    ".join(missing))
    print(f"all {len(data)} data files of the packages are in the executable")


if __name__ == "__main__":
    spec_file, name, server_module = sys.argv[1:]
    omit = ["*.spec", *os.environ.get("BINARY_OMIT", "").split()]
    files = select_data(find_packages(Path.cwd(), server_module), omit)
    build_executable(spec_file, files)
    check_executable(Path("/dist", name), files)
