"""Making a request again: how many times, and after which pause."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from buildkit.errors import NotStarted

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_LOST_TRIES = 3
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 1.0, 30.0


class Clock(NamedTuple):
    """Time and chance; replaced in tests, so that no test waits.

    Attributes:
        back_off: Sleeps after a failure that everybody who asks the same server would meet; `sleep` if None.
        begin: Called before each request; returns when it may be made.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    random: Callable[[], float] = random.random
    back_off: Callable[[float], object] | None = None
    begin: Callable[[], object] = lambda: None


class Retry(NamedTuple):
    """Whether a failed request may be repeated.

    Attributes:
        tries: How many times the same request may be made in all.
        after_s: What the server asked for.
        is_transient: It may be over soon: whoever polls should continue.
    """

    tries: int = 1
    after_s: float | None = None
    is_transient: bool = False


NEVER, TRANSIENT = Retry(), Retry(_LOST_TRIES, is_transient=True)


class RequestFailed(NotStarted):
    """The Runtime API gave no usable response, and no build was started.

    Attributes:
        status: HTTP status; None if there was no response.
    """

    def __init__(self, message: str, fix: str, *, status: int | None = None, retry: Retry = NEVER) -> None:
        super().__init__(message, fix)
        self.status = status
        self.retry = retry


def repeat(request: Callable[[], T], clock: Clock) -> T:
    """Return what `request` returns, repeating it as far as its failures allow."""
    made = 0
    while True:
        made += 1
        try:
            return request()
        except RequestFailed as failure:
            if made >= failure.retry.tries:
                raise
            pause_s = failure.retry.after_s
        (clock.back_off or clock.sleep)(choose_backoff(made, clock) if pause_s is None else pause_s)


def choose_backoff(failures: int, clock: Clock) -> float:
    """Return the seconds to wait after so many failures in a row; random, so that clients do not return all at once."""
    limit_s = min(_FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 16), _MAX_BACKOFF_S)
    return limit_s * (1 + clock.random()) / 2
