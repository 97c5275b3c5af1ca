"""Upload, wait and logs, each with its state: what was asked of the Runtime API, and how it ended."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit.errors import LocalError, OutcomeUnknown, SettingError
from buildkit.models import BuildContext, BuildResult, Dockerfile, Submission, Version
from buildkit.state import digest_file, digest_files, find_state, load_state, save_state

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.api import RuntimeApi
    from buildkit.session import Session


UPLOAD_STATE = f"{Submission.step}.json"
_NO_API = ("RUNTIME_API_URL and RUNTIME_API_KEY are not set", "set both in .env or in the environment")


def make_submission(session: Session) -> Submission:
    """Return the build that was asked for, saved before and after the request."""
    from buildkit.atomic import write_file
    from buildkit.upload import name_images, submit_build

    settings, console, directory = session.settings, session.console, session.directory
    require_api(session)
    version = load_state(directory, Version)
    dockerfile = load_state(directory, Dockerfile)
    context = load_state(directory, BuildContext)
    archive = directory / context.archive
    if digest_file(archive) != context.archive_sha256:
        raise LocalError(f"{directory.name}/{context.archive} is missing or has changed", "run `invoke context` again")
    made_from = digest_files(directory, "context.json")
    previous = None if settings.force else find_submission(directory)
    path = directory / UPLOAD_STATE
    before = path.read_bytes() if path.exists() else b""
    names = name_images(
        version,
        prefix=None,
        target=dockerfile.target,
        image_name=settings.image_name,
        target_image=settings.target_image,
    )
    with open_api(session) as api, console.progress("uploading") as progress:
        submission = submit_build(
            api,
            archive,
            context,
            version,
            target=dockerfile.target,
            image_name=settings.image_name,
            target_image=settings.target_image,
            upload_format=settings.upload_format,
            previous=previous if previous and _is_pending(session, previous, context, names) else None,
            force=settings.force,
            save=lambda submission: save_state(directory, replace(submission, made_from=made_from)),
            discard=lambda: write_file(path, before) if before else path.unlink(missing_ok=True),
            progress=progress,
            report=console.report,
            warn=console.warn,
        )
    console.publish(build_id=submission.build_id)
    return load_state(directory, Submission)


def await_image(session: Session, build_id: str | None = None) -> BuildResult:
    """Return how the build ended, saved."""
    from buildkit.wait import BuildEndedBadly, poll_build

    settings, console, directory = session.settings, session.console, session.directory
    require_api(session)
    submission = None if build_id else load_submission(directory)
    build_id = build_id or (submission.build_id if submission else None) or ""
    made_from = digest_files(directory, UPLOAD_STATE) if submission else {}
    session.on_interrupt = f"the build {build_id} goes on; `invoke wait --build-id {build_id}` comes back to it"
    with open_api(session) as api:
        try:
            result = poll_build(
                api,
                build_id,
                status_url=submission.status_url if submission else None,
                target_image=submission.target_image if submission else None,
                timeout_s=settings.build_timeout,
                poll_interval_s=settings.poll_interval,
                report=console.report,
                warn=console.warn,
            )
        except BuildEndedBadly as failed:
            save_state(directory, replace(failed.result, made_from=made_from))
            _show_log_end(session, api, build_id)
            raise
    result = replace(result, made_from=made_from)
    save_state(directory, result)
    console.publish(image=result.image, build_id=build_id)
    return result


def read_logs(session: Session, build_id: str | None) -> list[str]:
    """Return the lines of a build's log; none where the Runtime API has no logs."""
    from buildkit import logs

    require_api(session)
    build_id = build_id or load_submission(session.directory).build_id or ""
    with open_api(session) as api:
        lines = logs.read_logs(api, build_id)
        if lines is None:
            session.console.report("this Runtime API has no build logs")
        return list(lines or ())


def find_submission(directory: Path) -> Submission | None:
    """Return the submission on record, whatever became of the context it was made from; None where there is none.

    Raises:
        LocalError: The record is damaged: a build may be going on.
    """
    if not (directory / UPLOAD_STATE).exists():
        return None
    try:
        return load_state(directory, Submission, trace=False)
    except LocalError as error:
        raise LocalError(
            error.message, "look on the server for a build, then `invoke upload --force` to send it again"
        ) from error


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


def require_api(session: Session) -> None:
    """Refuse to begin what needs a Runtime API where the settings name none.

    Raises:
        SettingError: They do not.
    """
    if session.settings.runtime_api_url is None:
        raise SettingError(*_NO_API)


def open_api(session: Session) -> RuntimeApi:
    """Return a client of the Runtime API that the settings name.

    Raises:
        SettingError: They name none.
    """
    from buildkit.api import RuntimeApi

    settings = session.settings
    if settings.runtime_api_url is None or settings.runtime_api_key is None:
        raise SettingError(*_NO_API)
    return RuntimeApi(
        settings.runtime_api_url,
        settings.runtime_api_key,
        allowed_hosts=frozenset(settings.allowed_hosts),
        stall_timeout_s=settings.stall_timeout,
    )


def _is_pending(session: Session, previous: Submission, context: BuildContext, names: tuple[str, list[str]]) -> bool:
    """Return whether `previous` already asks for this very build, or may: nobody knows its end.

    Args:
        names: Of the image and its further tags, without the registry's prefix.
    """
    if previous.build_id is None:
        return True
    image, tags = names
    wanted = [previous.target_image, *previous.tags]
    return (
        previous.context_sha256 == context.context_sha256
        and previous.runtime_api_url == session.settings.runtime_api_url
        and len(wanted) == 1 + len(tags)
        and all(old == new or old.endswith(f"/{new}") for old, new in zip(wanted, [image, *tags], strict=True))
        and not is_over(session.directory, previous)
    )


def _show_log_end(session: Session, api: RuntimeApi, build_id: str) -> None:
    """Show the end of a failed build's log; a log that cannot be read changes nothing."""
    from buildkit.logs import read_tail

    for line in read_tail(api, build_id, warn=session.console.warn):
        session.console.report(line)
