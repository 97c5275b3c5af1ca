"""What the environment sets."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Config:
    """The server's settings, read once when it starts.

    Attributes:
        session_api_key: None switches everything under `/api/` off.
        workspace: Resolved; commands run in it and files cannot leave it.
    """

    session_api_key: str | None = field(repr=False)
    workspace: Path
    git_sha: str | None
    git_ref: str | None


def load_config() -> Config:
    """Return the settings; set but empty is unset."""
    return Config(
        session_api_key=os.environ.get("SESSION_API_KEY") or None,
        workspace=Path(os.environ.get("OH_WORKSPACE_PATH") or "workspace/project").resolve(),
        git_sha=os.environ.get("OPENHANDS_BUILD_GIT_SHA") or None,
        git_ref=os.environ.get("OPENHANDS_BUILD_GIT_REF") or None,
    )
