"""The step that asks how a build stands until it has ended."""

from __future__ import annotations

import random as _random
import shlex
import time
from typing import TYPE_CHECKING

from buildkit.errors import BuildFailed, StoppedWatching
from buildkit.models import BuildResult
from buildkit.runtime_api.policy import RequestFailed, choose_backoff
from buildkit.runtime_api.replies import ENDED

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.runtime_api.replies import BuildStatus

SUCCESS = "SUCCESS"
_GOING_ON = frozenset({"PENDING", "QUEUED", "RUNNING", "WORKING"})
_NOT_FOUND = 404

# Some servers answer 404 for a moment for an ID that they have just given.
NOT_FOUND_GRACE_S = 60.0
MAX_RETRY_AFTER_S = 120.0

# The end of a build is to be seen within 5 % of its length or 1.5 s, whichever is larger.
_SHARE_OF_ELAPSED = 0.05
_FIRST_PAUSE_S, _SHORT_PAUSE_S = 1.0, 1.5
_LEAST_JITTER = 0.8
_LEAST_PAUSE_S = 0.01


class BuildEndedBadly(BuildFailed):
    """The build ended without an image; `result` says how."""

    def __init__(self, message: str, fix: str, result: BuildResult) -> None:
        super().__init__(message, fix)
        self.result = result


def poll_build(
    api: RuntimeApi,
    build_id: str,
    *,
    status_url: str | None,
    timeout_s: float,
    poll_interval_s: float,
    report: Callable[[str], None],
    warn: Callable[[str], None],
    target_image: str | None = None,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    random: Callable[[], float] = _random.random,
) -> BuildResult:
    """Return how the build ended, asking the Runtime API until it does.

    Args:
        api: Stays open; the caller closes it.
        status_url: The replica to ask instead of the base URL.
        timeout_s: Seconds from the first poll, not from submission.
        poll_interval_s: The longest pause between two polls.
        target_image: What was asked for: named where the server does not name the image.
        sleep: Replaced in tests, so that no test waits.
        clock: Monotonic: a wall clock may jump.
        random: Returns from 0 to 1.

    Raises:
        BuildEndedBadly: The build failed; carries the API's message.
        StoppedWatching: The build may go on; polling again is safe.
    """
    watch = _Watch(api, build_id, status_url, started=clock(), clock=clock, report=report, warn=warn)
    while True:
        left_s = timeout_s - watch.elapsed_s()
        status = watch.ask(left_s)
        if status is not None and status.status in ENDED:
            return _conclude(status, watch, target_image)
        elapsed_s = watch.elapsed_s()
        if elapsed_s >= timeout_s:
            raise watch.stop(f"the build did not end within {timeout_s:g} s", raise_limit=True)
        pause_s = max(choose_pause(elapsed_s, poll_interval_s, random()), watch.asked_pause_s)
        sleep(max(min(pause_s, timeout_s - elapsed_s), _LEAST_PAUSE_S))


def choose_pause(elapsed_s: float, poll_interval_s: float, drawn: float) -> float:
    """Return the seconds until the next poll: short at first, then a share of the time that has passed.

    Args:
        drawn: From 0 to 1; makes the pause up to a fifth shorter, so that clients do not poll in step.
    """
    short_s = min(_FIRST_PAUSE_S + elapsed_s / 4, _SHORT_PAUSE_S)
    longest_s = max(short_s, _SHARE_OF_ELAPSED * elapsed_s)
    return min(longest_s * (_LEAST_JITTER + (1 - _LEAST_JITTER) * drawn), poll_interval_s)


class _Watch:
    """What is remembered from one poll to the next, so that each thing is said once."""

    def __init__(
        self,
        api: RuntimeApi,
        build_id: str,
        status_url: str | None,
        *,
        started: float,
        clock: Callable[[], float],
        report: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._api = api
        self.build_id = build_id
        self._status_url = status_url
        self._started = started
        self._clock = clock
        self.report = report
        self.warn = warn
        self.asked_pause_s = 0.0
        self._shown: str | None = None
        self._warned: set[str] = set()
        self._failures = 0
        self._missing_since: float | None = None
        self._trouble = ""

    def elapsed_s(self) -> float:
        return self._clock() - self._started

    def ask(self, within_s: float) -> BuildStatus | None:
        """Return how the build stands; None where the answer is of no use but may be next time."""
        try:
            status = self._api.build_status(self.build_id, self._status_url, within_s=within_s)
        except RequestFailed as failure:
            self._bear(failure)
            return None
        self._failures, self._missing_since, self._trouble, self.asked_pause_s = 0, None, "", 0.0
        self._show(status.status)
        return status

    def stop(self, why: str, *, raise_limit: bool = False) -> StoppedWatching:
        """Return the error that says how to come back."""
        resume = f"invoke wait --build-id {shlex.quote(self.build_id)}"
        limit = " (BUILD_TIMEOUT is the limit in seconds)" if raise_limit else ""
        last = f"; its last status was {self._shown}" if self._shown else ""
        trouble = f"; the last poll failed: {self._trouble}" if self._trouble else ""
        return StoppedWatching(
            f"{why}{last}{trouble}; build {self.build_id} may still go on", f"to watch it again: `{resume}`{limit}"
        )

    def _show(self, status: str | None) -> None:
        if status is None:
            self._warn_once("the server does not say how the build stands; waiting on")
            return
        if status not in ENDED and status not in _GOING_ON:
            self._warn_once(f"the status {status} is not one that is known; waiting on")
        if status != self._shown:
            self.report(f"Build status: {status}")
            self._shown = status

    def _bear(self, failure: RequestFailed) -> None:
        """Take a failed poll as something that passes, or give up."""
        if failure.status == _NOT_FOUND:
            now = self._clock()
            self._missing_since = now if self._missing_since is None else self._missing_since
            if now - self._missing_since >= NOT_FOUND_GRACE_S:
                raise self.stop(f"the server does not know the build: {failure.message}") from failure
        elif not failure.is_passing:
            raise StoppedWatching(
                f"{failure.message}; build {self.build_id} may still go on",
                f"{failure.fix}; then `invoke wait --build-id {shlex.quote(self.build_id)}`",
            ) from failure
        self._failures += 1
        self._trouble = failure.message
        after_s = min(failure.retry_after_s or 0.0, MAX_RETRY_AFTER_S)
        self.asked_pause_s = max(choose_backoff(self._failures), after_s)
        self._warn_once(f"{failure.message}; asking again")

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self.warn(text)


def _conclude(status: BuildStatus, watch: _Watch, target_image: str | None) -> BuildResult:
    """Return the result of a success; any other end is raised."""
    image = status.image
    if status.status == SUCCESS and image is None:
        image = target_image
        watch.warn("the server does not name the image; the one that was asked for is taken for it")
    result = BuildResult(
        build_id=watch.build_id,
        status=status.status or "",
        image=image,
        error=status.error,
        elapsed_s=round(watch.elapsed_s(), 3),
    )
    if result.status != SUCCESS:
        said = f": {result.error}" if result.error else ", and the server does not say why"
        raise BuildEndedBadly(
            f"build {result.build_id} ended as {result.status}{said}",
            f"read its log: `invoke logs --build-id {shlex.quote(result.build_id)}`",
            result,
        )
    watch.report("✅ Build completed successfully!")
    if image:
        watch.report(f"🎉 Image: {image}")
    return result
