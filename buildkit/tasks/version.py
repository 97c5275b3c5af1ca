"""Task `version`: which commit the source is at, and what its archive is called."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from buildkit.errors import LocalError
from buildkit.models import Version
from buildkit.task import Outcome, Run, Task
from buildkit.workspace import STAT_CACHE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildkit.settings import Settings
    from buildkit.source.selection import SelectedFiles
    from buildkit.source.tree import SourceTree
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

_SHORT = 7


def describe_version(workspace: Workspace, tree: SourceTree, settings: Settings, ui: Ui) -> Version:
    """Return the names of the source, saved.

    Raises:
        LocalError: A packed file differs from the commit, and ALLOW_DIRTY is false.
    """
    commit = tree.identify(ui.warn)
    changed = tree.find_changes(partial(_recall, workspace, tree))
    if commit and changed:
        _report_dirty(changed, settings, ui)
    short_sha = commit.sha[:_SHORT] if commit else "unknown"
    name = f"agent-server-{short_sha}-{settings.custom_tags[0]}"
    commit_time = commit.time if commit else None
    version = Version(
        name=name,
        sha=commit.sha if commit else None,
        short_sha=short_sha,
        dirty=bool(commit and changed),
        tags=list(settings.custom_tags),
        primary_tag=settings.custom_tags[0],
        archive=settings.output_name or f"{name}.tar.gz",
        commit_time=commit_time if settings.source_date_epoch is None else settings.source_date_epoch,
    )
    workspace.save(version)
    ui.publish(short_sha=version.short_sha, tags=",".join(version.tags))
    return version


def _recall(workspace: Workspace, tree: SourceTree, selected: SelectedFiles) -> dict[str, str] | None:
    """Return what the last `context` knows of the files' differences, if it still holds."""
    if not workspace.exists(STAT_CACHE):
        return None
    from buildkit.archive.cache import recall_different

    return recall_different(workspace, tree.path, selected)


def _report_dirty(changed: Mapping[str, str], settings: Settings, ui: Ui) -> None:
    from buildkit.source.changes import name_changes

    named = name_changes(changed)
    count = "1 file differs" if len(changed) == 1 else f"{len(changed)} files differ"
    message = f"{count} from the commit: {named}"
    if not settings.allow_dirty:
        raise LocalError(message, "commit or stash them, or set ALLOW_DIRTY=true")
    ui.warn(f"{message}; the image is not what the commit says")


def main(this: Run) -> Outcome:
    """Print the name of the archive, from the commit and the tags."""
    this.check_folders()
    with this.writing():
        version = describe_version(this.workspace, this.tree, this.settings, this.ui)
    return Outcome(version.name, version)


TASK = Task("version", main, groups=("naming", "selection"))
