"""Task `wait`: poll the Runtime API until the build has ended, and save how."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from buildkit import record
from buildkit.errors import BuildFailed, RuntimeBuildError, run
from buildkit.runtime_api.protocol import CANCEL, SUCCESS, parse_build_id
from buildkit.signals import Interrupted, advising
from buildkit.task import Flag, Outcome, Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildkit.models import BuildResult, Submission
    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.runtime_api.polling import WatchedBuild
    from buildkit.task import Run
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

# Twice this much is spent on a cancellation, because a command ends within 10 s of a signal.
_CANCEL_S = 4.0
FOLLOW = Flag("follow", "show the log of the build as it grows, if the server can")
CANCEL_ON_INTERRUPT = Flag("cancel_on_interrupt", "cancel the build on Ctrl-C, if the server can")


class WaitRequest(NamedTuple):
    """Which build to wait for, and how long.

    Attributes:
        build_id: A build that need not be on record; takes precedence.
        submission: A build that was just submitted; by default, the one on record.
        cancel_on_interrupt: Cancel the build if the user stops waiting and the server can.
        follow: Show the log of the build as it grows, if the server can.
    """

    timeout_s: float
    build_id: str | None = None
    submission: Submission | None = None
    cancel_on_interrupt: bool = False
    follow: bool = False

    def with_flags(self, flags: Mapping[str, Any]) -> WaitRequest:
        """Return the same with the flags of a run."""
        return self._replace(cancel_on_interrupt=flags["cancel_on_interrupt"], follow=flags["follow"])


def wait(workspace: Workspace, api: RuntimeApi, request: WaitRequest, ui: Ui) -> BuildResult:
    """Wait until the build ends, save the result, and return it if there is an image.

    Raises:
        BuildFailed: The build ended without an image; the end of its log has been reported.
        StoppedWatching: The build may still be running; waiting again is safe.
        OutcomeUnknown: An upload was sent, and no build ID came back.
        LocalError: Nothing was submitted, or the record is damaged.
    """
    from buildkit.runtime_api.following import TAIL_S, LogFollower
    from buildkit.runtime_api.polling import WatchedBuild

    build, made_from = WatchedBuild(request.build_id or ""), {}
    if not request.build_id:
        submission = request.submission or record.load_submission(workspace)
        build = WatchedBuild(submission.build_id or "", submission.status_url, submission.target_image)
        made_from = workspace.digests(record.UPLOAD_STATE)
    deadline_s = api.clock.now() + request.timeout_s
    with LogFollower(api, build.build_id, ui) if request.follow else nullcontext() as follower:
        result = replace(_poll(api, build, request, ui), made_from=made_from)
        workspace.save(result)
        deadline_s = min(deadline_s, api.clock.now() + TAIL_S)
        if follower:
            follower.finish(deadline_s - api.clock.now())
    if result.status != SUCCESS:
        if not (follower and follower.is_complete):
            _report_tail(api, result.build_id, deadline_s, ui)
        raise _describe_failure(result)
    ui.report("✅ Build completed successfully!")
    if result.image:
        ui.report(f"🎉 Image: {result.image}")
    ui.publish(image=result.image, build_id=result.build_id)
    return result


def _poll(api: RuntimeApi, build: WatchedBuild, request: WaitRequest, ui: Ui) -> BuildResult:
    """Return how the build ended; an interruption says how to resume waiting."""
    from buildkit.runtime_api.polling import poll_build

    resume = run("wait", "--build-id", build.build_id)
    try:
        with advising(f"build {build.build_id} is still running; run {resume} to resume waiting"):
            return poll_build(api, build, timeout_s=request.timeout_s, ui=ui)
    except Interrupted as interrupted:
        if request.cancel_on_interrupt and _cancel(api, build.build_id, ui):
            interrupted.fix = f"run {resume} to see how it ends"
        raise


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


def _report_tail(api: RuntimeApi, build_id: str, deadline_s: float, ui: Ui) -> None:
    """Report the end of the build's log, as far as the time allows."""
    from buildkit.runtime_api.following import read_tail

    for line in read_tail(api, build_id, ui, within_s=deadline_s - api.clock.now()):
        ui.report(line)


def _describe_failure(result: BuildResult) -> BuildFailed:
    reason = f": {result.error}" if result.error else ", and the server does not say why"
    return BuildFailed(
        f"build {result.build_id} ended as {result.status}{reason}",
        f"read its log: {run('logs', '--build-id', result.build_id)}",
    )


def main(this: Run) -> Outcome:
    """Wait until the build has ended: prints the image reference."""
    api = this.open_api()
    request = WaitRequest(this.settings.build_timeout, this.flags["build_id"]).with_flags(this.flags)
    with this.writing():
        result = wait(this.workspace, api, request, this.ui)
    return Outcome(result.image or "", result)


TASK = Task(
    "wait",
    main,
    groups=("api", "waiting"),
    flags=(
        Flag("build_id", "build to wait for instead of the one on record", parse=parse_build_id),
        FOLLOW,
        CANCEL_ON_INTERRUPT,
    ),
)
