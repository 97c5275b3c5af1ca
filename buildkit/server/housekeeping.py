"""What the server no longer needs: builds that waited too long, old builds, and contexts that belong to none."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from buildkit.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.server.contexts import Contexts
    from buildkit.server.server import Server
    from buildkit.server.store import Store
    from buildkit.ui import Ui

_INTERVAL_S = 5.0
_SOURCE_KEPT_S = 3600.0


class Retention:
    """Deletes the contexts that are not needed, and no others.

    Attributes:
        is_deletion_due: Whether contexts are deleted as soon as none is about to become part of a build.
    """

    def __init__(self, contexts: Contexts, store: Store) -> None:
        self._contexts = contexts
        self._store = store
        self.is_deletion_due = False
        self._lock = threading.Lock()  # guards what follows
        self._new_sources: dict[str, float] = {}
        self._unfinished = 0

    def keep_source(self, sha256: str) -> None:
        """Keep a source that no build refers to yet."""
        with self._lock:
            self._new_sources[sha256] = time.time() + _SOURCE_KEPT_S

    def delete_contexts(self, *, of_ended: bool = False) -> None:
        """Delete the contexts that no build refers to.

        Args:
            of_ended: Also those of builds that have ended.
        """
        with self._lock:
            self.is_deletion_due = self._unfinished > 0
            if not self._unfinished:
                self._contexts.delete_unused(self._list_used(of_ended=not of_ended))

    @contextmanager
    def keeping_contexts(self) -> Iterator[None]:
        """Delete no context in the block, in which one becomes part of a build; what is due is deleted after it."""
        with self._lock:
            self._unfinished += 1
        try:
            yield
        finally:
            with self._lock:
                self._unfinished -= 1
            if self.is_deletion_due:
                self.delete_contexts()

    def _list_used(self, *, of_ended: bool) -> set[str]:
        now = time.time()
        self._new_sources = {sha256: until for sha256, until in self._new_sources.items() if until > now}
        return self._store.list_digests(of_ended=of_ended) | set(self._new_sources)


class Housekeeping:
    """A thread that looks after a server, and says what its operator should know."""

    def __init__(self, server: Server, ui: Ui) -> None:
        self._server = server
        self._ui = ui
        self._problems: dict[str, str] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the round that is under way."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_INTERVAL_S):
            try:
                self.tidy(time.time())
                self.report_builders()
            except (LocalError, OSError) as error:
                self._ui.warn(f"housekeeping failed: {error}")

    def tidy(self, now: float) -> None:
        """Expire, forget and delete what is due."""
        server, options = self._server, self._server.options
        server.store.expire(now - options.queue_timeout_s)
        forgotten = server.store.forget(now - options.keep_s)
        for build_id in forgotten:
            server.logs.delete(build_id)
        if forgotten:
            server.retention.delete_contexts()
        if server.contexts.free_bytes() < options.keep_free_bytes:
            server.retention.delete_contexts(of_ended=True)

    def report_builders(self) -> None:
        """Say which builders have begun, or ceased, to respond."""
        for builder in self._server.workers.describe():
            name, problem = builder["name"], builder["problem"]
            if problem and problem != self._problems.get(name):
                self._ui.warn(f"builds wait for {name}: {problem}")
            elif not problem and self._problems.get(name):
                self._ui.report(f"{name} responds again")
            self._problems[name] = problem
