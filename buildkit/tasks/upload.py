"""Task `upload`: ask a Runtime API for a build, and never ask twice unless told to."""

from __future__ import annotations

import hashlib
import re
import secrets
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from buildkit import record
from buildkit.errors import LocalError, OutcomeUnknown, StoppedWatching, run
from buildkit.models import Submission
from buildkit.record import INTENT, SUBMITTED, UPLOAD_STATE, ImageNaming
from buildkit.runtime_api.protocol import IDEMPOTENCY
from buildkit.signals import advising
from buildkit.task import Flag, Outcome, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from buildkit.record import PackedInputs
    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.runtime_api.protocol import StartedBuild
    from buildkit.runtime_api.upload import UploadAttempt
    from buildkit.task import Run
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

_KEY = re.compile(r"[0-9a-f]{64}")


class UploadRequest(NamedTuple):
    """What is wanted from the server.

    Attributes:
        force: Submit even if an earlier submission of the same build may exist.
    """

    naming: ImageNaming
    upload_format: str = "json"
    force: bool = False

    @classmethod
    def from_run(cls, this: Run) -> UploadRequest:
        """Return what the settings and flags of a run say."""
        settings = this.settings
        naming = ImageNaming(settings.image_name, settings.target_image)
        return cls(naming, settings.upload_format, bool(this.flags["force"]))


def upload(workspace: Workspace, api: RuntimeApi, request: UploadRequest, ui: Ui) -> Submission:
    """Submit the archive in the workspace and return the submission, or an earlier one of the same build.

    Raises:
        NotStarted: The server has no build of this upload.
        OutcomeUnknown: It may have one, from this run or from an earlier one.
        SettingError: An image name is invalid.
        LocalError: Something is missing or has changed since it was packed.
        StoppedWatching: The build was started, but its ID could not be saved; the message has the ID.
    """
    from buildkit.runtime_api.submit import store_source

    inputs = record.load_inputs(workspace)
    previous = None if request.force else _find_pending(workspace, api, request, inputs)
    if previous is not None and previous.build_id is not None:
        ui.report(
            f"Already submitted, with build ID: {previous.build_id} ({run('upload', '--force')} submits it again)"
        )
        ui.publish(build_id=previous.build_id)
        return previous
    if previous is not None:
        ui.report("sending an earlier upload again because its build ID never arrived: the server starts one build")
        intent = replace(previous, made_from=workspace.digests("context.json"))
    else:
        prefix = None if request.naming.target_image else api.registry_prefix()
        intent = _describe_intent(workspace, api, inputs, request.naming.name_images(inputs, prefix))
    with _open_attempt(workspace, inputs, intent, request.upload_format, ui) as attempt:
        attempt.outcome_unknown = previous is not None
        store_source(api, attempt, ui)
        started = _send(workspace, api, intent, attempt, ui)
    # Reported before it is saved: if the disk is full, this line is the only record.
    ui.report(f"Build initiated with ID: {started.build_id}")
    with advising(f"build {started.build_id} is still running; {run('wait', '--build-id', started.build_id)} resumes"):
        return _save_started(workspace, intent, started, ui)


def _find_pending(
    workspace: Workspace, api: RuntimeApi, request: UploadRequest, inputs: PackedInputs
) -> Submission | None:
    """Return the earlier submission of this very build, if it is not known how that ended.

    It has no build ID if that never arrived but the server allows sending it again.

    Raises:
        OutcomeUnknown: An upload was sent, whatever it contained, and its build ID never arrived.
    """
    previous = record.find_submission(workspace)
    if previous is None:
        return None
    is_same = record.is_same_build(previous, inputs, api.url, request.naming)
    if previous.build_id is not None:
        return previous if is_same and not record.has_ended(workspace, previous) else None
    if not (is_same and _KEY.fullmatch(previous.idempotency_key or "") and IDEMPOTENCY in api.features()):
        raise OutcomeUnknown(
            f"an earlier upload to {previous.runtime_api_url} may have started a build of {previous.target_image}, "
            "but its ID never arrived",
            f"look on the server for that build; {run('upload', '--force')} submits it again",
        )
    return previous


def _describe_intent(workspace: Workspace, api: RuntimeApi, inputs: PackedInputs, images: Sequence[str]) -> Submission:
    target_image, *tags = images
    context_sha256 = inputs.context.context_sha256
    key = hashlib.sha256("\n".join([context_sha256, *images, secrets.token_hex(16)]).encode()).hexdigest()
    return Submission(
        state=INTENT,
        runtime_api_url=api.url,
        target_image=target_image,
        tags=tags,
        context_sha256=context_sha256,
        build_id=None,
        submitted_at=None,
        idempotency_key=key,
        made_from=workspace.digests("context.json"),
    )


@contextmanager
def _open_attempt(
    workspace: Workspace, inputs: PackedInputs, intent: Submission, upload_format: str, ui: Ui
) -> Iterator[UploadAttempt]:
    """Give what the intent sends: the archive, open for reading, with its progress shown."""
    from buildkit.runtime_api.upload import ArchivePart, UploadAttempt

    name, sha256 = workspace.show(inputs.context.archive), inputs.context.archive_sha256
    with record.open_archive(workspace, inputs.context) as archive, ui.progress("uploading") as draw:
        whole, key = ArchivePart.of_whole(archive, name, sha256), intent.idempotency_key or ""
        yield UploadAttempt(whole, intent.images, upload_format, draw, key)


def _send(workspace: Workspace, api: RuntimeApi, intent: Submission, attempt: UploadAttempt, ui: Ui) -> StartedBuild:
    """Return the started build. The intent stays on record unless it is certain that nothing was started."""
    from buildkit.runtime_api.submit import start_build

    earlier = _read_earlier(workspace)
    try:
        workspace.save(intent)
        return start_build(api, attempt, ui)
    except BaseException as error:  # an interruption as well, at whatever point it comes
        if attempt.may_have_started or isinstance(error, OutcomeUnknown):
            with advising(f"a build may have been started; {run('upload')} says what is known about it"):
                raise
        if earlier is None:
            workspace.remove(UPLOAD_STATE)
        else:
            workspace.write(UPLOAD_STATE, earlier)
        raise


def _read_earlier(workspace: Workspace) -> bytes | None:
    """Return what is on record about an earlier submission, whatever its state, or None."""
    try:
        return workspace.read(UPLOAD_STATE)
    except FileNotFoundError:
        return None
    except OSError as error:  # it is a link, a FIFO or a folder
        raise LocalError(
            f"{workspace.show(UPLOAD_STATE)} cannot be read: {error.strerror}",
            "remove it, then run the same command again",
        ) from error


def _save_started(workspace: Workspace, intent: Submission, started: StartedBuild, ui: Ui) -> Submission:
    build_id = started.build_id
    if started.refused_url:
        ui.warn(
            f"the server reports the status of this build at {started.refused_url}, whose host is not in "
            f"ALLOWED_HOSTS; the key is not sent there, so {intent.runtime_api_url} is polled instead"
        )
    submission = replace(
        intent,
        state=SUBMITTED,
        build_id=build_id,
        submitted_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        status_url=started.status_url,
    )
    try:
        workspace.save(submission)
    except LocalError as error:
        raise StoppedWatching(
            f"build {build_id} was started, but its ID could not be saved: {error.message}",
            f"{run('wait', '--build-id', build_id)} waits for it; {error.fix}",
        ) from error
    ui.publish(build_id=build_id)
    return submission


def main(this: Run) -> Outcome:
    """Send the archive to the Runtime API, which builds it: prints the build ID."""
    api = this.open_api()
    with this.writing():
        submission = upload(this.workspace, api, UploadRequest.from_run(this), this.ui)
    return Outcome(str(submission.build_id), submission)


TASK = Task(
    "upload",
    main,
    groups=("api", "image", "upload"),
    flags=(Flag("force", "upload even if an earlier build may exist"),),
)
