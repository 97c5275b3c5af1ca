"""What is going on: the images that are being built, what has ended and how, and when all of it will be done."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from buildkit.bulk.plan import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from buildkit.bulk.plan import Image

# Lines of BuildKit: `#7 [deps 3/5] RUN …` when a step begins, `#7 0.123 …` while it runs, `#7 DONE 1.2s` at its end.
_STEP = re.compile(r"#(\d+) (?:(\[[^\]]+\] .+)|(DONE|CACHED|CANCELED|ERROR)\b|\d+\.\d+ )")
_SHOWN_FAILURES = 5


@dataclass
class Running:
    """An image that is being built.

    Attributes:
        step: What it is doing, for people.
        heard: When it last said anything.
        steps: Those that have begun and not ended, by number; the one that said something last is the last.
    """

    name: str
    place: str
    started: float = field(default_factory=time.monotonic)
    step: str = "starting"
    heard: float = field(default_factory=time.monotonic)
    steps: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started

    def hear(self, line: str) -> None:
        """Note a line of its log."""
        self.heard = time.monotonic()
        match = _STEP.match(line)
        if match is None:
            return
        number, title, end = match.groups()
        known = self.steps.pop(number, None)
        title = title or known
        if title and not end:
            self.steps[number] = title
        self.step = next(reversed(self.steps.values()), self.step)


class Snapshot(NamedTuple):
    """The board at one moment.

    Attributes:
        failures: The last ones, each with its reason.
        per_hour: Images, while this run has been building; None before the first one.
        left_s: Seconds until everything is done; None if nothing tells yet.
    """

    total: int
    done: int
    failed: int
    running: list[Running]
    failures: list[tuple[str, str]]
    per_hour: float | None
    left_s: float | None


class Board:
    """Counts and rows; threads write to it, and nothing is decided by it.

    Args:
        seconds: How long earlier images took, for an estimate before the first one is done.
    """

    def __init__(self, images: Sequence[Image], workers: int, seconds: Sequence[float]) -> None:
        self._lock = threading.Lock()
        self._total = len(images)
        self._workers = workers
        self._done = sum(image.is_there for image in images)
        self._failed = sum(image.state is State.FAILED for image in images)
        self._running: dict[str, Running] = {}
        self._failures: deque[tuple[str, str]] = deque(maxlen=_SHOWN_FAILURES)
        self._seconds: deque[float] = deque(seconds, maxlen=200)
        self._ended = 0
        self._started = time.monotonic()

    @contextmanager
    def row(self, name: str, place: str) -> Iterator[Running]:
        """Show an image as running in the block."""
        running = Running(name, place)
        with self._lock:
            self._running[name] = running
        try:
            yield running
        finally:
            with self._lock:
                del self._running[name]

    def end(self, image: Image) -> str:
        """Count an image that is done or has failed, and return its place among all of them, such as `17/500`."""
        with self._lock:
            self._ended += 1
            if image.is_there:
                self._done += 1
                self._seconds.append(image.seconds or 0.0)
            else:
                self._failed += 1
                self._failures.append((image.name, image.error))
            return f"{self._done + self._failed}/{self._total}"

    def look(self) -> Snapshot:
        """Return what there is to show now."""
        with self._lock:
            running = sorted(self._running.values(), key=lambda row: row.started)
            elapsed_s = time.monotonic() - self._started
            per_hour = self._ended / elapsed_s * 3600 if self._ended and elapsed_s else None
            return Snapshot(
                self._total,
                self._done,
                self._failed,
                running,
                list(self._failures),
                per_hour,
                self._estimate(elapsed_s),
            )

    def _estimate(self, elapsed_s: float) -> float | None:
        """Return the seconds that are left: from the rate of this run once it has one, before from earlier images."""
        left = self._total - self._done - self._failed
        if self._ended >= self._workers:
            return left * elapsed_s / self._ended
        if not self._seconds:
            return None
        running = [row.seconds for row in self._running.values()]
        mean_s = max(sum(self._seconds) / len(self._seconds), *running, 0.0)
        return left * mean_s / max(1, min(self._workers, left))
