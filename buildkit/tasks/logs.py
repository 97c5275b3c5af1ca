"""Task `logs`: show the log of a build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit import record
from buildkit.runtime_api.protocol import parse_build_id
from buildkit.task import Flag, Outcome, Task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.task import Run
    from buildkit.ui import Ui


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


def main(this: Run) -> Outcome:
    """Show the log of a build, if the Runtime API has it."""
    api = this.open_api()
    build_id = this.flags["build_id"] or record.load_submission(this.workspace).build_id or ""
    lines = read_logs(api, build_id, this.ui)
    return Outcome(lines, {"lines": lines})


TASK = Task(
    "logs",
    main,
    groups=("api",),
    flags=(Flag("build_id", "build whose log is shown instead of the one on record", parse=parse_build_id),),
)
