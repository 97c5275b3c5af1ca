"""Why the server does not accept what was sent, as its response says it."""

from __future__ import annotations

from typing import ClassVar

from buildkit.display import escape_controls


class Rejected(Exception):
    """Base of these errors; nothing of what was sent is kept.

    Args:
        detail: What is wrong. Control characters are escaped here, so names from an archive can be passed as they are.

    Attributes:
        status: Of the response.
    """

    status: ClassVar[int] = 422

    def __init__(self, detail: str) -> None:
        self.detail = escape_controls(detail)
        super().__init__(self.detail)


class InvalidBody(Rejected):
    """The body of a request does not have the expected form."""


class InvalidContext(Rejected):
    """The context is not a tar.gz that an engine can build."""


class TooLarge(Rejected):
    """The context is larger than the server accepts."""

    status = 413
