"""One attempt to build: an engine reads the context, the log grows, and the attempt ends in one of the statuses."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from buildkit.engines.options import BuildOptions
from buildkit.errors import BuildFailed, LocalError, NotStarted
from buildkit.runtime_api.protocol import SUCCESS
from buildkit.server.steps import format_note, format_start, read_title
from buildkit.server.store import CANCELLED, FAILURE, MAX_ATTEMPTS, QUEUED, TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildkit.server.builders import Builder
    from buildkit.server.records import Build

    NoteStep = Callable[[str], None]


class LogWriter(Protocol):
    """A log that takes lines."""

    def write(self, line: str) -> None:
        """Append a line."""

    def close(self) -> None:
        """Finish writing."""


class WorkerOptions(NamedTuple):
    """How builds are run.

    Attributes:
        slots: Builds at a time on each builder.
        build_timeout_s: Seconds that one attempt may take.
        push: Whether images go to their registry.
        network: Of the RUN steps, such as `host`; the engine's own default if empty.
        check_interval_s: Seconds between two checks of a builder that does not respond.
    """

    slots: int = 2
    build_timeout_s: float = 3600.0
    push: bool = False
    network: str = ""
    check_interval_s: float = 5.0


class Ending(NamedTuple):
    """How an attempt ended; QUEUED if it was interrupted and nothing is known about the build itself."""

    status: str
    image: str | None = None
    error: str | None = None


class Attempt:
    """One run of a claimed build on a builder."""

    def __init__(self, build: Build, builder: Builder, options: WorkerOptions) -> None:
        self.build = build
        self.builder = builder
        self.stopped_as: str | None = None
        self._options = options
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    def stop(self, status: str) -> None:
        """Stop the engine, from any thread, so that the attempt ends in that status; the first call decides."""
        with self._lock:
            self.stopped_as = self.stopped_as or status
        self._cancelled.set()

    def run(self, context: int, log: LogWriter, note_step: NoteStep) -> Ending:
        """Build the context and return how that ended.

        Args:
            context: Descriptor of the tar.gz; it is closed.
            note_step: Called with the title of each step that begins.

        Raises:
            LocalError, OSError: The log cannot be written, or the engine's temporary files cannot.
        """
        timer = threading.Timer(self._options.build_timeout_s, self.stop, [TIMEOUT])
        timer.daemon = True
        timer.start()
        try:
            log.write(format_start(self._describe()))
            ending = self._build(context, log, note_step)
        finally:
            timer.cancel()
            os.close(context)
        with contextlib.suppress(LocalError, OSError):  # a full disk does not change how the build has ended
            log.write(format_note(self._explain(ending)))
        return ending

    def _build(self, context: int, log: LogWriter, note_step: NoteStep) -> Ending:
        def report(line: str) -> None:
            log.write(line)
            if title := read_title(line):
                note_step(title)

        images = list(dict.fromkeys([self.build.target_image, *self.build.tags]))
        options = BuildOptions(self._options.push, self._options.network, cancelled=self._cancelled, structured=True)
        try:
            self.builder.engine.build(context, images, options, report)
        except BuildFailed as failure:
            return self._end(FAILURE, failure.message)
        except NotStarted as refusal:
            if not self._cancelled.is_set():
                self.builder.problem = refusal.message
            return self._end(QUEUED, refusal.message)
        return Ending(SUCCESS, self.build.target_image)

    def _end(self, status: str, error: str) -> Ending:
        """Return the ending of an engine that stopped by itself, or because it was told to."""
        if self.stopped_as == TIMEOUT:
            return Ending(TIMEOUT, error=f"did not finish within {self._options.build_timeout_s:g} s")
        if self.stopped_as == CANCELLED:
            return Ending(CANCELLED)
        if self.stopped_as == QUEUED:
            return Ending(QUEUED, error="the server stops")
        return Ending(status, error=error)

    def _describe(self) -> str:
        build = self.build
        return f"{build.target_image} with {self.builder.name} (attempt {build.attempts} of {MAX_ATTEMPTS})"

    def _explain(self, ending: Ending) -> str:
        if ending.status != QUEUED:
            return f"{ending.status}: {ending.error}" if ending.error else ending.status
        is_last = self.stopped_as != QUEUED and self.build.attempts >= MAX_ATTEMPTS
        return explain_interruption(ending.error or "", is_last=is_last)


def explain_interruption(reason: str, *, is_last: bool) -> str:
    """Return what the log says about an attempt that was interrupted."""
    return f"interrupted: {reason}; {'this was the last attempt' if is_last else 'the build is queued again'}"
