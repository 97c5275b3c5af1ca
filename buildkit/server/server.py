"""The server without its sockets: its directory, its parts, and what can be done with a build."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from buildkit.owned import OwnedFolder
from buildkit.runtime_api.protocol import ENDED
from buildkit.server.attempt import WorkerOptions
from buildkit.server.contexts import Contexts
from buildkit.server.housekeeping import Retention
from buildkit.server.images import find_local_image, find_registry_image, parse_name
from buildkit.server.incoming import Limits
from buildkit.server.keys import Keys
from buildkit.server.logs import Logs
from buildkit.server.records import NewBuild
from buildkit.server.refusals import Refused, refuse_full_disk, refuse_stopping, refuse_unknown
from buildkit.server.store import QueueFull, Store
from buildkit.server.worker import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from buildkit.engines.engine import Engine
    from buildkit.secret import ApiKey
    from buildkit.server.images import StoredImage
    from buildkit.server.incoming import IncomingContext
    from buildkit.server.records import Build

FEATURES = ("idempotency", "contexts", "follow", "cancel", "retry", "builds")
_RETRY_AFTER_S = 30
_STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class ServerOptions:
    """How a server behaves.

    Attributes:
        registry_prefix: What the names of images must begin with, which are then pushed; None if they are not.
        keep_free_bytes: Below this, old contexts are deleted, and then no build is accepted.
        network: Of the engine's RUN steps, such as `host`; its own default if empty.
        key: Accepted in addition to the keys in the directory.
    """

    registry_prefix: str | None = None
    queue_limit: int = 1000
    slots: int = 2
    limits: Limits = field(default_factory=Limits)
    queue_timeout_s: float = 86_400.0
    build_timeout_s: float = 7200.0
    keep_s: float = 30 * 86_400.0
    keep_free_bytes: int = 2_000_000_000
    network: str = ""
    key: ApiKey | None = None


class DataFolder(OwnedFolder):
    """The server's directory, marked like an output directory."""

    setting = "SERVE_DATA"
    example = "./runtime-server"

    @contextmanager
    def opened(self, *protected: Path) -> Iterator[None]:
        """Hold the directory, which only its owner can read."""
        with self.writing(*protected):
            self.path.chmod(0o700)
            yield


class Server:
    """A Runtime API. Its methods may block and may be called from any thread.

    Args:
        path: The directory, which exists and is held.
    """

    def __init__(self, path: Path, engines: Sequence[Engine], options: ServerOptions) -> None:
        self.options = options
        self.engines = engines
        self.store = Store(path / "builds.sqlite3")
        self.contexts = Contexts(path / "contexts")
        self.logs = Logs(path / "logs", options.key.scrub) if options.key else Logs(path / "logs")
        self.keys = Keys(path / "keys", options.key)
        pushes = options.registry_prefix is not None
        worker_options = WorkerOptions(options.slots, options.build_timeout_s, pushes, options.network)
        self.workers = Workers(self.store, self.contexts, self.logs, engines, worker_options)
        self.is_stopping = False
        self.retention = Retention(self.contexts, self.store)

    def start(self) -> None:
        """Queue the builds that a killed server left running, and start to build."""
        self.workers.start()

    def stop(self) -> None:
        """Put running builds back into the queue, and close everything."""
        self.is_stopping = True
        self.workers.stop(_STOP_TIMEOUT_S)
        self.store.close()

    def check_room(self, size_bytes: int) -> None:
        """Refuse a body of that size before it is received.

        Raises:
            Refused: The server is stopping, or the disk has no room.
        """
        if self.is_stopping:
            raise refuse_stopping()
        wanted = self.options.keep_free_bytes + size_bytes
        if self.contexts.free_bytes() < wanted:
            self.retention.delete_contexts(of_ended=True)
            if self.contexts.free_bytes() < wanted:
                raise refuse_full_disk("the disk of the server has no room for this build")

    def accept(self, incoming: IncomingContext, new: NewBuild) -> Build:
        """Store the context that was received and return the queued build, or the one that has its idempotency key.

        Args:
            new: Without what the context says.

        Raises:
            InvalidContext: It ends too early, or has no Dockerfile.
            Refused: The queue is full, or the server is stopping; nothing is kept.
        """
        if self.is_stopping:
            raise refuse_stopping()
        with self.retention.keeping_contexts():
            context = incoming.finish(new.source_sha256)
            described = replace(new, context_sha256=context.sha256, base_image=context.base_image)
            self.retention.is_deletion_due = True  # of this context, if it is refused or repeats another one
            build = self._add(described)
        self.workers.wake()
        return build

    def retry(self, build_id: str, owner: str) -> Build:
        """Return a new build of the same context.

        Raises:
            Refused: There is no such build, it has not ended, its context is deleted, or the queue is full.
        """
        old = self.get(build_id)
        if old.status not in ENDED:
            raise Refused(HTTPStatus.CONFLICT, "the build has not ended yet")
        with self.retention.keeping_contexts():
            if not self.contexts.has(old):
                raise Refused(HTTPStatus.GONE, "the context of this build is no longer stored; upload it again")
            new = NewBuild(old.target_image, old.tags, old.base_image, owner, old.context_sha256, old.source_sha256)
            build = self._add(replace(new, retry_of=old.id))
        self.workers.wake()
        return build

    def _add(self, new: NewBuild) -> Build:
        try:
            return self.store.add(new, self.options.queue_limit)
        except QueueFull as full:
            status = HTTPStatus.TOO_MANY_REQUESTS
            raise Refused(status, full.message, retry_after_s=_RETRY_AFTER_S) from full

    def get(self, build_id: str) -> Build:
        """Return a build.

        Raises:
            Refused: There is no such build.
        """
        build = self.store.get(build_id)
        if build is None:
            raise refuse_unknown("build")
        return build

    def cancel(self, build_id: str) -> Build:
        """Return the build, which is or will be cancelled unless it has ended.

        Raises:
            Refused: There is no such build.
        """
        self.get(build_id)
        self.workers.cancel(build_id)
        return self.get(build_id)

    def find_image(self, image: str) -> StoredImage | None:
        """Return an image that exists, in the registry if images are pushed and in the engine otherwise, or None.

        Raises:
            InvalidBody: It is not an image name, or not below the prefix.
            NotStarted: No engine responds, or the registry does not say.
        """
        prefix = self.options.registry_prefix
        find = find_local_image if prefix is None else find_registry_image
        return find(self.engines, parse_name(image, prefix))

    def describe(self) -> dict[str, Any]:
        """Return what the health of the server is, for programs."""
        counts = self.store.counts()
        builders = self.workers.describe()
        return {
            "status": "stopping" if self.is_stopping else "ok",
            "queued": counts.get("QUEUED", 0),
            "running": counts.get("RUNNING", 0),
            "free_bytes": self.contexts.free_bytes(),
            "builders": builders,
        }
