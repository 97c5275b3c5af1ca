"""What becomes of a request to the Runtime API: done, refused, made again, or unknown.

`POST /build` is made again only where the server cannot have begun a build: it has not got the whole request, or says
that it did not take it.

    what happened                                             becomes           requests in all
    200, 201, 202 with a build ID                             done              1
    429, or 503 with Retry-After                              NotStarted        6, as the server asks or ever later
    the same, with a Retry-After above MAX_RETRY_AFTER_S      NotStarted        1
    a status of REFUSED; a redirect (never followed)          NotStarted        1
    any other status, or no usable build ID                   OutcomeUnknown    1
    TLS fails                                                 NotStarted        1
    the server stops reading                                  NotStarted        1
    no connection, or lost before the whole request was out   NotStarted        3
    lost after the whole request was out                      OutcomeUnknown    1

A GET may always be made again: 3 times on 5xx and where the answer is lost, as above on 429; TLS as above.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from buildkit.display import format_size
from buildkit.errors import NotStarted, OutcomeUnknown, RuntimeBuildError
from buildkit.runtime_api.answer import parse_retry_after
from buildkit.runtime_api.body import JSON, MULTIPART

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildkit.runtime_api.answer import Answer
    from buildkit.runtime_api.transport import NoAnswer

T = TypeVar("T")

ACCEPTED = frozenset({200, 201, 202})
REFUSED = frozenset(
    {400, 401, 402, 403, 404, 405, 406, 407, 410, 411, 413, 414, 415, 417, 421, 422, 426, 428, 431, 451, 501, 505}
)
REDIRECTS = frozenset({300, 301, 302, 303, 307, 308})
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
TOO_MANY, UNAVAILABLE = 429, 503

ONCE, LOST_TRIES, BUSY_TRIES = 1, 3, 6
MAX_RETRY_AFTER_S = 300.0
FIRST_BACKOFF_S, MAX_BACKOFF_S = 1.0, 30.0

_FORM_FIX = "the server may want the other form of upload: UPLOAD_FORMAT={other} invoke upload"
_KEY_FIX = "check RUNTIME_API_KEY; `invoke doctor` shows whether the server takes it"
_FIXES = {
    400: _FORM_FIX,
    401: _KEY_FIX,
    403: _KEY_FIX,
    404: "check RUNTIME_API_URL; `invoke doctor` shows what the server has",
    407: "check the user and the password in HTTPS_PROXY",
    413: "leave files out by EXCLUDE; `invoke context --files` shows the largest ones",
    415: _FORM_FIX,
    422: _FORM_FIX,
    429: "wait, then run `invoke upload` again",
    503: "wait, then run `invoke upload` again",
}
_REACH_FIX = (
    "check RUNTIME_API_URL, the network and any HTTPS_PROXY, then run the same command again; "
    "`invoke doctor` looks closer"
)
_TLS_FIX = "check RUNTIME_API_URL; for a certificate authority of your own set REQUESTS_CA_BUNDLE to its file"
_UNKNOWN_FIX = "look on the server whether the build is there; `FORCE=true invoke upload` submits once more"


class RequestFailed(NotStarted):
    """The Runtime API gave no usable answer, and no build was started.

    Attributes:
        status: HTTP status; None where there was no answer.
        tries: How many times the same request may be made in all.
        retry_after_s: What the server asked for.
        is_passing: It may be over soon: whoever waits anyway should go on.
    """

    def __init__(
        self,
        message: str,
        fix: str,
        *,
        status: int | None = None,
        tries: int = ONCE,
        retry_after_s: float | None = None,
        is_passing: bool = False,
    ) -> None:
        super().__init__(message, fix)
        self.status = status
        self.tries = tries
        self.retry_after_s = retry_after_s
        self.is_passing = is_passing


def repeat(request: Callable[[], T], sleep: Callable[[float], object]) -> T:
    """Return what `request` returns, making it again as far as its failures allow."""
    made = 0
    while True:
        made += 1
        try:
            return request()
        except RequestFailed as failure:
            if made >= failure.tries:
                raise
            pause_s = failure.retry_after_s
        sleep(choose_backoff(made) if pause_s is None else pause_s)


def choose_backoff(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row; drawn, so that clients do not return all at once."""
    limit_s = min(FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 16), MAX_BACKOFF_S)
    return limit_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def judge_post(answer: Answer, url: str, said: str, *, upload_format: str, total_bytes: int) -> RuntimeBuildError:
    """Return the error for an answer to `POST /build` that is not one of `ACCEPTED`.

    Args:
        said: What its body says, safe to show.
    """
    title = f"POST {url}/build answered {answer.title}"
    other = MULTIPART if upload_format == JSON else JSON
    fix = _FIXES.get(answer.status, _UNKNOWN_FIX).format(other=other)
    if _is_busy(answer):
        return _judge_busy(answer, title + said, fix)
    if _is_redirect(answer):
        return _judge_redirect(answer, title)
    if answer.status not in REFUSED:
        return OutcomeUnknown(f"{title}, so a build may have started or not{said}", _UNKNOWN_FIX)
    if answer.status == 404:  # noqa: PLR2004
        title = f"this server builds nothing: {title}"
    if answer.status == 413:  # noqa: PLR2004
        title = f"the upload of {format_size(total_bytes)} is too large for the server: {title}"
    if fix == _UNKNOWN_FIX:
        fix = "check RUNTIME_API_URL; `invoke doctor` shows what the server has"
    if "UPLOAD_FORMAT" in fix:
        title = f"the server refused the upload (UPLOAD_FORMAT={upload_format}): {title}"
    return RequestFailed(title + said, fix, status=answer.status)


def judge_lost_post(lost: NoAnswer, url: str, reason: str, *, sent_bytes: int, total_bytes: int) -> RuntimeBuildError:
    """Return the error for a `POST /build` without an answer.

    Args:
        reason: Why, safe to show.
        sent_bytes: Bytes of the body handed to the connection.
    """
    if sent_bytes >= total_bytes:
        return OutcomeUnknown(
            f"the whole upload went to {url}, but no answer came back ({reason}): a build may have started or not",
            _UNKNOWN_FIX,
        )
    if lost.is_tls and not sent_bytes:
        return RequestFailed(f"no secure connection to {url}: {reason}", _TLS_FIX)
    if not sent_bytes:
        return RequestFailed(f"no connection to {url}: {reason}", _REACH_FIX, tries=LOST_TRIES)
    done = f"{format_size(sent_bytes)} of {format_size(total_bytes)}"
    if lost.timed_out:
        return RequestFailed(
            f"{url} stopped reading after {done} of the upload",
            "run `invoke upload` again; STALL_TIMEOUT is the number of seconds to bear with a stalled upload",
        )
    tries = LOST_TRIES if lost.is_cut or not lost.is_tls else ONCE
    return RequestFailed(f"{url} broke off the upload after {done}: {reason}", _REACH_FIX, tries=tries)


def judge_get(answer: Answer, url: str, said: str) -> RequestFailed:
    """Return the error for an answer to a GET that is not one of `ACCEPTED`."""
    title = f"GET {url} answered {answer.title}"
    fix = _KEY_FIX if answer.status in (401, 403) else _REACH_FIX
    if _is_busy(answer):
        return _judge_busy(answer, title + said, "wait, then run the same command again")
    if _is_redirect(answer):
        return _judge_redirect(answer, title)
    is_passing = answer.status in PASSING or answer.status >= 500 or answer.status < 300  # noqa: PLR2004
    tries = LOST_TRIES if is_passing else ONCE
    return RequestFailed(title + said, fix, status=answer.status, tries=tries, is_passing=is_passing)


def judge_lost_get(lost: NoAnswer, url: str, reason: str) -> RequestFailed:
    """Return the error for a GET without an answer."""
    if lost.is_tls:
        return RequestFailed(f"no secure connection to {url}: {reason}", _TLS_FIX, is_passing=lost.is_cut)
    return RequestFailed(f"no answer from {url}: {reason}", _REACH_FIX, tries=LOST_TRIES, is_passing=True)


def judge_odd_post(answer: Answer, url: str, flaw: str) -> OutcomeUnknown:
    """Return the error for an accepted `POST /build` that gives no build ID to ask for."""
    return OutcomeUnknown(
        f"POST {url}/build answered {answer.title} without a usable build ID: {flaw}; a build has probably started",
        _UNKNOWN_FIX,
    )


def judge_odd_get(answer: Answer, url: str, flaw: str) -> RequestFailed:
    """Return the error for a GET that succeeds and yet says nothing of use."""
    return RequestFailed(
        f"GET {url} answered {answer.title}, but {flaw}",
        "run the same command again; where it stays so, RUNTIME_API_URL may not be a Runtime API",
        status=answer.status,
        tries=LOST_TRIES,
        is_passing=True,
    )


def _is_busy(answer: Answer) -> bool:
    return answer.status == TOO_MANY or (answer.status == UNAVAILABLE and "Retry-After" in answer.headers)


def _is_redirect(answer: Answer) -> bool:
    return answer.status in REDIRECTS and "Location" in answer.headers


def _judge_busy(answer: Answer, message: str, fix: str) -> RequestFailed:
    after_s = parse_retry_after(answer.headers)
    if after_s is not None and after_s > MAX_RETRY_AFTER_S:
        message = f"{message}; it asks to come back after {after_s:.0f} s, which is too long to wait here"
        return RequestFailed(message, fix, status=answer.status, retry_after_s=after_s, is_passing=True)
    return RequestFailed(message, fix, status=answer.status, tries=BUSY_TRIES, retry_after_s=after_s, is_passing=True)


def _judge_redirect(answer: Answer, title: str) -> RequestFailed:
    return RequestFailed(
        f"{title}: it redirects to {_name_target(answer.headers['Location'])}, which is not followed, "
        "because the key would go along",
        "set RUNTIME_API_URL to the server that is really meant",
        status=answer.status,
    )


def _name_target(location: str) -> str:
    """Return where a redirect leads, without user, password, path and query: these may hold secrets."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "an address that is none"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if host else "another path of the same server"
