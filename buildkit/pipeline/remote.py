"""Upload, wait and logs, each with its state: what is asked of the Runtime API, and how it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit.errors import SettingError
from buildkit.models import BuildResult, Submission
from buildkit.output.atomic import write_file
from buildkit.output.state import digest_files, find_state, load_state, save_state
from buildkit.pipeline.record import (
    UPLOAD_STATE,
    find_submission,
    is_pending,
    is_same_build,
    load_made,
    load_submission,
)
from buildkit.runtime_api.replies import is_build_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.session import Session

_SUCCESS = "SUCCESS"
_NO_API = ("RUNTIME_API_URL and RUNTIME_API_KEY are not set", "set both in .env or in the environment")


def make_submission(session: Session) -> Submission:
    """Return the build that was asked for, saved before and after the request."""
    from buildkit.steps.upload import submit_build

    settings, console, directory = session.settings, session.console, session.directory
    require_api(session)
    made = load_made(directory)
    previous = None if settings.force else find_submission(directory)
    is_open = previous is not None and (previous.build_id is None or is_pending(session, previous, made))
    with open_api(session) as api, console.progress("uploading") as progress:
        submission = submit_build(
            api,
            directory / made.context.archive,
            made.context,
            made.version,
            target=made.dockerfile.target,
            image_name=settings.image_name,
            target_image=settings.target_image,
            upload_format=settings.upload_format,
            previous=previous if is_open else None,
            force=settings.force,
            save=lambda submission: _save_submission(session, submission),
            discard=_remember(directory / UPLOAD_STATE),
            progress=progress,
            report=console.report,
            warn=console.warn,
        )
    console.publish(build_id=submission.build_id)
    return load_state(directory, Submission, trace=False)


def await_image(session: Session, build_id: str | None = None) -> BuildResult:
    """Return how the build ended, saved."""
    from buildkit.steps.wait import BuildEndedBadly, poll_build

    settings, console, directory = session.settings, session.console, session.directory
    require_api(session)
    _check_build_id(build_id)
    submission = None if build_id else load_submission(directory)
    build_id = build_id or (submission.build_id if submission else None) or ""
    made_from = digest_files(directory, UPLOAD_STATE) if submission else {}
    session.on_interrupt = _describe_return(build_id)
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


def find_built(session: Session) -> BuildResult | None:
    """Return the image of this very context from an earlier run, where SKIP_EXISTING asks for that.

    The proof is our own record of the build; that some servers say of every image that it exists proves nothing.
    """
    directory = session.directory
    previous = find_submission(directory) if session.settings.skip_existing and not session.settings.force else None
    if previous is None or not is_same_build(session, previous, load_made(directory)):
        return None
    result = find_state(directory, BuildResult)
    if result is None or result.build_id != previous.build_id or result.status != _SUCCESS or result.image is None:
        return None
    with open_api(session) as api:
        if api.image_exists(result.image) is False:
            return None
    session.console.report(f"this context is built already, as {result.image}; FORCE=true builds it again")
    session.console.publish(image=result.image, build_id=result.build_id)
    return result


def read_logs(session: Session, build_id: str | None) -> list[str]:
    """Return the lines of a build's log; none where the Runtime API has no logs."""
    from buildkit.steps import logs

    require_api(session)
    _check_build_id(build_id)
    build_id = build_id or load_submission(session.directory).build_id or ""
    with open_api(session) as api:
        lines = logs.read_logs(api, build_id)
        if lines is None:
            session.console.report("this Runtime API has no build logs")
        return list(lines or ())


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
    from buildkit.runtime_api.client import RuntimeApi

    settings = session.settings
    if settings.runtime_api_url is None or settings.runtime_api_key is None:
        raise SettingError(*_NO_API)
    return RuntimeApi(
        settings.runtime_api_url,
        settings.runtime_api_key,
        allowed_hosts=frozenset(settings.allowed_hosts),
        stall_timeout_s=settings.stall_timeout,
    )


def _check_build_id(build_id: str | None) -> None:
    if build_id is not None and not is_build_id(build_id):
        raise SettingError(f"--build-id is not a build ID: {build_id!r}", "give the ID that `invoke upload` printed")


def _save_submission(session: Session, submission: Submission) -> None:
    save_state(session.directory, replace(submission, made_from=digest_files(session.directory, "context.json")))
    session.on_interrupt = "a build may have been started; `invoke upload` says what is known of it"
    if submission.build_id:
        session.on_interrupt = _describe_return(submission.build_id)


def _describe_return(build_id: str) -> str:
    return f"the build {build_id} goes on; `invoke wait --build-id {build_id}` comes back to it"


def _remember(path: Path) -> Callable[[], None]:
    """Return what puts the file back as it is now."""
    before = path.read_bytes() if path.exists() else None
    return lambda: path.unlink(missing_ok=True) if before is None else write_file(path, before)


def _show_log_end(session: Session, api: RuntimeApi, build_id: str) -> None:
    """Show the end of a failed build's log; a log that cannot be read changes nothing."""
    from buildkit.steps.logs import read_tail

    for line in read_tail(api, build_id, warn=session.console.warn):
        session.console.report(line)
