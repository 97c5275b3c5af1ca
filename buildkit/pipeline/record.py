"""What the output directory tells of earlier steps: what is packed, what was asked for, how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import LocalError, OutcomeUnknown
from buildkit.models import BuildContext, BuildResult, Dockerfile, Submission, Version
from buildkit.output.state import digest_file, find_state, load_state
from buildkit.runtime_api.replies import is_build_id

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.session import Session

UPLOAD_STATE = f"{Submission.step}.json"
_DAMAGED_FIX = "look on the server for a build, then `invoke upload --force` to send it again"


class Made(NamedTuple):
    """What the local steps left: the three together say which build is asked for."""

    version: Version
    dockerfile: Dockerfile
    context: BuildContext


def load_made(directory: Path) -> Made:
    """Return what `version`, `dockerfile` and `context` left, with the archive as it was packed.

    Raises:
        LocalError: Something is missing or has changed since.
    """
    made = Made(load_state(directory, Version), load_state(directory, Dockerfile), load_state(directory, BuildContext))
    if digest_file(directory / made.context.archive) != made.context.archive_sha256:
        shown = f"{directory.name}/{made.context.archive}"
        raise LocalError(f"{shown} is missing or has changed", "run `invoke context` again")
    return made


def find_submission(directory: Path) -> Submission | None:
    """Return the submission on record, whatever became of the context it was made from; None where there is none.

    Raises:
        LocalError: The record is damaged: a build may be going on.
    """
    if not (directory / UPLOAD_STATE).exists():
        return None
    try:
        submission = load_state(directory, Submission, trace=False)
    except LocalError as error:
        raise LocalError(error.message, _DAMAGED_FIX) from error
    if submission.build_id is not None and not is_build_id(submission.build_id):
        raise LocalError(f"{directory.name}/{UPLOAD_STATE} is damaged: its build ID is none", _DAMAGED_FIX)
    return submission


def load_submission(directory: Path) -> Submission:
    """Return the build that `upload` asked for.

    Raises:
        OutcomeUnknown: The request was sent, and no answer came.
        LocalError: There is none, or the record is damaged.
    """
    submission = find_submission(directory) or load_state(directory, Submission)
    if submission.build_id is None:
        raise OutcomeUnknown(
            f"an upload to {submission.runtime_api_url} was begun, but no build ID came back",
            "look on the server; then `invoke wait --build-id ID`, or `invoke upload --force` to send it again",
        )
    return submission


def is_over(directory: Path, submission: Submission) -> bool:
    """Return whether it is known how the submitted build ended."""
    try:
        result = find_state(directory, BuildResult)
    except LocalError:
        return False
    return result is not None and result.build_id == submission.build_id


def name_wanted(session: Session, made: Made) -> list[str]:
    """Return the reference of the image and of each further tag, without the prefix of a server's registry."""
    from buildkit.steps.upload import name_images

    image, tags = name_images(
        made.version,
        prefix=None,
        target=made.dockerfile.target,
        image_name=session.settings.image_name,
        target_image=session.settings.target_image,
    )
    return [image, *tags]


def is_same_build(session: Session, previous: Submission, made: Made) -> bool:
    """Return whether `previous` asks the same server for the same context under the same names."""
    asked, wanted = [previous.target_image, *previous.tags], name_wanted(session, made)
    return (
        previous.context_sha256 == made.context.context_sha256
        and previous.runtime_api_url == session.settings.runtime_api_url
        and len(asked) == len(wanted)
        and all(old == new or old.endswith(f"/{new}") for old, new in zip(asked, wanted, strict=True))
    )


def is_pending(session: Session, previous: Submission, made: Made) -> bool:
    """Return whether `previous` asks for this very build and nobody knows how it ended."""
    return is_same_build(session, previous, made) and not is_over(session.directory, previous)
