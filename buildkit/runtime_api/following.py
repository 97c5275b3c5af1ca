"""The log of a build that is waited for: while it grows, shown by a thread beside the polling, or the end of it.

The polling alone decides how the build ended.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from buildkit.errors import RuntimeBuildError, run
from buildkit.runtime_api.events import open_events
from buildkit.runtime_api.log import MAX_LOG_BYTES, TOO_LONG, format_line
from buildkit.runtime_api.policy import NOT_FOUND
from buildkit.runtime_api.protocol import FOLLOW
from buildkit.runtime_api.response import InvalidResponse, shorten
from buildkit.runtime_api.retry import RequestFailed, choose_backoff

if TYPE_CHECKING:
    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.runtime_api.events import Event
    from buildkit.ui import Ui

# A command ends within 10 s of the final status; what has arrived must still be shown in that time.
TAIL_LINES, TAIL_LINE_BYTES, TAIL_S = 40, 1024, 8.0
# Once the build has ended, this long without a line means that no more will come.
_QUIET_S = 3.0
_TICK_S, _SHORT_PAUSE_S = 0.05, 0.2
_END = "end"


class LogFollower:
    """Shows the log in the `with` block, as far as the server sends it. What fails is reported at most, never raised.

    Attributes:
        is_complete: The whole log has been shown.
    """

    def __init__(self, api: RuntimeApi, build_id: str, ui: Ui) -> None:
        self.is_complete = False
        self._api = api
        self._build_id = build_id
        self._ui = ui
        self._last_id: str | None = None
        self._failures = 0
        self._shown_bytes = 0
        self._heard_at = time.monotonic()
        self._ended = threading.Event()
        self._stopped = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._ended.set()
        with self._writing:  # nothing is written after this; the thread itself may still wait for the server
            pass

    def finish(self, within_s: float) -> None:
        """Wait until the log of a build that has ended is complete, but no longer than lines keep coming."""
        self._ended.set()
        now = time.monotonic()
        deadline, self._heard_at = now + within_s, now
        while self._thread.is_alive() and now < min(deadline, self._heard_at + _QUIET_S):
            self._thread.join(_TICK_S)
            now = time.monotonic()
        if self._thread.is_alive():
            self._report(f"the log may not be complete; {run('logs', '--build-id', self._build_id)} shows all of it")

    def _follow(self) -> None:
        if FOLLOW not in self._api.features():
            self._report("this Runtime API cannot show a log while it grows (it does not list `follow`); still waiting")
            return
        while not self._stopped.is_set():
            opened_at, requested_pause_s = time.monotonic(), 0.0
            try:
                if self._read_stream():
                    return
            except RequestFailed as failure:
                # A build that has just been accepted may not be known everywhere yet.
                if not failure.retry.is_transient and failure.status != NOT_FOUND:
                    self._report(f"the log cannot be followed: {failure.message}")
                    return
                requested_pause_s = failure.retry.after_s or 0.0
            except InvalidResponse as invalid:
                self._report(f"the log cannot be followed: {invalid}")
                return
            # A stream that lasted has not failed; it is opened again at once.
            is_over = time.monotonic() - opened_at >= self._api.network.idle_s
            self._failures = 0 if is_over else self._failures + 1
            if self._failures:
                self._pause(max(choose_backoff(self._failures, self._api.clock), requested_pause_s))

    def _pause(self, pause_s: float) -> None:
        """Wait before the next stream is opened; not for long once the build has ended."""
        self._stopped.wait(_SHORT_PAUSE_S)
        self._ended.wait(pause_s - _SHORT_PAUSE_S)

    def _read_stream(self) -> bool:
        """Show what one stream brings; return whether nothing is left to show."""
        with open_events(self._api, self._build_id, self._last_id) as events:
            for event in events:
                if event.name == _END:
                    self.is_complete = True
                    return True
                if not self._show(event):
                    return True
                self._last_id = event.event_id or self._last_id
                self._failures = 0
        return False

    def _show(self, event: Event) -> bool:
        """Return whether more may be shown."""
        self._heard_at = time.monotonic()
        for line in event.lines:
            self._shown_bytes += len(line) + 1
            if self._shown_bytes > MAX_LOG_BYTES:
                self._report(TOO_LONG)
                return False
            for part in format_line(line):
                self._report(part)
        return not self._stopped.is_set()

    def _report(self, line: str) -> None:
        with self._writing:
            if not self._stopped.is_set():
                self._ui.report(line)


def read_tail(api: RuntimeApi, build_id: str, ui: Ui, *, within_s: float = TAIL_S) -> list[str]:
    """Return the last lines of a build's log, each of them shortened; a log that cannot be read is only a warning.

    Args:
        within_s: Seconds that may be spent on it, at most `TAIL_S`.
    """
    if within_s <= 0:
        return []
    try:
        with api.build_logs(build_id, within_s=min(within_s, TAIL_S)) as lines:
            parts = (part for line in lines or () for part in format_line(line, TAIL_LINE_BYTES))
            return [shorten(part, TAIL_LINE_BYTES) for part in deque(parts, TAIL_LINES)]
    except RuntimeBuildError as error:
        ui.warn(f"the log cannot be read: {error.message}")
        return []
