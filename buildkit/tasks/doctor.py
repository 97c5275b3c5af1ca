"""Task `doctor`: whether everything that a build needs is in place, each finding with its fix."""

from __future__ import annotations

import shutil
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from buildkit.display import format_size
from buildkit.errors import NotStarted, RuntimeBuildError, SettingError
from buildkit.models import Finding
from buildkit.settings import FOR_A_BUILD
from buildkit.task import Outcome, Run, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.settings import Settings
    from buildkit.source.tree import SourceTree

_FREE_BYTES = 1_000_000_000
_NO_API = "RUNTIME_API_URL is not set: archives are created and nothing is sent"


def main(this: Run) -> Outcome:
    """Check git, source, settings, Runtime API and disk."""
    findings = list(_list_findings(this))
    this.ui.show_findings(findings)
    failed = [finding for finding in findings if not finding.ok]
    text = f"{len(failed)} of {len(findings)} checks failed" if failed else "everything looks good"
    code = max((finding.exit_code for finding in failed), default=0)
    return Outcome(text, {"findings": [asdict(finding) for finding in findings]}, code)


def _list_findings(this: Run) -> Iterator[Finding]:
    try:
        tree = this.tree
    except SettingError as error:
        yield Finding("source", ok=False, detail=error.message, fix=error.fix, exit_code=error.exit_code)
    else:
        git = check_git(tree)
        yield git
        yield from list_source(tree, this.settings, in_order=git.ok)
    yield from list_settings(this.settings, this.loaded.origins)
    yield check_disk(this.workspace.path)
    if this.settings.runtime_api_url is None:
        yield Finding("Runtime API", ok=True, detail=_NO_API)
        return
    yield from check_api(this.open_api())


def check_git(tree: SourceTree) -> Finding:
    """Return whether the source's commit is known."""
    try:
        commit = tree.identify(lambda _: None)
    except RuntimeBuildError as error:
        return Finding("git", ok=False, detail=error.message, fix=error.fix, exit_code=SettingError.exit_code)
    return Finding("git", ok=True, detail=f"commit {commit.sha}" if commit else "no commit: names say `unknown`")


def list_source(tree: SourceTree, settings: Settings, *, in_order: bool) -> Iterator[Finding]:
    """Yield whether the source tree has what the build needs, and what else is known to go wrong in it.

    Args:
        in_order: Whether git lists the files; otherwise only the project files can be checked.
    """
    from buildkit.checks import find_problems

    code = SettingError.exit_code
    try:
        roots = ", ".join(tree.project.roots) or "the whole tree"
        problems = find_problems(tree, settings) if in_order else []
    except RuntimeBuildError as error:
        yield Finding("source", ok=False, detail=error.message, fix=error.fix, exit_code=code)
        return
    except OSError as error:
        fix = "make the source directory readable, or set SOURCE_DIR"
        yield Finding("source", ok=False, detail=f"{tree.path}: {error.strerror}", fix=fix, exit_code=code)
        return
    if not any(problem.subject == "source" for problem in problems):
        yield Finding("source", ok=True, detail=f"{tree.path}: {roots}")
    for problem in problems:
        detail = problem.message if problem.is_error else f"warning: {problem.message}; {problem.fix}"
        yield Finding(problem.subject, ok=not problem.is_error, detail=detail, fix=problem.fix, exit_code=code)


def list_settings(settings: Settings, origins: Mapping[str, str]) -> Iterator[Finding]:
    """Yield each setting that is not a default, with the layer it came from; the key is masked."""
    defaults = 0
    for item in fields(settings):
        name = item.name.upper()
        if origins[name] == "default":
            defaults += 1
        else:
            yield Finding(name, ok=True, detail=f"{_format(getattr(settings, item.name))} (from {origins[name]})")
    yield Finding("settings", ok=True, detail=f"{defaults} have their defaults")


def check_disk(directory: Path) -> Finding:
    """Return whether there is room for an archive in `directory`, which may not exist yet."""
    folder = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    return Finding(
        "disk",
        ok=free >= _FREE_BYTES,
        detail=f"{format_size(free)} free for {directory.name}",
        fix="free some disk space, or set OUTPUT_DIR to another disk",
        exit_code=SettingError.exit_code,
    )


def check_api(api: RuntimeApi) -> list[Finding]:
    """Return whether the Runtime API can be reached, accepts the key, and which calls and features it has."""
    from buildkit.runtime_api.probing import probe

    try:
        found = probe(api)
    except RuntimeBuildError as error:
        return [Finding("Runtime API", ok=False, detail=error.message, fix=error.fix, exit_code=NotStarted.exit_code)]
    words = {True: "yes", False: "no", None: "not known"}
    return [
        Finding("Runtime API", ok=True, detail=f"{api.url} responds"),
        Finding(
            "key",
            ok=found.is_key_accepted is not False,
            detail={True: "accepted", False: "rejected", None: "neither accepted nor rejected"}[found.is_key_accepted],
            fix="set RUNTIME_API_KEY to a key of this server",
            exit_code=NotStarted.exit_code,
        ),
        *(
            Finding(path, ok=True, detail=f"{words[found.is_served(path)]} (HTTP {status})")
            for path, status in found.statuses.items()
        ),
        Finding("features", ok=True, detail=", ".join(sorted(api.features())) or "none listed"),
    ]


def _format(value: object) -> str:
    """Return a setting's value as it would be typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ",".join(f"{name}={text}" for name, text in value.items())
    if isinstance(value, frozenset):
        return ",".join(sorted(value))
    if type(value) is tuple:  # and not a record, which knows how it is typed
        return ",".join(value)
    return str(value)


TASK = Task("doctor", main, FOR_A_BUILD)
