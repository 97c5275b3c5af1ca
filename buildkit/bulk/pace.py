"""One pause for all workers: what one of them learns of a busy server or a lost engine, every one of them obeys."""

from __future__ import annotations

import threading
import time

# A pause that nobody asked for: doubled with each failure in a row, so that a server which is down is left alone.
_FIRST_PAUSE_S, _MAX_PAUSE_S = 1.0, 60.0


class Stopped(BaseException):
    """The run ends; a worker that is waiting stops. Not an `Exception`, so that nothing mistakes it for a failure."""


class Pace:
    """Lets workers begin things, unless a pause holds or the run has been stopped.

    Attributes:
        failures: Of what everybody needs, in a row; each has made everybody pause.
    """

    def __init__(self, stopped: threading.Event | None = None) -> None:
        self._stopped = stopped or threading.Event()
        self._lock = threading.Lock()
        self._until = 0.0
        self.failures = 0

    @property
    def left_s(self) -> float:
        """Seconds until the pause ends, or 0 outside a pause."""
        return max(0.0, self._until - time.monotonic())

    def fork(self) -> Pace:
        """Return a pace with pauses of its own, for something else that is needed; it stops with this one."""
        return Pace(self._stopped)

    def stop(self) -> None:
        """End every wait, now and later, with `Stopped`."""
        self._stopped.set()

    def wait(self) -> None:
        """Return when no pause holds.

        Raises:
            Stopped: The run ends.
        """
        while left_s := self.left_s:
            self.sleep(left_s)
        self.sleep(0)

    def sleep(self, seconds: float) -> None:
        """Sleep.

        Raises:
            Stopped: The run ends.
        """
        if self._stopped.wait(seconds):
            raise Stopped

    def back_off(self, seconds: float) -> None:
        """Make everybody pause, and return when the pause is over.

        Raises:
            Stopped: The run ends.
        """
        with self._lock:
            self._until = max(self._until, time.monotonic() + seconds)
        self.wait()

    def fail(self) -> None:
        """Make everybody pause because something that all of them need has failed; longer with each time in a row."""
        with self._lock:
            if not self.left_s:  # what fails during a pause had begun before it
                pause_s = min(_FIRST_PAUSE_S * 2.0 ** min(self.failures, 16), _MAX_PAUSE_S)
                self._until = time.monotonic() + pause_s
                self.failures += 1

    def succeed(self) -> None:
        """Note that what all of them need works."""
        self.failures = 0
