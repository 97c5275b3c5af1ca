"""What a workspace says about earlier tasks: what was packed, what was submitted, how it ended."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError, OutcomeUnknown, SettingError, run
from buildkit.models import BuildContext, BuildResult, Dockerfile, Submission, Target, Version
from buildkit.reference import MAX_TAG_LENGTH, Reference, check_tag, parse_reference
from buildkit.runtime_api.protocol import is_build_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.workspace import Workspace

UPLOAD_STATE = f"{Submission.step}.json"
INTENT, SUBMITTED = "intent", "submitted"
_DAMAGED_FIX = f"look on the server for a build, then run {run('upload', '--force')} to submit it again"


class PackedInputs(NamedTuple):
    """What `version`, `dockerfile` and `context` left: together they say which build is wanted."""

    version: Version
    dockerfile: Dockerfile
    context: BuildContext


class ImageNaming(NamedTuple):
    """How images are named.

    Attributes:
        image_name: Repository below the registry prefix.
        target_image: Takes the place of every generated reference.
        more_images: References in addition to `target_image`.
    """

    image_name: Reference
    target_image: Reference | None = None
    more_images: tuple[str, ...] = ()

    def name_images(self, inputs: PackedInputs, prefix: str | None = None) -> list[str]:
        """Return the reference of the target image, then one for each additional tag.

        Args:
            prefix: Of the server's registry, without a trailing slash.

        Raises:
            SettingError: Docker would refuse a reference.
        """
        if self.target_image is not None:
            return [str(self.target_image), *self.more_images]
        version, suffix = inputs.version, Target(inputs.dockerfile.target).tag_suffix
        name = f"{prefix}/{self.image_name}" if prefix else str(self.image_name)
        tags = dict.fromkeys([version.primary_tag, *version.tags])
        references = [
            f"{name}:{_check_image_tag(f'{version.short_sha}-{tag}{suffix}', tag, position)}"
            for position, tag in enumerate(tags, start=1)
        ]
        parse_reference(references[0], "IMAGE_NAME with the server's registry prefix")
        return references


def load_inputs(workspace: Workspace) -> PackedInputs:
    """Return what the local tasks left, with the archive as it was packed."""
    inputs = PackedInputs(workspace.load(Version), workspace.load(Dockerfile), workspace.load(BuildContext))
    archive = inputs.context.archive
    if workspace.digest(archive) != inputs.context.archive_sha256:
        raise LocalError(f"{workspace.show(archive)} is missing or has changed", f"run {run('context')} again")
    return inputs


@contextmanager
def open_archive(workspace: Workspace, context: BuildContext) -> Iterator[int]:
    """Give a descriptor for reading the archive."""
    try:
        descriptor = workspace.open(context.archive)
    except OSError as error:
        raise LocalError(
            f"cannot read {workspace.show(context.archive)}: {error.strerror}", f"run {run('context')}"
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def find_submission(workspace: Workspace) -> Submission | None:
    """Return the submission on record, even if the context has changed since, or None.

    Raises:
        LocalError: The record is damaged: a build may be running.
    """
    if not workspace.exists(UPLOAD_STATE):
        return None
    try:
        submission = workspace.load(Submission, trace=False)
    except LocalError as error:
        raise LocalError(error.message, _DAMAGED_FIX) from error
    if submission.build_id is not None and not is_build_id(submission.build_id):
        raise LocalError(f"{workspace.show(UPLOAD_STATE)} is damaged: its build ID is invalid", _DAMAGED_FIX)
    return submission


def load_submission(workspace: Workspace) -> Submission:
    """Return the submission on record, with its build ID.

    Raises:
        OutcomeUnknown: The upload was sent, and no build ID came back.
        LocalError: There is no submission, or the record is damaged.
    """
    submission = find_submission(workspace) or workspace.load(Submission)
    if submission.build_id is None:
        raise OutcomeUnknown(
            f"an upload to {submission.runtime_api_url} was started, but no build ID came back",
            f"look on the server; then run {run('wait')} with its `--build-id`, or {run('upload', '--force')} "
            "to submit it again",
        )
    return submission


def find_open_submission(workspace: Workspace) -> Submission | None:
    """Return the submission on record if it is not known how its build ended, or None."""
    submission = find_submission(workspace)
    if submission is None or has_ended(workspace, submission):
        return None
    return load_submission(workspace)


def is_same_build(previous: Submission, inputs: PackedInputs, url: str, naming: ImageNaming) -> bool:
    """Return whether `previous` asked the same server for the same context under the same names.

    Its names may begin with the prefix of the server's registry.
    """
    images = naming.name_images(inputs)
    return (
        previous.context_sha256 == inputs.context.context_sha256
        and previous.runtime_api_url == url
        and len(previous.images) == len(images)
        and all(old == new or old.endswith(f"/{new}") for old, new in zip(previous.images, images, strict=True))
    )


def has_ended(workspace: Workspace, submission: Submission) -> bool:
    """Return whether it is on record how the submitted build ended."""
    try:
        result = workspace.find(BuildResult)
    except LocalError:
        return False
    return result is not None and result.build_id == submission.build_id


def _check_image_tag(image_tag: str, tag: str, position: int) -> str:
    if len(image_tag) > MAX_TAG_LENGTH:
        raise SettingError(
            f"the image's tag {image_tag!r} has {len(image_tag)} characters; a registry takes {MAX_TAG_LENGTH}",
            f"shorten tag {position} of CUSTOM_TAGS to {MAX_TAG_LENGTH - len(image_tag) + len(tag)} characters, "
            "or set TARGET_IMAGE",
        )
    return check_tag(image_tag, position)
