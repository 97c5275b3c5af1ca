"""Analyse the project's own PyInstaller spec, using the outline of its source.

usage: analyse.py SPEC MODULE, from the root of the outline

The analysis takes minutes, and is valid until the outline changes. Its result is a "resolved" spec that names every
file of the executable. If the spec needs more of the source than an outline has, there is no resolved spec; bundle.py
then analyses the source itself, every time that it changes.

Data files that the spec leaves out are added, except for specs. BINARY_OMIT has patterns, separated by spaces, of paths
such as `openhands/agent_server/README.md`: files that match are neither added nor required.
"""

import ast
import importlib.util
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib.machinery import ModuleSpec, all_suffixes
from pathlib import Path
from typing import Any, NoReturn

import PyInstaller
import PyInstaller.__main__

# Taking part in an analysis means replacing names of PyInstaller's that its documentation does not mention. Under these
# versions that was tried; under any other one, PyInstaller gets the project's own spec and nothing is replaced.
TESTED = ((5, 13, 2), (6, 23))
WORK = Path("/pyinstaller")
OUTLINED = WORK / "outlined.txt"
DATA = WORK / "data.json"
RESOLVED = WORK / "resolved"
UNRESOLVED = WORK / "unresolved.txt"
OWN = WORK / "own.json"


class UnresolvedError(Exception):
    """The result of the spec depends on more of the source than an outline has."""


def is_tested() -> bool:
    """Return whether this version of PyInstaller was tried."""
    version = tuple(int(part) for part in re.findall(r"\d+", PyInstaller.__version__)[:3])
    return TESTED[0] <= version < TESTED[1]


def find_spec(name: str) -> ModuleSpec | None:
    """Return where Python would import `name` from, or None."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def find_packages(root: Path, module: str) -> dict[Path, str]:
    """Return the import names of the packages in the tree, by folder."""
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
    """Return every data file of the packages, by its path in the executable."""
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


def complete_analysis(data: dict[str, Path], read: list[str]) -> type:
    """Return PyInstaller's Analysis, made to add the data files that a spec leaves out.

    Args:
        read: Files that the spec has read; those that the analysis itself reads are taken out again.
    """
    from PyInstaller.building import build_main

    class CompleteAnalysis(build_main.Analysis):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            read_by_spec = list(read)
            super().__init__(*args, **kwargs)
            read[:] = read_by_spec
            known = {Path(entry[0]).as_posix() for entry in self.datas}
            missing = sorted(set(data) - known)
            self.datas = [*self.datas, *((place, str(data[place]), "DATA") for place in missing)]
            print("data files that the spec leaves out, added:", *missing or ["none"], sep="\n    ")

    return CompleteAnalysis


class Archive:
    """The archive of modules that a line of a resolved spec creates."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"pyz_{self.number}"


def resolve_spec(spec: str, data: dict[str, Path]) -> list[str]:
    """Run a spec on the outline, and return the lines of a spec that gives the same and names every file.

    Raises:
        UnresolvedError: Run on the source, the spec might give something else.
    """
    from PyInstaller.building import build_main

    outlined = {os.path.abspath(name) for name in OUTLINED.read_text().splitlines()}
    read: list[str] = []
    lines: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path in outlined:
                read.append(path)

    def note_pyz(*parts: Any, **options: Any) -> Archive:
        archive = Archive(len(lines))
        lines.append(f"{archive} = PYZ({write_arguments(parts, options)})")
        return archive

    def note_exe(*parts: Any, **options: Any) -> None:
        lines.append(f"EXE({write_arguments(parts, options)})")

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise UnresolvedError("it makes more than an executable")

    sys.addaudithook(watch)
    build_main.Analysis = complete_analysis(data, read)
    build_main.PYZ, build_main.EXE = note_pyz, note_exe
    build_main.BUNDLE = build_main.COLLECT = build_main.MERGE = build_main.Splash = refuse
    run_pyinstaller(spec, WORK / "analysis")
    if read:
        raise UnresolvedError(f"it reads {', '.join(sorted(set(read)))}")
    return lines


def write_arguments(parts: Iterable[Any], options: dict[str, Any]) -> str:
    """Return the arguments of a call as a spec has them."""
    written = [repr(part if isinstance(part, Archive) else check_entries(part)) for part in parts]
    try:
        ast.literal_eval(repr(options))
    except (SyntaxError, ValueError):
        raise UnresolvedError(f"it has options that are not plain values: {options}") from None
    return ", ".join([*written, *(f"{name}={value!r}" for name, value in options.items())])


def check_entries(entries: Iterable[Any]) -> list[tuple[str, str | None, str]]:
    """Return entries of an analysis, all of which name files of the source."""
    checked = []
    for place, source, kind in entries:
        if kind.startswith("PYSOURCE") and not source.endswith(".py"):
            raise UnresolvedError(f"it runs a script whose name does not end in .py: {source}")
        compiled = source and source.endswith(".pyc") and Path(source).is_relative_to(WORK)
        if compiled or (source and Path(source).is_relative_to(tempfile.gettempdir())):
            raise UnresolvedError(f"the analysis creates a file itself: {place}")
        checked.append((place, source, kind))
    return checked


def run_pyinstaller(spec: str, work: Path) -> None:
    """Run PyInstaller on a spec."""
    PyInstaller.__main__.run(["--clean", "--noconfirm", "--distpath", "/dist", "--workpath", str(work), spec])


def analyse(spec: str, module: str) -> None:
    """Write the list of data files, and the resolved spec, or else the reason why it cannot be resolved."""
    omit = ["*.spec", *os.environ.get("BINARY_OMIT", "").split()]
    data = select_data(find_packages(Path.cwd(), module), omit)
    RESOLVED.mkdir()
    DATA.write_text(json.dumps({place: str(path) for place, path in data.items()}))
    if not is_tested():
        UNRESOLVED.write_text(f"PyInstaller {PyInstaller.__version__} is not one of the tested versions\n")
    if UNRESOLVED.exists():
        return
    try:
        lines = resolve_spec(spec, data)
        (RESOLVED / Path(spec).name).write_text("\n".join(lines))
    except UnresolvedError as error:
        UNRESOLVED.write_text(f"{error}\n")
    except (Exception, SystemExit) as error:  # noqa: BLE001  (a spec is a program, which may raise anything)
        traceback.print_exc()
        UNRESOLVED.write_text(f"{type(error).__name__}: {error}\n")


if __name__ == "__main__":
    analyse(*sys.argv[1:])
