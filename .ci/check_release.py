"""Check that a tag is a release: `check_release.py v1.2.3` exits with 1 and says what is missing if it is not."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def check(tag: str) -> str:
    """Return the problem with a release of that tag, or an empty text."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    if tag != f"v{version}":
        return f"the tag is {tag}, but pyproject.toml says version {version}"
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    section = re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    if section is None or not section[1].strip():
        return f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD', or nothing in it"
    return ""


if __name__ == "__main__":
    sys.exit(check(sys.argv[1]) or 0)
