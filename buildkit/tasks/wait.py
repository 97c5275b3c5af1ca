"""Task `wait`: poll the Runtime API until the build has ended, and save how."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from buildkit import record
from buildkit.errors import BuildFailed, RuntimeBuildError, run
from buildkit.runtime_api.protocol import CANCEL, SUCCESS, parse_build_id
from buildkit.signals import Interrupted, advising
from buildkit.task import Flag, Outcome, Task

if TYPE_CHECKING:
    from buildkit.models import BuildResult, Submission
    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.task import Run
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

# Twice this much is spent on a cancellation, because a command ends within 10 s of a signal.
_CANCEL_S = 4.0
CANCEL_ON_INTERRUPT = Flag("cancel_on_interrupt", "cancel the build on Ctrl-C, if the server can")


class WaitRequest(NamedTuple):
    """Which build to wait for, and how long.

    Attributes:
        build_id: A build that need not be on record; takes precedence.
        submission: A build that was just submitted; by default, the one on record.
        cancel_on_interrupt: Cancel the build if the user stops waiting and the server can.
    """

    timeout_s: float
    build_id: str | None = None
    submission: Submission | None = None
    cancel_on_interrupt: bool = False


def wait(workspace: Workspace, api: RuntimeApi, request: WaitRequest, ui: Ui) -> BuildResult:
    """Wait until the build ends, save the result, and return it if there is an image.

    Raises:
        BuildFailed: The build ended without an image; the end of its log has been reported.
        StoppedWatching: The build may still be running; waiting again is safe.
        OutcomeUnknown: An upload was sent, and no build ID came back.
        LocalError: Nothing was submitted, or the record is damaged.
    """
    from buildkit.runtime_api.polling import WatchedBuild, poll_build

    build, made_from = WatchedBuild(request.build_id or ""), {}
    if not request.build_id:
        submission = request.submission or record.load_submission(workspace)
        build = WatchedBuild(submission.build_id or "", submission.status_url, submission.target_image)
        made_from = workspace.digests(record.UPLOAD_STATE)
    started = api.clock.now()
    resume = run("wait", "--build-id", build.build_id)
    try:
        with advising(f"build {build.build_id} is still running; run {resume} to resume waiting"):
            polled = poll_build(api, build, timeout_s=request.timeout_s, ui=ui)
    except Interrupted as interrupted:
        if request.cancel_on_interrupt and _cancel(api, build.build_id, ui):
            interrupted.fix = f"run {resume} to see how it ends"
        raise
    result = replace(polled, made_from=made_from)
    workspace.save(result)
    if result.status != SUCCESS:
        left_s = request.timeout_s - (api.clock.now() - started)
        raise _report_failure(result, api, left_s, ui)
    ui.report("✅ Build completed successfully!")
    if result.image:
        ui.report(f"🎉 Image: {result.image}")
    ui.publish(image=result.image, build_id=result.build_id)
    return result


def _cancel(api: RuntimeApi, build_id: str, ui: Ui) -> bool:
    """Return whether the server has accepted the cancellation; if not, that is only a warning."""
    from buildkit.runtime_api.builds import cancel_build

    if CANCEL not in api.features(within_s=_CANCEL_S):
        ui.warn(f"build {build_id} was not cancelled: this Runtime API does not list that feature")
        return False
    try:
        status = cancel_build(api, build_id, within_s=_CANCEL_S)
    except RuntimeBuildError as error:
        ui.warn(f"build {build_id} may not have been cancelled: {error.message}")
        return False
    ui.report(f"Build {build_id} is to be cancelled; its status is {status or 'not known'}")
    return True


def _report_failure(result: BuildResult, api: RuntimeApi, left_s: float, ui: Ui) -> BuildFailed:
    """Report the end of the failed build's log, as far as the time allows, and return the error."""
    from buildkit.runtime_api.log import read_tail

    for line in read_tail(api, result.build_id, ui, within_s=left_s):
        ui.report(line)
    reason = f": {result.error}" if result.error else ", and the server does not say why"
    return BuildFailed(
        f"build {result.build_id} ended as {result.status}{reason}",
        f"read its log: {run('logs', '--build-id', result.build_id)}",
    )


def main(this: Run) -> Outcome:
    """Wait until the build has ended: prints the image reference."""
    this.require_api()
    build_id = this.flags["build_id"]
    cancels = bool(this.flags["cancel_on_interrupt"])
    request = WaitRequest(this.settings.build_timeout, build_id, cancel_on_interrupt=cancels)
    with this.writing():
        result = wait(this.workspace, this.open_api(), request, this.ui)
    return Outcome(result.image or "", result)


TASK = Task(
    "wait",
    main,
    groups=("api", "waiting"),
    flags=(
        Flag("build_id", "build to wait for instead of the one on record", parse=parse_build_id),
        CANCEL_ON_INTERRUPT,
    ),
)
