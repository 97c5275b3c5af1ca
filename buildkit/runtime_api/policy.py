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

OutcomeUnknown ends the upload, with one exception: a server that lists the feature `idempotency` starts one build for
each `Idempotency-Key`, so it is sent the same request again, 3 tries in all. The outcome stays unknown until it returns
the build ID: a refusal of a later try says nothing about an earlier one.

A source that the server already has is left out of the upload, and named by its digest. If the server returns 404, 409
or 422 and names that digest, it has refused the upload because it no longer has the source, which is then sent again.
`PUT /contexts/{sha256}` starts nothing, so it is repeated like a GET.

429 and 503 are retried when the server asks for it, or with growing pauses; not if it asks for more than
_MAX_RETRY_AFTER_S. A GET may always be repeated: 3 tries on 5xx and without a usable response, 6 if the server is busy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from buildkit.display import format_size
from buildkit.errors import OutcomeUnknown, RuntimeBuildError, run
from buildkit.runtime_api.protocol import JSON, MULTIPART
from buildkit.runtime_api.response import parse_retry_after
from buildkit.runtime_api.retry import NEVER, TRANSIENT, RequestFailed, Retry
from buildkit.runtime_api.upload import UploadAttempt

if TYPE_CHECKING:
    from buildkit.runtime_api.exchange import ExchangeFailed
    from buildkit.runtime_api.http import Request
    from buildkit.runtime_api.response import Response

ACCEPTED = frozenset({200, 201, 202})
REFUSED = frozenset(
    {400, 401, 402, 403, 404, 405, 406, 407, 410, 411, 413, 414, 415, 417, 421, 422, 426, 428, 431, 451, 501, 505}
)
KEY_REFUSED = frozenset({401, 403})
ABSENT = frozenset({404, 405, 501})
NO_CONTENT = 204
REDIRECTION, NOT_FOUND, TOO_MANY, SERVER_ERROR, UNAVAILABLE = 300, 404, 429, 500, 503
_REDIRECTS = frozenset({300, 301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425})
# What a server may say to an upload that names a source which it does not have.
_MISSING = frozenset({404, 409, 422})

_BUSY_TRIES = 6
_MAX_RETRY_AFTER_S = 300.0

UNKNOWN_FIX = f"look on the server for the build; {run('upload', '--force')} submits it again"
SAME_KEY_FIX = f"run {run('upload')} again; this server does not start a second build for it"
_KEY_FIX = f"check RUNTIME_API_KEY; {run('doctor')} shows whether the server accepts it"
SERVER_FIX = f"check RUNTIME_API_URL; {run('doctor')} shows what the server provides"
_AGAIN_FIX = "wait, then run the same command again"
_UPLOAD_FIX = f"wait, then run {run('upload')} again"
_REACH_FIX = (
    "check RUNTIME_API_URL, the network and any HTTPS_PROXY, then run the same command again; "
    f"{run('doctor')} checks the connection"
)
_TLS_FIX = "check RUNTIME_API_URL; for a certificate authority of your own, set REQUESTS_CA_BUNDLE to its file"

# How the message about a refused upload begins, and what to do, by status.
_OTHER_FORMAT = (
    "the server refused the upload (UPLOAD_FORMAT={used}): ",
    "the server may want the other upload format: {other}",
)
_REFUSALS = {
    400: _OTHER_FORMAT,
    401: ("", _KEY_FIX),
    403: ("", _KEY_FIX),
    404: ("this server does not build anything: ", SERVER_FIX),
    407: ("", "check the user and the password in HTTPS_PROXY"),
    413: (
        "the upload of {size} is too large for the server: ",
        f"leave files out with EXCLUDE; {run('context', '--files')} shows the largest ones",
    ),
    415: _OTHER_FORMAT,
    422: _OTHER_FORMAT,
    503: ("", _UPLOAD_FIX),
}


class SourceMissing(RequestFailed):
    """The upload names a source by its digest, and the server says that it does not have it."""


def classify_response(request: Request, response: Response, detail: str) -> RuntimeBuildError:
    """Return the error for a response whose status is not one of `ACCEPTED`.

    Args:
        detail: What its body says, safe to show, as the rest of a sentence.
    """
    status, upload = response.status, _find_upload(request)
    title = f"{request} returned {response.title}"
    is_sent = upload is not None and upload.complete
    if upload and upload.source and status in _MISSING and upload.source.sha256 in detail:
        return SourceMissing(title + detail, _UPLOAD_FIX, status=status)
    if status == TOO_MANY or (status == UNAVAILABLE and "Retry-After" in response.headers and not is_sent):
        return _classify_busy(response, title + detail, _UPLOAD_FIX if upload else _AGAIN_FIX)
    if status in _REDIRECTS and "Location" in response.headers:
        target = _name_target(response.headers["Location"])
        return RequestFailed(
            f"{title}: it redirects to {target}, which is not followed because the key would be sent along",
            "set RUNTIME_API_URL to the server that is meant",
            status=status,
        )
    if is_sent and status not in REFUSED:
        return OutcomeUnknown(f"{title}, so a build may or may not have started{detail}", UNKNOWN_FIX)
    if upload:
        return _classify_refusal(upload, title + detail, status)
    is_transient = status in _TRANSIENT or status >= SERVER_ERROR or status < REDIRECTION
    fix = _KEY_FIX if status in KEY_REFUSED else _REACH_FIX
    return RequestFailed(title + detail, fix, status=status, retry=TRANSIENT if is_transient else NEVER)


def classify_failure(request: Request, failure: ExchangeFailed, reason: str) -> RuntimeBuildError:
    """Return the error for a request without a response.

    Args:
        reason: The failure's, safe to show.
    """
    url, upload = request.url, _find_upload(request)
    if upload and upload.complete:
        return OutcomeUnknown(
            f"the whole upload was sent to {url}, but no response came back ({reason}): "
            "a build may or may not have started",
            UNKNOWN_FIX,
        )
    body = request.body
    if body and body.sent and not body.complete:
        done = f"{format_size(body.sent)} of {format_size(body.total)}"
        if failure.timed_out:
            return RequestFailed(f"{url} stopped reading after {done} of the upload", _UPLOAD_FIX)
        retry = TRANSIENT if failure.connection_lost or not failure.is_tls else NEVER
        return RequestFailed(f"the upload to {url} was interrupted after {done}: {reason}", _REACH_FIX, retry=retry)
    if failure.is_tls:
        retry = Retry(is_transient=failure.connection_lost)
        return RequestFailed(f"no secure connection to {url}: {reason}", _TLS_FIX, retry=retry)
    return RequestFailed(f"no response from {url}: {reason}", _REACH_FIX, retry=TRANSIENT)


def keep_unknown(error: RuntimeBuildError) -> OutcomeUnknown:
    """Return the error for an upload that failed after an earlier try may have started a build."""
    earlier = "" if isinstance(error.__cause__, OutcomeUnknown) else "; an earlier try may have started a build"
    return OutcomeUnknown(f"{error.message}{earlier}", SAME_KEY_FIX)


def _find_upload(request: Request) -> UploadAttempt | None:
    """Return the body of a request that starts a build; any other request may always be repeated."""
    return request.body if isinstance(request.body, UploadAttempt) else None


def _classify_busy(response: Response, message: str, fix: str) -> RequestFailed:
    after_s = parse_retry_after(response.headers)
    is_long = after_s is not None and after_s > _MAX_RETRY_AFTER_S
    if is_long:
        message = f"{message}; it asks to come back after {after_s:.0f} s, which is too long to wait"
    retry = Retry(1 if is_long else _BUSY_TRIES, after_s, is_transient=True)
    return RequestFailed(message, fix, status=response.status, retry=retry)


def _classify_refusal(upload: UploadAttempt, message: str, status: int) -> RequestFailed:
    start, fix = _REFUSALS.get(status, ("", SERVER_FIX))
    used = upload.upload_format
    start = start.format(used=used, size=format_size(upload.total))
    fix = fix.format(other=run("upload", "--upload-format", MULTIPART if used == JSON else JSON))
    return RequestFailed(start + message, fix, status=status)


def _name_target(location: str) -> str:
    """Return where a redirect leads, without user, password, path and query: these may contain secrets."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "an invalid address"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if host else "another path of the same server"
