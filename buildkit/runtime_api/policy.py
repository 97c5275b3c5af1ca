"""What a failed request to the Runtime API means, and what is retried.

`POST /build` is repeated only if the server cannot have started a build: it does not have the whole body, or it says
that it refused the request. "Sent" is when the whole body has been handed to the network.

    POST /build                                            before it is sent     after it is sent
    -----------------------------------------------------  --------------------  ----------------------
    200, 201, 202 with a build ID                          started               started
    the same without a usable build ID                     OutcomeUnknown        OutcomeUnknown
    a status of REFUSED; a redirect (never followed)       NotStarted            NotStarted
    429                                                    NotStarted, 6 tries   NotStarted, 6 tries
    503 with Retry-After                                   NotStarted, 6 tries   OutcomeUnknown
    any other status                                       NotStarted            OutcomeUnknown
    no response: TLS fails, or the server stops reading    NotStarted            OutcomeUnknown
    no response for any other reason                       NotStarted, 3 tries   OutcomeUnknown

429 and 503 are retried when the server asks for it, or with growing pauses; once only if it asks for more than
MAX_RETRY_AFTER_S. A GET may always be repeated: 3 tries on 5xx and without a response, 6 tries if the server is busy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from buildkit.display import format_size
from buildkit.errors import OutcomeUnknown, RuntimeBuildError, run
from buildkit.runtime_api.protocol import BUILD, JSON, MULTIPART
from buildkit.runtime_api.response import parse_retry_after
from buildkit.runtime_api.retry import BUSY_TRIES, LOST_TRIES, ONCE, RequestFailed, Retry

if TYPE_CHECKING:
    from buildkit.runtime_api.http import ResponseMissing
    from buildkit.runtime_api.response import Response
    from buildkit.runtime_api.upload import UploadAttempt

ACCEPTED = frozenset({200, 201, 202})
REFUSED = frozenset(
    {400, 401, 402, 403, 404, 405, 406, 407, 410, 411, 413, 414, 415, 417, 421, 422, 426, 428, 431, 451, 501, 505}
)
REDIRECTS = frozenset({300, 301, 302, 303, 307, 308})
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
KEY_REFUSED = frozenset({401, 403})
NOT_FOUND, TOO_LARGE, TOO_MANY, UNAVAILABLE = 404, 413, 429, 503

MAX_RETRY_AFTER_S = 300.0

_FORMAT_FIX = "the server may want the other upload format: {other}"
_KEY_FIX = f"check RUNTIME_API_KEY; {run('doctor')} shows whether the server accepts it"
_SERVER_FIX = f"check RUNTIME_API_URL; {run('doctor')} shows what the server provides"
_BUSY_FIX = f"wait, then run {run('upload')} again"
_FIXES = {
    400: _FORMAT_FIX,
    401: _KEY_FIX,
    403: _KEY_FIX,
    407: "check the user and the password in HTTPS_PROXY",
    413: f"leave files out with EXCLUDE; {run('context', '--files')} shows the largest ones",
    415: _FORMAT_FIX,
    422: _FORMAT_FIX,
    429: _BUSY_FIX,
    503: _BUSY_FIX,
}
_REACH_FIX = (
    "check RUNTIME_API_URL, the network and any HTTPS_PROXY, then run the same command again; "
    f"{run('doctor')} checks the connection"
)
_TLS_FIX = "check RUNTIME_API_URL; for a certificate authority of your own, set REQUESTS_CA_BUNDLE to its file"
UNKNOWN_FIX = f"look on the server for the build; {run('upload', '--force')} submits it again"


def classify_upload_response(response: Response, url: str, detail: str, attempt: UploadAttempt) -> RuntimeBuildError:
    """Return the error for a response to `POST /build` whose status is not one of `ACCEPTED`.

    Args:
        detail: What its body says, safe to show.
    """
    title, status = f"POST {url}{BUILD} returned {response.title}", response.status
    if status == TOO_MANY or (_is_busy(response) and not attempt.complete):
        return _classify_busy(response, title + detail, _BUSY_FIX)
    if _is_redirect(response):
        return _classify_redirect(response, title)
    if status not in REFUSED and attempt.complete:
        return OutcomeUnknown(f"{title}, so a build may or may not have started{detail}", UNKNOWN_FIX)
    fix = _FIXES.get(status, _SERVER_FIX)
    if fix == _FORMAT_FIX:
        used = attempt.upload.upload_format
        title = f"the server refused the upload (UPLOAD_FORMAT={used}): {title}"
        fix = fix.format(other=run("upload", "--upload-format", MULTIPART if used == JSON else JSON))
    if status == NOT_FOUND:
        title = f"this server does not build anything: {title}"
    if status == TOO_LARGE:
        title = f"the upload of {format_size(attempt.total)} is too large for the server: {title}"
    return RequestFailed(title + detail, fix, status=status)


def classify_failed_upload(lost: ResponseMissing, url: str, reason: str, attempt: UploadAttempt) -> RuntimeBuildError:
    """Return the error for a `POST /build` without a response.

    Args:
        reason: Why, safe to show.
    """
    if attempt.complete:
        return OutcomeUnknown(
            f"the whole upload was sent to {url}, but no response came back ({reason}): "
            "a build may or may not have started",
            UNKNOWN_FIX,
        )
    if not attempt.sent:
        if lost.is_tls:
            return RequestFailed(f"no secure connection to {url}: {reason}", _TLS_FIX)
        return RequestFailed(f"no connection to {url}: {reason}", _REACH_FIX, retry=Retry(LOST_TRIES))
    done = f"{format_size(attempt.sent)} of {format_size(attempt.total)}"
    if lost.timed_out:
        return RequestFailed(f"{url} stopped reading after {done} of the upload", _BUSY_FIX)
    tries = LOST_TRIES if lost.connection_lost or not lost.is_tls else ONCE
    return RequestFailed(f"the upload to {url} was interrupted after {done}: {reason}", _REACH_FIX, retry=Retry(tries))


def classify_started(response: Response, url: str, problem: str) -> OutcomeUnknown:
    """Return the error for an accepted `POST /build` whose response has no usable build ID."""
    return OutcomeUnknown(
        f"POST {url}{BUILD} returned {response.title} without a usable build ID: {problem}; "
        "a build has probably started",
        UNKNOWN_FIX,
    )


def classify_response(response: Response, url: str, detail: str) -> RequestFailed:
    """Return the error for a response to a GET whose status is not one of `ACCEPTED`."""
    title, status = f"GET {url} returned {response.title}", response.status
    if _is_busy(response):
        return _classify_busy(response, title + detail, "wait, then run the same command again")
    if _is_redirect(response):
        return _classify_redirect(response, title)
    is_transient = status in TRANSIENT or status >= 500 or status < 300  # noqa: PLR2004 - the classes of RFC 9110
    fix = _KEY_FIX if status in KEY_REFUSED else _REACH_FIX
    retry = Retry(LOST_TRIES, is_transient=True) if is_transient else Retry()
    return RequestFailed(title + detail, fix, status=status, retry=retry)


def classify_failed_request(lost: ResponseMissing, url: str, reason: str) -> RequestFailed:
    """Return the error for a GET without a response."""
    if lost.is_tls:
        retry = Retry(is_transient=lost.connection_lost)
        return RequestFailed(f"no secure connection to {url}: {reason}", _TLS_FIX, retry=retry)
    retry = Retry(LOST_TRIES, is_transient=True)
    return RequestFailed(f"no response from {url}: {reason}", _REACH_FIX, retry=retry)


def classify_invalid(response: Response, url: str, problem: str) -> RequestFailed:
    """Return the error for a GET that succeeds with an unusable body."""
    return RequestFailed(
        f"GET {url} returned {response.title}, but {problem}",
        "run the same command again; if it keeps failing, RUNTIME_API_URL may not be a Runtime API",
        status=response.status,
        retry=Retry(LOST_TRIES, is_transient=True),
    )


def _is_busy(response: Response) -> bool:
    return response.status == TOO_MANY or (response.status == UNAVAILABLE and "Retry-After" in response.headers)


def _is_redirect(response: Response) -> bool:
    return response.status in REDIRECTS and "Location" in response.headers


def _classify_busy(response: Response, message: str, fix: str) -> RequestFailed:
    after_s = parse_retry_after(response.headers)
    is_long = after_s is not None and after_s > MAX_RETRY_AFTER_S
    if is_long:
        message = f"{message}; it asks to come back after {after_s:.0f} s, which is too long to wait"
    retry = Retry(ONCE if is_long else BUSY_TRIES, after_s, is_transient=True)
    return RequestFailed(message, fix, status=response.status, retry=retry)


def _classify_redirect(response: Response, title: str) -> RequestFailed:
    return RequestFailed(
        f"{title}: it redirects to {_name_target(response.headers['Location'])}, which is not followed "
        "because the key would be sent along",
        "set RUNTIME_API_URL to the server that is meant",
        status=response.status,
    )


def _name_target(location: str) -> str:
    """Return where a redirect leads, without user, password, path and query: these may contain secrets."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "an invalid address"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if host else "another path of the same server"
