"""Task `logs`: show the log of a build."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from buildkit import record
from buildkit.errors import LocalError
from buildkit.runtime_api.protocol import parse_build_id
from buildkit.task import Flag, Outcome, Task
from buildkit.workspace import BUILD_LOG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.task import Run
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

_PIECE_BYTES = 64 * 1024


def read_logs(api: RuntimeApi, build_id: str, ui: Ui) -> Iterator[str]:
    """Yield the lines of a build's log as they arrive, safe to show; a server without logs is only reported.

    Raises:
        RequestFailed: The server does not return it.
    """
    from buildkit.runtime_api.log import format_line

    with api.build_logs(build_id) as lines:
        if lines is None:
            ui.report("this Runtime API has no build logs")
            return
        for line in lines:
            yield from format_line(line)


def read_engine_log(workspace: Workspace) -> Iterator[str]:
    """Yield the lines that a local engine has logged so far, safe to show.

    Raises:
        LocalError: The file cannot be read.
    """
    from buildkit.runtime_api.log import format_line, split_lines

    try:
        with os.fdopen(workspace.open(BUILD_LOG), "rb") as file:
            for line in split_lines(iter(partial(file.read, _PIECE_BYTES), b"")):
                yield from format_line(line)
    except OSError as error:
        raise LocalError(
            f"cannot read {workspace.show(BUILD_LOG)}: {error.strerror}", "build the image again"
        ) from error


def main(this: Run) -> Outcome:
    """Show the log of a build, as the Runtime API has it or as a local engine wrote it."""
    if this.flags["build_id"] is None and _was_built_here(this):
        lines = read_engine_log(this.workspace)
    else:
        api = this.open_api()
        build_id = this.flags["build_id"] or record.load_submission(this.workspace).build_id or ""
        lines = read_logs(api, build_id, this.ui)
    return Outcome(lines, {"lines": lines})


def _was_built_here(this: Run) -> bool:
    """Return whether `images` left an engine's log, and no submission to the Runtime API in use is on record."""
    is_sent = this.settings.runtime_api_url is not None and record.find_submission(this.workspace) is not None
    return this.workspace.exists(BUILD_LOG) and not is_sent


TASK = Task(
    "logs",
    main,
    groups=("api",),
    flags=(Flag("build_id", "build whose log is shown instead of the one on record", parse=parse_build_id),),
)
