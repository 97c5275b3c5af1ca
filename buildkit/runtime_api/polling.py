"""Polling a build until it ends: how often, what is reported, and which failures are waited out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from buildkit.errors import StoppedWatching, run
from buildkit.models import BuildResult
from buildkit.runtime_api.policy import NOT_FOUND
from buildkit.runtime_api.protocol import ENDED, IN_PROGRESS, SUCCESS
from buildkit.runtime_api.retry import RequestFailed, choose_backoff

if TYPE_CHECKING:
    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.runtime_api.protocol import BuildStatus
    from buildkit.ui import Ui

# Some servers return 404 for a moment for an ID that they have just issued.
NOT_FOUND_GRACE_S = 60.0
MAX_RETRY_AFTER_S = 120.0
MAX_INTERVAL_S = 30.0

# The end of a build is noticed within 5 % of its length or 1.5 s, whichever is longer.
_SHARE_OF_ELAPSED = 0.05
_FIRST_PAUSE_S, _SHORT_PAUSE_S = 1.0, 1.5
_MIN_JITTER = 0.8
_MIN_PAUSE_S = 0.01


class WatchedBuild(NamedTuple):
    """A build to poll.

    Attributes:
        status_url: The replica to ask instead of the base URL.
        target_image: What was requested: the result if the server does not name an image.
    """

    build_id: str
    status_url: str | None = None
    target_image: str | None = None


def poll_build(api: RuntimeApi, build: WatchedBuild, *, timeout_s: float, ui: Ui) -> BuildResult:
    """Poll the Runtime API until the build ends, however it ends, and return the result.

    Args:
        timeout_s: Seconds from the first poll, not from submission.

    Raises:
        StoppedWatching: The build may still be running; polling again is safe.
    """
    clock, started = api.clock, api.clock.now()
    watch = _Watch(api, build, ui)
    with ui.live(f"build {build.build_id}") as show:
        while True:
            status = watch.ask(timeout_s - (clock.now() - started))
            elapsed_s = clock.now() - started
            if status is not None and status.status in ENDED:
                break
            if elapsed_s >= timeout_s:
                raise watch.stop(
                    f"the build did not end within {timeout_s:g} s", limit=" (BUILD_TIMEOUT sets the limit)"
                )
            if status is not None:
                show(status.status or "", status.detail)
            pause_s = max(choose_interval(elapsed_s, clock.random()), watch.requested_pause_s)
            sleep = clock.back_off if clock.back_off and watch.requested_pause_s else clock.sleep
            sleep(max(min(pause_s, timeout_s - elapsed_s), _MIN_PAUSE_S))
    return _conclude(build, status, elapsed_s, ui)


def choose_interval(elapsed_s: float, drawn: float) -> float:
    """Return the seconds until the next poll: short at first, then a share of the elapsed time.

    Args:
        drawn: From 0 to 1; makes the interval up to a fifth shorter, so that clients do not poll in step.
    """
    short_s = min(_FIRST_PAUSE_S + elapsed_s / 4, _SHORT_PAUSE_S)
    longest_s = max(short_s, _SHARE_OF_ELAPSED * elapsed_s)
    return min(longest_s * (_MIN_JITTER + (1 - _MIN_JITTER) * drawn), MAX_INTERVAL_S)


class _Watch:
    """What is remembered between two polls, so that each thing is reported once."""

    def __init__(self, api: RuntimeApi, build: WatchedBuild, ui: Ui) -> None:
        self._api = api
        self._build = build
        self._ui = ui
        self._resume = run("wait", "--build-id", build.build_id)
        self.requested_pause_s = 0.0
        self._shown: str | None = None
        self._warned: set[str] = set()
        self._failures = 0
        self._missing_since: float | None = None
        self._last_failure = ""

    def ask(self, within_s: float) -> BuildStatus | None:
        """Return the state of the build, or None if this poll failed and the next one may succeed."""
        try:
            status = self._api.build_status(self._build.build_id, self._build.status_url, within_s=within_s)
        except RequestFailed as failure:
            self._wait_out(failure)
            return None
        self._failures, self._missing_since, self._last_failure, self.requested_pause_s = 0, None, "", 0.0
        self._show(status.status)
        return status

    def stop(self, why: str, *, limit: str = "") -> StoppedWatching:
        """Return the error that says how to resume."""
        last = f"; its last status was {self._shown}" if self._shown else ""
        failure = f"; the last poll failed: {self._last_failure}" if self._last_failure else ""
        return StoppedWatching(
            f"{why}{last}{failure}; build {self._build.build_id} may still be running",
            f"to resume waiting, run {self._resume}{limit}",
        )

    def _show(self, status: str | None) -> None:
        if status is None:
            self._warn_once("the server does not return the status of the build; still waiting")
            return
        if status not in ENDED and status not in IN_PROGRESS:
            self._warn_once(f"unknown build status {status}; still waiting")
        if status != self._shown:
            self._ui.report(f"Build status: {status}")
            self._shown = status

    def _wait_out(self, failure: RequestFailed) -> None:
        """Return if the failure may be temporary; raise otherwise."""
        clock = self._api.clock
        if failure.status == NOT_FOUND:
            now = clock.now()
            self._missing_since = now if self._missing_since is None else self._missing_since
            if now - self._missing_since >= NOT_FOUND_GRACE_S:
                raise self.stop(f"the server does not know the build: {failure.message}") from failure
        elif not failure.retry.is_transient:
            raise StoppedWatching(
                f"{failure.message}; build {self._build.build_id} may still be running",
                f"{failure.fix}; then run {self._resume}",
            ) from failure
        self._failures += 1
        self._last_failure = failure.message
        after_s = min(failure.retry.after_s or 0.0, MAX_RETRY_AFTER_S)
        self.requested_pause_s = max(choose_backoff(self._failures, clock), after_s)
        self._warn_once(f"{failure.message}; asking again")

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._ui.warn(text)


def _conclude(build: WatchedBuild, status: BuildStatus, elapsed_s: float, ui: Ui) -> BuildResult:
    image = status.image
    if status.status == SUCCESS and image is None:
        image = build.target_image
        said = f"returned an invalid image: '{status.invalid_image}'" if status.invalid_image else "names no image"
        ui.warn(f"the server {said}; " + ("using the requested name" if image else "the requested name is not known"))
    return BuildResult(build.build_id, status.status or "", image, status.error, round(elapsed_s, 3))
