"""Task `all`: the other tasks in a chain, from the checkout to the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit.errors import run
from buildkit.models import BuildResult
from buildkit.record import UPLOAD_STATE, find_open_submission, find_submission, is_same_build, load_inputs
from buildkit.reference import name_local_image
from buildkit.runtime_api.protocol import SUCCESS
from buildkit.settings import FOR_A_BUILD
from buildkit.task import Flag, Outcome, Run, Task
from buildkit.tasks.context import LIST_PACKAGES, pack_context, prepare_sbom
from buildkit.tasks.dockerfile import DockerfileRequest, render_dockerfile
from buildkit.tasks.upload import UploadRequest, upload
from buildkit.tasks.version import describe_version
from buildkit.tasks.wait import CANCEL_ON_INTERRUPT, FOLLOW, WaitRequest, wait

if TYPE_CHECKING:
    from buildkit.models import BuildContext
    from buildkit.runtime_api.client import RuntimeApi

_FLAGS = (
    Flag("force", "upload even if an earlier build may exist"),
    Flag("skip_existing", "do nothing if this output directory's context has already been built"),
    Flag("no_wait", "stop once the build is submitted, and print the build ID"),
    FOLLOW,
    CANCEL_ON_INTERRUPT,
    LIST_PACKAGES,
)


def all_(this: Run) -> Outcome:
    """Pack, upload and wait: prints the image reference, or the path of the archive if nothing is sent."""
    this.check_folders()
    with this.writing():
        _clean(this)
        _check(this)
        sbom = prepare_sbom(this)
        describe_version(this.workspace, this.tree, this.settings, this.ui)
        render_dockerfile(this.workspace, this.tree, DockerfileRequest.from_run(this), this.ui)
        context = pack_context(this.workspace, this.tree, this.settings, this.ui)
        if sbom:
            sbom.save(this.workspace)
        this.ui.publish(archive=this.show_path(this.workspace.path / context.archive))
        if this.settings.runtime_api_url is None:
            return _explain_unsent(this, context)
        return _build_remotely(this, this.open_api())


def _check(this: Run) -> None:
    """Refuse to build what could not work; `context` gives the warnings about what is packed."""
    from buildkit.checks import find_problems
    from buildkit.source.losses import refuse_losses

    problems = find_problems(this.tree, this.settings)
    refuse_losses(problems)
    for problem in problems:
        if not problem.is_in_context:
            this.ui.warn(f"{problem.message}; {problem.fix}")


def _clean(this: Run) -> None:
    """Make room for a new run; the record of a build whose outcome is not known stays."""
    submission = None if this.flags["force"] else find_open_submission(this.workspace)
    if this.settings.clean_output:
        keep = {UPLOAD_STATE} if submission else set()
        if this.flags["skip_existing"]:
            keep |= {UPLOAD_STATE, f"{BuildResult.step}.json"}
        this.workspace.clean(keep=keep)


def _explain_unsent(this: Run, context: BuildContext) -> Outcome:
    archive = this.show_path(this.workspace.path / context.archive)
    this.ui.report("nothing was sent: RUNTIME_API_URL is not set")
    this.ui.report(f"to build it by hand: docker build -t {name_local_image(this.settings.server_name)} - < {archive}")
    return Outcome(archive, context)


def _build_remotely(this: Run, api: RuntimeApi) -> Outcome:
    """Upload what was packed, and wait for its image."""
    request = UploadRequest.from_run(this)
    result = _find_built(this, api, request) if this.flags["skip_existing"] and not this.flags["force"] else None
    if result is None:
        submission = upload(this.workspace, api, request, this.ui)
        if this.flags["no_wait"]:
            this.ui.report(f"the build is still running; run {run('wait')} to resume waiting")
            return Outcome(submission.build_id or "", submission)
        waiting = WaitRequest(this.settings.build_timeout, submission=submission).with_flags(this.flags)
        result = wait(this.workspace, api, waiting, this.ui)
    return Outcome(result.image or "", result)


def _find_built(this: Run, api: RuntimeApi, request: UploadRequest) -> BuildResult | None:
    """Return the result of an earlier build of this very context, or None.

    The proof is our own record of that build; some servers claim that every image exists.
    """
    previous, inputs = find_submission(this.workspace), load_inputs(this.workspace)
    if previous is None or not is_same_build(previous, inputs, api.url, request.naming):
        return None
    result = this.workspace.find(BuildResult)
    if result is None or result.build_id != previous.build_id or result.status != SUCCESS or result.image is None:
        return None
    if api.image_exists(result.image) is False:
        return None
    this.ui.report(f"this context has already been built, as {result.image}; {run('all', '--force')} builds it again")
    this.ui.publish(image=result.image, build_id=result.build_id)
    return result


TASK = Task("all", all_, ("cleaning", *FOR_A_BUILD), _FLAGS)
