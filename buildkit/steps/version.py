"""Step `version`: which source this is, and what its archive is called."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from buildkit.errors import LocalError
from buildkit.models import Version
from buildkit.source import git

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_SHORT = 7
_MAX_NAMED = 5
_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def identify_source(
    source: Path, *, git_sha: str | None, github_sha: str, warn: Callable[[str], None]
) -> git.Commit | None:
    """Return the commit that `source` is called by: GIT_SHA, else git's, else GITHUB_SHA; None where nobody knows.

    Args:
        github_sha: As GitHub's runners set it; anything but a full commit is passed over.

    Raises:
        LocalError: git is missing in a checkout, or refuses it.
    """
    in_git = git.is_checkout(source)
    head = git.read_commit(source) if in_git else None
    github = github_sha if _SHA.fullmatch(github_sha) else None
    if head and github and github != head.sha and git_sha is None:
        warn(f"GITHUB_SHA is {github}, but the checkout is at {head.sha}, which is used; GIT_SHA overrides")
    sha = git_sha or (head.sha if head else github)
    if sha is None:
        warn(
            f"{source.name} has no commit: the archive is called `unknown`"
            + ("" if in_git else "; no .gitignore applies")
        )
        return None
    if head and head.sha == sha:
        return head
    return (git.read_commit(source, sha) if in_git else None) or git.Commit(sha, None)


def describe_version(
    commit: git.Commit | None,
    changed: Sequence[str],
    *,
    tags: Sequence[str],
    output_name: str | None,
    commit_time: int | None,
    allow_dirty: bool,
    warn: Callable[[str], None],
) -> Version:
    """Return names for the source.

    Args:
        changed: Paths that would be packed and differ from the commit.
        tags: At least one; the first is the primary tag.
        commit_time: Stands before the commit's own, in seconds since the epoch.

    Raises:
        LocalError: Something differs from the commit, and that is not allowed.
    """
    if commit and changed:
        _report_dirty(changed, allow_dirty=allow_dirty, warn=warn)
    short_sha = commit.sha[:_SHORT] if commit else "unknown"
    name = f"agent-server-{short_sha}-{tags[0]}"
    own_time = commit.time if commit else None
    return Version(
        name=name,
        sha=commit.sha if commit else None,
        short_sha=short_sha,
        dirty=bool(commit and changed),
        tags=list(tags),
        primary_tag=tags[0],
        archive=output_name or f"{name}.tar.gz",
        commit_time=own_time if commit_time is None else commit_time,
    )


def _report_dirty(changed: Sequence[str], *, allow_dirty: bool, warn: Callable[[str], None]) -> None:
    named = ", ".join(changed[:_MAX_NAMED]) + (" …" if len(changed) > _MAX_NAMED else "")
    count = "1 file differs" if len(changed) == 1 else f"{len(changed)} files differ"
    message = f"{count} from the commit: {named}"
    if not allow_dirty:
        raise LocalError(message, "commit or stash them, or set ALLOW_DIRTY=true")
    warn(f"{message}; the image is not what the commit says")
