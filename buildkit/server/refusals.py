"""A request that is not carried out: the status, the reason, and when to try again."""

from __future__ import annotations

import errno
from http import HTTPStatus

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Refused(Exception):
    """The response to a request that is not carried out.

    Attributes:
        detail: What is wrong, for people.
        retry_after_s: Seconds after which the same request may succeed; None if it never will.
    """

    def __init__(self, status: HTTPStatus, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s


def refuse_unknown(what: str) -> Refused:
    """Return the refusal of something that does not exist."""
    return Refused(HTTPStatus.NOT_FOUND, f"there is no such {what}")


def refuse_stopping() -> Refused:
    """Return the refusal of a server that is about to exit."""
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping", retry_after_s=10)


def refuse_full_disk(reason: str) -> Refused:
    """Return the refusal of a build that there is no room for."""
    return Refused(HTTPStatus.INSUFFICIENT_STORAGE, reason)


def explain_os_error(error: OSError) -> Refused:
    """Return the refusal for a file that cannot be written; its path is nobody's business."""
    if error.errno in _DISK_FULL:
        return refuse_full_disk("the disk of the server is full")
    return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "the server cannot access its files")
