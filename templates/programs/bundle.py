"""Build the executable from the source and the analysed spec, and check that it has every data file.

usage: bundle.py SPEC EXECUTABLE, from the root of the source tree

If the executable is split, this builds `EXECUTABLE.own`, which has the project's own files and all its data files.
"""

import json
import py_compile
import sys
from pathlib import Path

from analyse import DATA, OWN, RESOLVED, UNRESOLVED, WORK, complete_analysis, is_tested, run_pyinstaller
from PyInstaller.archive.readers import CArchiveReader


def check_executable(executable: Path, data: dict[str, Path]) -> None:
    """Exit if a data file is missing from the executable or differs from the source; each one is named."""
    if not executable.is_file():
        built = ", ".join(sorted(path.name for path in executable.parent.iterdir()))
        sys.exit(f"the spec built no one-file executable {executable.name}, but: {built}")
    archive = CArchiveReader(str(executable))
    carried = {Path(name).as_posix(): name for name in archive.toc}
    missing = [
        place
        for place, path in data.items()
        if place not in carried or archive.extract(carried[place]) != path.read_bytes()
    ]
    if missing:
        sys.exit(
            "data files missing from the executable (BINARY_OMIT makes them optional):\n    " + "\n    ".join(missing)
        )
    print(f"all {len(data)} data files of the packages are in the executable")


def compile_entry(place: str, source: str, kind: str) -> tuple[str, str, str]:
    """Return an entry as it is, or, if it is code, as a data file with the compiled code."""
    if not kind.startswith(("PYMODULE", "PYSOURCE")):
        return place, source, kind
    compiled = str(WORK / "compiled" / place)
    py_compile.compile(
        source,
        compiled,
        dfile=place.removesuffix("c"),
        doraise=True,
        optimize=int(kind.partition("-")[2] or 0),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    return place, compiled, "DATA"


def write_own_spec() -> str:
    """Return a spec for the project's own files."""
    own = json.loads(OWN.read_text())
    spec = WORK / "own.spec"
    spec.write_text(f"EXE({[compile_entry(*entry) for entry in own['entries']]!r}, **{own['options']!r})")
    return str(spec)


def bundle(spec: str, executable: str) -> None:
    """Build the executable from the files in the tree, with the resolved spec if there is one."""
    data = {place: Path(path) for place, path in json.loads(DATA.read_text()).items()}
    resolved = RESOLVED / Path(spec).name
    if OWN.exists():
        spec, executable = write_own_spec(), f"{executable}.own"
    elif resolved.exists():
        spec = str(resolved)
    else:
        print(f"{spec} is analysed again with every change of the source: {UNRESOLVED.read_text()}", end="", flush=True)
        if is_tested():
            from PyInstaller.building import build_main

            build_main.Analysis = complete_analysis(data, [])
    run_pyinstaller(spec, WORK / "bundle")
    check_executable(Path("/dist", executable), data)


if __name__ == "__main__":
    bundle(*sys.argv[1:])
