"""Asking for one build, whatever happens on the way, and without the source if the server already has it."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from buildkit.display import format_size
from buildkit.errors import LocalError, OutcomeUnknown
from buildkit.runtime_api import policy, protocol
from buildkit.runtime_api.fields import read_build_id, read_replica
from buildkit.runtime_api.http import Request
from buildkit.runtime_api.policy import SourceMissing
from buildkit.runtime_api.protocol import StartedBuild
from buildkit.runtime_api.response import InvalidResponse, parse_object
from buildkit.runtime_api.retry import TRANSIENT, RequestFailed
from buildkit.runtime_api.upload import SourceUpload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.archive.parts import ArchiveParts
    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.runtime_api.upload import UploadAttempt
    from buildkit.ui import Ui

# It takes about as long to send this much as to ask whether the server has it.
MIN_SOURCE_BYTES = 256 * 1024


def store_source(api: RuntimeApi, attempt: UploadAttempt, ui: Ui) -> None:
    """Leave the source out of the upload if the server has it, or has been sent it now. No build is started.

    Servers that do not list the feature are sent the whole archive, and so is a server that refuses the source.

    Raises:
        NotStarted: The source could not be sent.
        OutcomeUnknown: The same, and an earlier try of this upload may have started a build.
        LocalError: The archive cannot be read or has changed.
    """
    with _explain_failures(attempt):
        parts = _find_parts(api, attempt)
        if parts is None:
            return
        has_source = _has_source(api, parts.source_sha256)
        if has_source is None:
            return
        attempt.leave_out_source(parts)
        if has_source:
            ui.report(f"the server already has the source; sending only the rest ({format_size(attempt.total)})")
        else:
            _send_source(api, attempt, ui)


def start_build(api: RuntimeApi, attempt: UploadAttempt, ui: Ui) -> StartedBuild:
    """Return the build that the server has started from the upload; `attempt` says what it can have received.

    Raises:
        NotStarted: The server has no build of this upload.
        OutcomeUnknown: It may have one.
        LocalError: The archive cannot be read or has changed, so the server does not have the whole body.
    """
    with _explain_failures(attempt):
        for resend in (partial(_send_source, api, attempt, ui), attempt.send_source_along):
            try:
                return _repeat_post(api, attempt)
            except SourceMissing as missing:
                attempt.may_have_started = attempt.outcome_unknown  # this was a refusal
                ui.warn(f"{missing.message}; sending the source again")
            resend()
        return _repeat_post(api, attempt)


def _find_parts(api: RuntimeApi, attempt: UploadAttempt) -> ArchiveParts | None:
    """Return the parts of the archive if it is worth asking whether the server has the source."""
    from buildkit.archive.parts import digest_parts, find_rest

    archive = attempt.archive
    try:
        source_bytes = find_rest(archive.descriptor)
        if source_bytes is None or source_bytes < MIN_SOURCE_BYTES or protocol.STORED_CONTEXTS not in api.features():
            return None
        return digest_parts(archive.descriptor, source_bytes, archive.sha256)
    except OSError:  # sending the archive fails in the same way, and says so
        return None


def _send_source(api: RuntimeApi, attempt: UploadAttempt, ui: Ui) -> None:
    """Send the source on its own; if the server refuses it, the upload contains it again."""
    if attempt.source is None:
        return
    body = SourceUpload(attempt.source, attempt.draw)
    try:
        api.repeat(lambda: _put_source(api, body))
    except RequestFailed as failure:
        if failure.status not in policy.REFUSED:
            raise
        ui.warn(f"{failure.message}; sending the whole archive instead")
        attempt.send_source_along()


def _repeat_post(api: RuntimeApi, attempt: UploadAttempt) -> StartedBuild:
    return api.repeat(lambda: _try_post(api, attempt))


def _try_post(api: RuntimeApi, attempt: UploadAttempt) -> StartedBuild:
    """Return the started build; an unknown outcome may be tried again if the server knows the key."""
    try:
        return _post(api, attempt)
    except OutcomeUnknown as unknown:
        attempt.may_have_started = True  # before the next request, which may be interrupted
        if not attempt.outcome_unknown:
            # Asked only now: most uploads succeed, and most servers list nothing.
            if not attempt.idempotency_key or protocol.IDEMPOTENCY not in api.features():
                raise
            attempt.outcome_unknown = True
        raise RequestFailed(unknown.message, unknown.fix, retry=TRANSIENT) from unknown


def _has_source(api: RuntimeApi, sha256: str) -> bool | None:
    """Return whether the server has a source, or None if it does not say."""
    request = Request(f"{api.url}{protocol.CONTEXTS}/{sha256}", api.network.read_s, method="HEAD")
    try:
        status = api.repeat(lambda: api.fetch(request)).status
    except RequestFailed:
        return None
    return False if status == policy.NOT_FOUND else status in policy.ACCEPTED or None


def _put_source(api: RuntimeApi, source: SourceUpload) -> None:
    """Send a source, trying once."""
    url = f"{api.url}{protocol.CONTEXTS}/{source.sha256}"
    request = Request(url, api.network.response_s, body=source, method="PUT")
    response = api.fetch(request)
    if response.status not in policy.ACCEPTED | {policy.NO_CONTENT}:
        raise api.classify(request, response)


def _post(api: RuntimeApi, attempt: UploadAttempt) -> StartedBuild:
    """Return the started build, trying once."""
    headers = {"Idempotency-Key": attempt.idempotency_key} if attempt.idempotency_key else {}
    url = f"{api.url}{protocol.BUILD}"
    request = Request(url, api.network.response_s, body=attempt, headers=headers, method="POST")
    response = api.fetch(request)
    if response.status not in policy.ACCEPTED:
        raise api.classify(request, response)
    try:
        fields = parse_object(response)
        build_id = read_build_id(fields, api.clean)
    except InvalidResponse as invalid:
        raise OutcomeUnknown(
            f"{request} returned {response.title} without a usable build ID: {invalid}; a build has probably started",
            policy.UNKNOWN_FIX,
        ) from invalid
    replica = read_replica(fields)
    if replica is None or api.may_have_key(replica):
        return StartedBuild(build_id, status_url=replica)
    return StartedBuild(build_id, refused_url=api.clean(replica))


@contextmanager
def _explain_failures(attempt: UploadAttempt) -> Iterator[None]:
    """Raise what a failure says about the upload as a whole: an earlier try may have started a build."""
    try:
        yield
    except RequestFailed as failure:
        if attempt.outcome_unknown:
            raise policy.keep_unknown(failure) from failure
        if failure.status is None and attempt.may_have_started:
            raise OutcomeUnknown(
                f"{failure.message}; an earlier try sent the whole upload, so a build may or may not have started",
                policy.UNKNOWN_FIX,
            ) from failure
        attempt.may_have_started = False
        raise
    except LocalError as error:
        if attempt.outcome_unknown:
            raise policy.keep_unknown(error) from error
        raise
