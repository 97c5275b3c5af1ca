"""What the server does now and then: expire what waits too long, forget old builds, keep the disk free."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from buildkit.errors import LocalError

if TYPE_CHECKING:
    from buildkit.server.server import Server
    from buildkit.ui import Ui

_INTERVAL_S = 5.0


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
            server.delete_contexts()
        if server.contexts.free_bytes() < options.keep_free_bytes:
            server.delete_contexts(of_ended=True)

    def report_builders(self) -> None:
        """Say which builders have begun, or ceased, to respond."""
        for builder in self._server.workers.describe():
            name, problem = builder["name"], builder["problem"]
            if problem and problem != self._problems.get(name):
                self._ui.warn(f"builds wait for {name}: {problem}")
            elif not problem and self._problems.get(name):
                self._ui.report(f"{name} responds again")
            self._problems[name] = problem
