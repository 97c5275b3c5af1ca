"""Threads that work through a list, and the pause that all of them obey: what one learns of a busy server, all know.

The main thread waits, so that a signal or the first error ends the run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

T = TypeVar("T")

_TICK_S = 0.2
# Our own exit may take two seconds after a signal; an engine's client gets most of them to cancel its build.
_STOP_S = 1.8
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


class Workers:
    """A number of threads for one pace; they are daemons, because nothing that they may be waiting for can be aborted.

    Args:
        tick: Called in the main thread a few times a second.
        cancel: Called once if the run ends early: makes an end to what does not obey the pace.
    """

    def __init__(
        self,
        count: int,
        pace: Pace,
        tick: Callable[[], None] = lambda: None,
        cancel: Callable[[], None] = lambda: None,
    ) -> None:
        self._count = count
        self._pace = pace
        self._tick = tick
        self._cancel = cancel

    def run(self, items: Iterable[T], work: Callable[[T], bool]) -> None:
        """Return when `work` is through with every item; an item for which it returns True comes up again, at the end.

        Raises:
            BaseException: The first that `work` raises, or an interruption; everything is told to stop.
        """
        queue = _Queue(items)
        names = range(min(self._count, len(queue.pending)))
        threads = [threading.Thread(target=queue.drain, args=(work,), name=f"worker {n}", daemon=True) for n in names]
        for thread in threads:
            thread.start()
        try:
            while not queue.wait(_TICK_S):
                self._tick()
        except BaseException:
            self._end(threads)
            raise
        if queue.error is not None:
            self._end(threads)
            raise queue.error

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        """Tell everything to stop, and give it a moment."""
        self._pace.stop()
        self._cancel()
        deadline = time.monotonic() + _STOP_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


class _Queue:
    """What is left to do, how much of it is being done, and the first error.

    Attributes:
        pending: Items that no thread has taken.
    """

    def __init__(self, items: Iterable[object]) -> None:
        self.pending = deque(items)
        self.error: BaseException | None = None
        self._running = 0
        self._changed = threading.Condition()

    @property
    def _is_done(self) -> bool:
        return self.error is not None or not (self.pending or self._running)

    def wait(self, timeout_s: float) -> bool:
        """Return whether nothing is left to do, or the first error has ended the run."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_done, timeout_s)

    def drain(self, work: Callable[..., bool]) -> None:
        """Work until nothing is left."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.pending or self._is_done)
                if self._is_done:
                    return
                item = self.pending.popleft()
                self._running += 1
            error, again = None, False
            try:
                again = work(item)
            except Stopped:
                return
            except BaseException as caught:  # noqa: BLE001 - raised in the main thread, which waits for it
                error = caught
            with self._changed:
                self._running -= 1
                self.error = self.error or error
                if again:
                    self.pending.append(item)
                self._changed.notify_all()
