"""The step that asks a Runtime API for a build, and never asks twice without being told to."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from buildkit.errors import LocalError, NotStarted, OutcomeUnknown, SettingError, StoppedWatching
from buildkit.models import Submission
from buildkit.reference import MAX_TAG_LENGTH, check_tag, parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from buildkit.models import BuildContext, Version
    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.runtime_api.replies import StartedBuild

INTENT = "intent"
SUBMITTED = "submitted"

# The target whose images carry no suffix.
_PLAIN_TARGET = "binary"


def submit_build(
    api: RuntimeApi,
    archive: Path,
    context: BuildContext,
    version: Version,
    *,
    target: str,
    image_name: str,
    target_image: str | None,
    upload_format: str,
    previous: Submission | None,
    force: bool,
    save: Callable[[Submission], None],
    discard: Callable[[], None],
    progress: Callable[[int, int], None],
    report: Callable[[str], None],
    warn: Callable[[str], None],
) -> Submission:
    """Return the build that was asked for, which is `previous` where that is already this one.

    Args:
        target_image: Full reference instead of one made of registry prefix, image name and tag.
        previous: What an earlier run left: an intent, or a submission of this very build of unknown outcome.
        save: Called with the intent before the request, and with the submission after the answer.
        discard: Takes the intent back; called where it is certain that nothing was started.
        progress: Called with the bytes of the upload that are on their way, and its length.

    Raises:
        NotStarted: The server has no build of ours.
        OutcomeUnknown: It may have one, from this run or from an earlier one.
        SettingError: The names of the image are none.
        LocalError: The archive cannot be read or is another one than `context` says.
        StoppedWatching: The build was started, but its ID could not be saved; carries the ID.
    """
    if previous is not None and not force:
        return _keep_previous(previous, report)
    _check_archive(archive, context)
    prefix = None if target_image else api.registry_prefix()
    image, tags = name_images(version, prefix=prefix, target=target, image_name=image_name, target_image=target_image)
    intent = Submission(
        state=INTENT,
        runtime_api_url=api.url,
        target_image=image,
        tags=tags,
        context_sha256=context.context_sha256,
        build_id=None,
        submitted_at=None,
    )
    save(intent)
    build = _start(api, archive, intent, upload_format=upload_format, discard=discard, progress=progress)
    # Shown before it is saved: where the disk is full, this line is all that is left of it.
    report(f"Build initiated with ID: {build.build_id}")
    if build.refused_url:
        warn(
            f"the server names {build.refused_url} as the place to ask for this build; its host is not one of "
            f"ALLOWED_HOSTS and is not sent the key, so {api.url} is asked instead"
        )
    submission = replace(
        intent,
        state=SUBMITTED,
        build_id=build.build_id,
        submitted_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        status_url=build.status_url,
    )
    try:
        save(submission)
    except LocalError as error:
        raise StoppedWatching(
            f"build {build.build_id} was started, but its ID could not be saved: {error.message}",
            f"`invoke wait --build-id {shlex.quote(build.build_id)}` watches it; {error.fix}",
        ) from error
    return submission


def name_images(
    version: Version, *, prefix: str | None, target: str, image_name: str, target_image: str | None
) -> tuple[str, list[str]]:
    """Return the reference of the image, and one further reference for each further tag.

    Args:
        prefix: Of the registry, without a slash at the end.
        target_image: Takes the place of the first reference; there are no further ones then.

    Raises:
        SettingError: A reference is one that Docker would refuse.
    """
    if target_image:
        parse_reference(target_image, "TARGET_IMAGE")
        return target_image, []
    name = f"{prefix}/{image_name}" if prefix else image_name
    suffix = "" if target == _PLAIN_TARGET else f"-{target}"
    references = [
        f"{name}:{_check_length(f'{version.short_sha}-{tag}{suffix}', tag, position)}"
        for position, tag in enumerate(dict.fromkeys([version.primary_tag, *version.tags]), start=1)
    ]
    parse_reference(references[0], "IMAGE_NAME behind the server's registry prefix")
    return references[0], references[1:]


def _start(
    api: RuntimeApi,
    archive: Path,
    intent: Submission,
    *,
    upload_format: str,
    discard: Callable[[], None],
    progress: Callable[[int, int], None],
) -> StartedBuild:
    """Return the started build; take the intent back where it is certain that there is none."""
    watched = _Progress(progress)
    try:
        return api.start_build(archive, intent.target_image, intent.tags, upload_format=upload_format, progress=watched)
    except (NotStarted, LocalError):
        discard()
        raise
    except OutcomeUnknown:
        raise
    except BaseException:  # a signal, whichever way it is raised: a build needs the whole upload
        if not watched.is_whole:
            discard()
        raise


def _check_length(image_tag: str, tag: str, position: int) -> str:
    if len(image_tag) > MAX_TAG_LENGTH:
        raise SettingError(
            f"the image's tag {image_tag!r} has {len(image_tag)} characters; a registry takes {MAX_TAG_LENGTH}",
            f"shorten tag {position} of CUSTOM_TAGS to {MAX_TAG_LENGTH - len(image_tag) + len(tag)} characters, "
            "or set TARGET_IMAGE",
        )
    return check_tag(image_tag, position)


def _check_archive(archive: Path, context: BuildContext) -> None:
    try:
        size_bytes = archive.stat().st_size
    except OSError as error:
        raise LocalError(f"cannot read {archive.name}: {error.strerror}", "run `invoke context`") from error
    if size_bytes != context.archive_bytes:
        raise LocalError(
            f"{archive.name} has {size_bytes} bytes, but {context.archive_bytes} were packed", "run `invoke context`"
        )


def _keep_previous(previous: Submission, report: Callable[[str], None]) -> Submission:
    if previous.build_id is None:
        raise OutcomeUnknown(
            f"an earlier upload to {previous.runtime_api_url} may have started a build of {previous.target_image}, "
            "but its ID never arrived",
            "look on the server whether that build is there; `FORCE=true invoke upload` submits once more",
        )
    report(f"Already submitted, with build ID: {previous.build_id} (FORCE=true submits once more)")
    return previous


class _Progress:
    """Passes progress on and remembers whether the whole upload was on its way."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress
        self.is_whole = False

    def __call__(self, sent_bytes: int, total_bytes: int) -> None:
        self.is_whole = sent_bytes >= total_bytes > 0
        self._progress(sent_bytes, total_bytes)
