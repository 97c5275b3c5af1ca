"""Task `clean`: remove what was written to the output directory, but not the record of a build that may be running."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit.errors import run
from buildkit.record import UPLOAD_STATE, find_open_submission
from buildkit.task import Flag, Outcome, Run, Task
from buildkit.workspace import IMAGES, JOURNAL, RECIPES, RESULTS, SUMMARY

if TYPE_CHECKING:
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

_FORCE = Flag("force", "remove the record of a build whose outcome is not known, too")


def clean(workspace: Workspace, ui: Ui, *, force: bool = False) -> list[str]:
    """Return the names of the files that were removed; the directory goes too if nothing else is in it.

    Args:
        force: Whether the record of a build whose outcome is not known is removed too.

    Raises:
        OutcomeUnknown: A build may have been started, and its ID is not known.
    """
    submission = None if force else find_open_submission(workspace)
    removed = workspace.clean(keep={UPLOAD_STATE} if submission else ())
    if submission:
        ui.report(
            f"kept {UPLOAD_STATE}: the outcome of build {submission.build_id} is not known;"
            f" {run('wait')} finds out, {run('clean', '--force')} removes it anyway"
        )
    workspace.delete()
    return removed


def clean_images(workspace: Workspace, ui: Ui, *, force: bool = False) -> list[str]:
    """Return the names of what `images` had left and was removed: all of it, or nothing if a build may be running.

    Raises:
        OutcomeUnknown: A build may have been started, and its ID is not known.
        SettingError: Something is not ours.
    """
    children = list(workspace.list_children())
    if not force and any(find_open_submission(child) for child in children):
        ui.report(f"kept the images: some are still being built; {run('images')} finds out, or give `--force`")
        return []
    removed = []
    for child in children:
        with child.locked():
            removed += [f"{child.path.parent.name}/{child.name}/{name}" for name in clean(child, ui, force=True)]
    for folder in (workspace.path / IMAGES, workspace.path / RECIPES):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    for name in (RESULTS, SUMMARY, JOURNAL):
        if workspace.exists(name):
            workspace.remove(name)
            removed.append(name)
    return removed


def main(this: Run) -> Outcome:
    """Remove what was written to the output directory, and nothing else."""
    this.check_workspace()
    if not this.workspace.path.exists():  # otherwise the lock would create its parent
        return Outcome("", {"removed": []})
    with this.workspace.locked():
        force = this.flags["force"]
        removed = [*clean_images(this.workspace, this.ui, force=force), *clean(this.workspace, this.ui, force=force)]
    return Outcome("\n".join(removed), {"removed": removed})


TASK = Task("clean", main, flags=(_FORCE,))
