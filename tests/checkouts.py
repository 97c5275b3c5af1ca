"""Real checkouts for tests: made with git, from the trees in `tests/projects`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PROJECTS = Path(__file__).parent / "projects"
COMMIT_TIME = 1_760_000_000
# Neither the user's settings nor a hook that runs these tests has a say in what git does.
_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "A U Thor",
    "GIT_AUTHOR_EMAIL": "author@example.com",
    "GIT_COMMITTER_NAME": "A U Thor",
    "GIT_COMMITTER_EMAIL": "author@example.com",
    "GIT_AUTHOR_DATE": f"{COMMIT_TIME} +0000",
    "GIT_COMMITTER_DATE": f"{COMMIT_TIME} +0000",
}


def run_git(folder: Path, *arguments: str) -> str:
    """Return what a git command printed, stripped."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "protocol.file.allow=always", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment | _ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit_all(folder: Path) -> str:
    """Make a checkout of `folder` where it is none yet, commit everything in it, and return the commit."""
    if not (folder / ".git").exists():
        run_git(folder, "init", "-q", "-b", "main")
    run_git(folder, "add", "-A")
    run_git(folder, "commit", "-q", "--allow-empty", "-m", "what the test needs")
    return run_git(folder, "rev-parse", "HEAD")
