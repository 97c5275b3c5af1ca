"""Other Pythons of the machine that runs the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def find_other_pythons() -> list[str]:
    """Return interpreters of other versions that this machine has and that can run the package."""
    names = ["python3.11", "python3.12", "python3.13", "python3.14", "python3.15"]
    places = [shutil.which(name) for name in names]
    places += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/*/bin/python3"))]
    found: dict[str, str] = {}
    for place in filter(None, places):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        version = subprocess.run([place, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
        if version and tuple(map(int, version.split("."))) >= (3, 11):
            found.setdefault(version, place)
    found.pop(f"{sys.version_info[0]}.{sys.version_info[1]}", None)
    return list(found.values())
