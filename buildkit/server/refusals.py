"""A request that is not carried out: the status, the reason, and when to try again."""

from __future__ import annotations

import errno
from http import HTTPStatus

from buildkit.display import escape_controls

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Refused(Exception):
    """The response to a request that is not carried out; nothing of what was sent is kept.

    Args:
        detail: What is wrong, for people. Control characters are escaped here, so names from an archive can be passed
            as they are.

    Attributes:
        retry_after_s: Seconds after which the same request may succeed; None if it never will.
    """

    def __init__(self, status: HTTPStatus, detail: str, *, retry_after_s: int | None = None) -> None:
        self.status = status
        self.detail = escape_controls(detail)
        self.retry_after_s = retry_after_s
        super().__init__(self.detail)


class Invalid(Refused):
    """What was sent is not what the call takes."""

    def __init__(self, detail: str) -> None:
        super().__init__(HTTPStatus.UNPROCESSABLE_ENTITY, detail)


class InvalidBody(Invalid):
    """The body of a request does not have the expected form."""


class InvalidContext(Invalid):
    """The context is not a tar.gz that an engine can build."""


class TooLarge(Refused):
    """What was sent is larger than the server accepts."""

    def __init__(self, detail: str) -> None:
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


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
