"""One of many images, built by a local engine or by one of several builders."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from buildkit import record
from buildkit.bulk.journal import Ending
from buildkit.bulk.recipe import BASE_IMAGE, write_image
from buildkit.bulk.runner import DiskFull, Interruption, Stalled
from buildkit.display import format_size
from buildkit.engines.docker import Buildx
from buildkit.engines.options import BuildOptions
from buildkit.errors import BuildFailed, NotStarted, run
from buildkit.models import LocalBuild
from buildkit.workspace import BUILD_LOG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from buildkit.bulk.board import Running
    from buildkit.bulk.journal import Journal
    from buildkit.bulk.plan import Image
    from buildkit.bulk.stores import PushedLayers
    from buildkit.engines.engine import Engine
    from buildkit.engines.options import BuiltImage
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

# What the end of a log says if the network, a registry's limit or the disk has ended a build, and not one of its steps.
_TEMPORARY = (
    "toomanyrequests", "429 Too Many Requests", "500 Internal Server Error", "502 Bad Gateway",
    "503 Service Unavailable", "504 Gateway", "connection reset by peer", "TLS handshake timeout", "i/o timeout",
    "unexpected EOF", "connection refused", "Temporary failure in name resolution", "no space left on device",
    "context deadline exceeded",
)  # fmt: skip
# Steps of our Dockerfiles, as BuildKit describes them; the cache of anything else is never touched.
_OURS = "/agent-server|openhands|[.]runtime-build|/opt/(uv|init)/|/lock/|curl=..command -v curl|^.base-(minimal|full) "
# And if it is the base image that is wrong: what to call it.
_WRONG_BASE = {
    "no match for platform in manifest": "is not for this platform",
    "does not match the specified platform": "is not for this platform",
    "exec format error": "is not for this platform",
    "manifest unknown": "does not exist",
    "pull access denied": "does not exist, or needs a login",
    "repository does not exist": "does not exist",
    ": not found": "does not exist",
}


class DiskGuard:
    """Looks at the disk before each build.

    Args:
        keep_free_bytes: 0 if nothing is to be kept free.
        folder: On the disk that counts if the engine does not say where its own folder is.
    """

    def __init__(self, keep_free_bytes: int, folder: Path, ui: Ui) -> None:
        self._keep_free_bytes = keep_free_bytes
        self._folder = folder
        self._ui = ui
        self._lock = threading.Lock()

    def check(self, engine: Engine) -> None:
        """Return if there is room for a build.

        Raises:
            DiskFull: There is not, even after the engine's build cache has been pruned.
        """
        if not self._keep_free_bytes:
            return
        with self._lock:  # one prunes, and the others see the result
            folder = engine.find_data_folder() or str(self._folder)
            free = shutil.disk_usage(folder).free
            if free >= self._keep_free_bytes:
                return
            self._ui.report(f"{format_size(free)} are free on the disk of {folder}: pruning the build cache")
            is_pruned = engine.prune_cache(_OURS)
            free = shutil.disk_usage(folder).free
            if free < self._keep_free_bytes:
                done = (
                    "although our build cache has been pruned" if is_pruned else "and the engine cannot prune our cache"
                )
                raise DiskFull(
                    f"{format_size(free)} are free on the disk of {folder}, less than"
                    f" {format_size(self._keep_free_bytes)}, {done}",
                    "remove images that are no longer needed, or give a smaller --keep-free; then run the same command"
                    " again: it continues where it stopped",
                )


class EngineOptions(NamedTuple):
    """How engines build.

    Attributes:
        network: Of the RUN steps; the engine's own default if empty.
        stall_s: Seconds without a line of the log after which a build is cancelled.
        guard: Asked before each build.
        pushed: What their registry has of the images; None if they stay in the engine.
    """

    network: str
    stall_s: float
    guard: DiskGuard
    pushed: PushedLayers | None


class LocalBuilds:
    """Engines, which share the work; one that is lost comes after the others.

    A base image goes to the same engine each time, which has it in its cache, unless that one has more to do.
    """

    def __init__(self, engines: Sequence[Engine], images: Workspace, journal: Journal, options: EngineOptions) -> None:
        self._images = images
        self._journal = journal
        self._options = options
        self._lock = threading.Lock()
        self._loads = dict.fromkeys(engines, 0)
        self._losses = dict.fromkeys(engines, 0)
        self._running: dict[threading.Event, Running] = {}
        self._stalled: set[threading.Event] = set()

    @property
    def place(self) -> str:
        """Where images are built, for people."""
        return ", ".join(map(name_engine, self._loads))

    def build(self, image: Image, running: Running) -> Ending:
        """Return how the build of an image ended.

        Raises:
            BuildFailed: A step of the build has failed, or its base image is wrong.
            NotStarted: The engine was lost.
            Interruption: The build stalled, or something else outside of it went wrong.
            DiskFull: There is too little room on the disk.
        """
        started = time.monotonic()
        workspace = self._images.child(image.name)
        with workspace.writing(), self._take(image) as engine, self._watch(running) as cancelled:
            running.place = name_engine(engine)
            self._options.guard.check(engine)
            write_image(image.recipe, workspace, image.entry.base)
            self._journal.note_start(image.name, str(image.reference), running.place)
            options = BuildOptions(
                self._options.pushed is not None,
                self._options.network,
                cancelled=cancelled,
                structured=True,
                build_args={BASE_IMAGE: str(image.entry.base)},
            )
            try:
                built = _build(engine, image, options, workspace, running)
            except BuildFailed as failure:
                raise self._explain(failure, image, cancelled) from failure
            workspace.save(LocalBuild(engine.name, str(image.reference), built.image_id, built.digest, built.elapsed_s))
        seconds = round(time.monotonic() - started, 1)
        pushed = self._options.pushed
        pushed_bytes = pushed.count(image) if pushed else None
        return Ending(seconds, digest=built.digest, pushed_bytes=pushed_bytes)

    def cancel_stalled(self) -> None:
        """Cancel the builds that have logged nothing for too long."""
        with self._lock:
            for cancelled, running in self._running.items():
                if time.monotonic() - running.heard > self._options.stall_s:
                    self._stalled.add(cancelled)
                    cancelled.set()

    def cancel_all(self) -> None:
        """Cancel every build, because the run ends."""
        with self._lock:
            for cancelled in self._running:
                cancelled.set()

    @contextmanager
    def _take(self, image: Image) -> Iterator[Engine]:
        with self._lock:
            least = min(self._loads.values())

            def rank(engine: Engine) -> tuple[int, bool, bytes]:
                chance = sha256(f"{name_engine(engine)} {image.entry.base}".encode()).digest()
                return self._losses[engine], self._loads[engine] > least + 1, chance

            engine = min(self._loads, key=rank)
            self._loads[engine] += 1
        try:
            yield engine
        except NotStarted:
            self._losses[engine] += 1
            raise
        else:
            self._losses[engine] = 0
        finally:
            with self._lock:
                self._loads[engine] -= 1

    @contextmanager
    def _watch(self, running: Running) -> Iterator[threading.Event]:
        cancelled = threading.Event()
        with self._lock:
            self._running[cancelled] = running
        try:
            yield cancelled
        finally:
            with self._lock:
                del self._running[cancelled]

    def _explain(self, failure: BuildFailed, image: Image, cancelled: threading.Event) -> BuildFailed | Interruption:
        """Return the error as what it is: only a step that failed makes the build a failed one."""
        if cancelled in self._stalled:
            return Stalled(
                f"its build logged nothing for {self._options.stall_s:g} s and was cancelled",
                f"read the end of its log, {image.name}/{BUILD_LOG}; --stall-timeout waits longer",
            )
        if cancelled.is_set() or any(text in failure.message for text in _TEMPORARY):
            return Interruption(failure.message, f"run {run('images')} again")
        for text, problem in _WRONG_BASE.items():
            if text in failure.message and "failed to " in failure.message:
                return BuildFailed(f"its base image {image.entry.base} {problem}: {failure.message}", failure.fix)
        return failure


def name_engine(engine: Engine) -> str:
    """Return what tells an engine from the others."""
    return (engine.builder if isinstance(engine, Buildx) else "") or engine.name


def _build(engine: Engine, image: Image, options: BuildOptions, workspace: Workspace, running: Running) -> BuiltImage:
    """Build the recipe's archive on the base image; the log goes to a file, which is there while it grows."""
    recipe, images = image.recipe, [str(image.reference), *image.tags]
    with record.open_archive(recipe.workspace, recipe.context) as archive, workspace.growing(BUILD_LOG) as log:

        def report(line: str) -> None:
            running.hear(line)
            log.write(f"{line}\n".encode("utf-8", "backslashreplace"))

        return engine.build(archive, images, options, report)
