"""Step `doctor`: whether everything is in place, each finding with its fix."""

from __future__ import annotations

import shutil
from dataclasses import fields
from typing import TYPE_CHECKING

from buildkit.display import format_size
from buildkit.errors import RuntimeBuildError
from buildkit.models import Finding
from buildkit.source import git
from buildkit.source.project import read_project

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from buildkit.config.settings import Settings
    from buildkit.runtime_api.client import RuntimeApi

_FREE_BYTES = 1_000_000_000
_BAD_SETTING, _NO_SERVICE = 2, 4

NO_API = Finding("Runtime API", ok=True, detail="RUNTIME_API_URL is not set: archives are made and nothing is sent")


def check_git(source: Path) -> Finding:
    """Return whether git knows the source's commit."""
    try:
        if not git.is_checkout(source):
            return Finding("git", ok=True, detail="the source is not in a checkout: its commit is `unknown`")
        commit = git.read_commit(source)
    except RuntimeBuildError as error:
        return Finding("git", ok=False, detail=error.message, fix=error.fix, exit_code=_BAD_SETTING)
    return Finding("git", ok=True, detail=f"commit {commit.sha}" if commit else "a checkout without a commit")


def check_source(source: Path) -> Finding:
    """Return whether the source tree has what every build needs."""
    try:
        project = read_project(source)
    except RuntimeBuildError as error:
        return Finding("source", ok=False, detail=error.message, fix=error.fix, exit_code=_BAD_SETTING)
    except OSError as error:
        fix = "make the source directory readable, or set SOURCE_DIR"
        return Finding("source", ok=False, detail=f"{source}: {error.strerror}", fix=fix, exit_code=_BAD_SETTING)
    return Finding("source", ok=True, detail=f"{source}: {', '.join(project.roots)}")


def list_settings(settings: Settings, origins: Mapping[str, str]) -> Iterator[Finding]:
    """Yield each setting that is not a default, with where it came from, then how many are; the key shows as a mask."""
    defaults = 0
    for item in fields(settings):
        name = item.name.upper()
        if origins[name] == "default":
            defaults += 1
        else:
            yield Finding(name, ok=True, detail=f"{_format(getattr(settings, item.name))} (from {origins[name]})")
    yield Finding("settings", ok=True, detail=f"{defaults} others have their defaults")


def check_disk(directory: Path) -> Finding:
    """Return whether there is room for an archive where `directory` is, or will be."""
    folder = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    return Finding(
        "disk",
        ok=free >= _FREE_BYTES,
        detail=f"{format_size(free)} free for {directory.name}",
        fix="make room, or set OUTPUT_DIR to another disk",
        exit_code=_BAD_SETTING,
    )


def check_api(api: RuntimeApi) -> list[Finding]:
    """Return whether the Runtime API is reached, takes the key, and which calls it has."""
    try:
        probe = api.probe()
    except RuntimeBuildError as error:
        return [Finding("Runtime API", ok=False, detail=error.message, fix=error.fix, exit_code=_NO_SERVICE)]
    words = {True: "yes", False: "no", None: "not known"}
    return [
        Finding("Runtime API", ok=True, detail=f"{api.url} answers"),
        Finding(
            "key",
            ok=probe.is_key_accepted is not False,
            detail={True: "accepted", False: "refused", None: "neither accepted nor refused"}[probe.is_key_accepted],
            fix="set RUNTIME_API_KEY to a key of this server",
            exit_code=_NO_SERVICE,
        ),
        *(
            Finding(endpoint.path, ok=True, detail=f"{words[endpoint.is_served]} (HTTP {endpoint.status})")
            for endpoint in probe.endpoints
        ),
    ]


def _format(value: object) -> str:
    """Return a setting's value as it would be typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ",".join(f"{name}={text}" for name, text in value.items())
    if isinstance(value, tuple | frozenset):
        return ",".join(value if isinstance(value, tuple) else sorted(value))
    return str(value)
