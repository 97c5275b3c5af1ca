"""Task `cancel`: cancel a build on the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit import record
from buildkit.runtime_api.protocol import parse_build_id
from buildkit.task import Flag, Outcome, Task

if TYPE_CHECKING:
    from buildkit.task import Run


def main(this: Run) -> Outcome:
    """Cancel a build, if the Runtime API can: prints its status."""
    from buildkit.runtime_api.builds import cancel_build

    api = this.open_api()
    build_id = this.flags["build_id"] or record.load_submission(this.workspace).build_id or ""
    status = cancel_build(api, build_id)
    this.ui.report(f"Build {build_id} is to be cancelled; its status is {status or 'not known'}")
    return Outcome(status or "", {"build_id": build_id, "status": status})


TASK = Task(
    "cancel",
    main,
    groups=("api",),
    flags=(Flag("build_id", "build to cancel instead of the one on record", parse=parse_build_id),),
)
