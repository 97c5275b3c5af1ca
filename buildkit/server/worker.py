"""Workers: each builder gets builds from the queue as it has room for them, and every build that starts also ends."""

from __future__ import annotations

import contextlib
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from buildkit.errors import LocalError
from buildkit.server.attempt import Attempt, Ending, WorkerOptions, explain_interruption
from buildkit.server.builders import Builder, choose_builder
from buildkit.server.steps import format_note
from buildkit.server.store import CANCELLED, INTERNAL_ERROR, QUEUED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit.engines.engine import Engine
    from buildkit.server.attempt import LogWriter
    from buildkit.server.records import Build
    from buildkit.server.store import Store

# How often the queue is looked at without having been woken, and how long a full disk is waited for.
_POLL_S = 1.0


class Contexts(Protocol):
    """Where contexts are stored."""

    def open(self, build: Build) -> int:
        """Return a descriptor from which an engine reads the build's context."""


class Logs(Protocol):
    """Where logs are stored."""

    def open(self, build_id: str) -> LogWriter:
        """Return the log of a build, to which lines are appended."""


class Workers:
    """Builders, and the builds that they are running.

    One thread looks for work, one thread checks each builder, and one thread runs each build.
    """

    def __init__(
        self, store: Store, contexts: Contexts, logs: Logs, engines: Sequence[Engine], options: WorkerOptions
    ) -> None:
        self._store = store
        self._contexts = contexts
        self._logs = logs
        self._options = options
        self._builders = [Builder(engine) for engine in engines]
        self._running: dict[str, tuple[Attempt, threading.Thread]] = {}
        self._lock = threading.Lock()  # guards _running
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._dispatcher = threading.Thread(target=self._dispatch, name="dispatch", daemon=True)

    def start(self) -> None:
        """Queue what was running when the server was killed, and begin to build."""
        for build in self._store.recover():
            note = explain_interruption("the server was killed", is_last=build.status != QUEUED)
            with contextlib.suppress(LocalError, OSError), contextlib.closing(self._logs.open(build.id)) as log:
                log.write(format_note(note))
        for builder in self._builders:
            threading.Thread(target=self._watch, args=(builder,), name=f"check {builder.name}", daemon=True).start()
        self._dispatcher.start()

    def stop(self, timeout_s: float) -> None:
        """Start no more builds, and put those that are running back into the queue.

        Args:
            timeout_s: How long engines may take to stop. Builds of those that take longer go back all the same.
        """
        deadline = time.monotonic() + timeout_s
        self._stopping.set()
        self._woken.set()
        self._dispatcher.join()
        with self._lock:
            running = list(self._running.values())
        for attempt, _ in running:
            attempt.stop(QUEUED)
        for attempt, thread in running:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._store.release(attempt.build)

    def wake(self) -> None:
        """Look for builds in the queue now."""
        self._woken.set()

    def cancel(self, build_id: str) -> Build | None:
        """Return the build as `Store.request_cancel` does, and stop it if it is running."""
        build = self._store.request_cancel(build_id)
        with self._lock:
            running = self._running.get(build_id)
        if running:
            running[0].stop(CANCELLED)
        return build

    def describe(self) -> list[dict[str, Any]]:
        """Return each builder's `name`, `engine`, `problem` (empty if it responds), `running` and `slots`."""
        return [
            {
                "name": builder.name,
                "engine": str(builder.engine),
                "problem": builder.problem,
                "running": self._count_running(builder),
                "slots": self._options.slots,
            }
            for builder in self._builders
        ]

    def _watch(self, builder: Builder) -> None:
        """Check a builder at once, and again and again while it does not respond."""
        while not self._stopping.is_set():
            if builder.problem and builder.check():
                self.wake()
            self._stopping.wait(self._options.check_interval_s)

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            self._woken.wait(_POLL_S)
            self._woken.clear()
            # Without its database the server can start nothing; it tries again.
            with contextlib.suppress(LocalError):
                for builder in self._builders:
                    while self._start_next(builder):
                        pass

    def _start_next(self, builder: Builder) -> bool:
        """Start the oldest build that belongs on this builder, and return whether there was one."""
        if self._stopping.is_set() or builder not in self._list_free():
            return False
        build = self._store.claim(builder.name, partial(self._belongs_on, builder))
        if build is None:
            return False
        attempt = Attempt(build, builder, self._options)
        thread = threading.Thread(target=self._run, args=(attempt,), name=f"build {build.id}", daemon=True)
        with self._lock:
            self._running[build.id] = (attempt, thread)
        thread.start()
        return True

    def _belongs_on(self, builder: Builder, build: Build) -> bool:
        return choose_builder(self._list_free(), build.base_image) is builder

    def _list_free(self) -> list[Builder]:
        """Return the builders that respond and have room for another build."""
        return [
            builder
            for builder in self._builders
            if not builder.problem and self._count_running(builder) < self._options.slots
        ]

    def _count_running(self, builder: Builder) -> int:
        with self._lock:
            return sum(attempt.builder is builder for attempt, _ in self._running.values())

    def _run(self, attempt: Attempt) -> None:
        """Run an attempt and record its ending, whatever happens."""
        build = attempt.build
        ending = Ending(INTERNAL_ERROR, error="the server could not run this build; its own output says why")
        try:
            current = self._store.get(build.id)
            if current and current.cancel_requested:  # between the claim and its registration as running
                attempt.stop(CANCELLED)
            with contextlib.closing(self._logs.open(build.id)) as log:
                ending = attempt.run(self._contexts.open(build), log, partial(self._note_step, build))
        except (LocalError, OSError) as error:
            ending = Ending(INTERNAL_ERROR, error=str(error))
        finally:
            self._record(attempt, ending)
            with self._lock:
                del self._running[build.id]
            self.wake()

    def _note_step(self, build: Build, step: str) -> None:
        with contextlib.suppress(LocalError):  # it is only shown
            self._store.note_step(build, step)

    def _record(self, attempt: Attempt, ending: Ending) -> None:
        """Record an ending, and try again for as long as the database cannot be written."""
        while True:
            try:
                if ending.status != QUEUED:
                    self._store.finish(attempt.build, *ending)
                elif attempt.stopped_as == QUEUED:
                    self._store.release(attempt.build)
                else:
                    self._store.requeue(attempt.build)
            except LocalError:
                if self._stopping.wait(_POLL_S):
                    return  # it is still marked as running, so the next start queues it again
            else:
                return
