"""Build the executable of the project's own spec as it was analysed, and prove that it has every data file.

usage: bundle.py SPEC EXECUTABLE, from the root of the source tree
"""

import json
import sys
from pathlib import Path

from analyse import DATA, RESOLVED, UNRESOLVED, WORK, complete_analysis, run_pyinstaller
from PyInstaller.archive.readers import CArchiveReader
from PyInstaller.building import build_main


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


def bundle(spec: str, executable: str) -> None:
    """Build the executable of the files in the tree, by the resolved spec where there is one."""
    data = {place: Path(path) for place, path in json.loads(DATA.read_text()).items()}
    resolved = RESOLVED / Path(spec).name
    if not resolved.exists():
        print(f"{spec} is analysed again with every change of the source: {UNRESOLVED.read_text()}", end="", flush=True)
        build_main.Analysis = complete_analysis(data, [])
    run_pyinstaller(str(resolved) if resolved.exists() else spec, WORK / "bundle")
    check_executable(Path("/dist", executable), data)


if __name__ == "__main__":
    bundle(*sys.argv[1:])
