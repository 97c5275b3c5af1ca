"""The two ways to build many images: a Runtime API does it, or local engines do."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

from buildkit.bulk.libraries import PROBE, choose_builder_images, need_builder_image, parse_probe
from buildkit.bulk.local import DiskGuard, EngineOptions, LocalBuilds
from buildkit.bulk.remote import FirstAlone, RemoteBuilds
from buildkit.bulk.stores import EngineStore, PushedLayers, RegistryStore, ServerStore
from buildkit.bulk.workers import Workers
from buildkit.engines.docker import Buildx, Docker
from buildkit.errors import NotStarted, SettingError
from buildkit.runtime_api.retry import Clock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from buildkit.bulk.entries import ImageEntry
    from buildkit.bulk.journal import Journal
    from buildkit.bulk.libraries import Libraries
    from buildkit.bulk.plan import Image
    from buildkit.bulk.workers import Pace
    from buildkit.engines.engine import Engine
    from buildkit.reference import Reference
    from buildkit.registry.client import RegistryClient
    from buildkit.task import Run
    from buildkit.workspace import Workspace


_SHOWN_REFUSALS = 3


class BulkRequest(NamedTuple):
    """What the user wants of a run.

    Attributes:
        bases: A file with one base image per line; `images.toml` if None.
        shard: `K/N`: only this share of the images.
        stall_s: Seconds without a line of the log after which an engine's build is cancelled.
    """

    bases: str | None = None
    shard: str | None = None
    workers: int = 4
    only_failed: bool = False
    force: bool = False
    push: bool = False
    network: str = ""
    keep_free_bytes: int = 0
    stall_s: float = 900.0


class ServerBackend:
    """A Runtime API.

    Attributes:
        links_layers: Whether the Dockerfile may use `COPY --link`.
    """

    links_layers = False

    def __init__(self, this: Run, request: BulkRequest, journal: Journal, pace: Pace) -> None:
        clock = Clock(sleep=pace.sleep, back_off=pace.back_off, begin=pace.wait)
        self._api = this.open_api(clock)
        self._this = this
        self._request = request
        self._journal = journal
        self._pace = pace

    @cached_property
    def prefix(self) -> str | None:
        """What names begin with on this server."""
        return self._api.registry_prefix()

    def choose_builder_images(
        self,
        entries: Sequence[ImageEntry],
        digests: Mapping[Reference, str],  # noqa: ARG002 - they do not tell which C library an image has
    ) -> list[ImageEntry]:
        """Return the entries as they are: nothing is known of images that only the server can see."""
        if need_builder_image(entries):
            self._this.ui.warn(
                "BUILDER_IMAGE is not set, so the server is built once for each base image; set it to the one with the"
                " oldest C library, and the server is built once for all"
            )
        return list(entries)

    def open_store(self, repository: Reference, registry: RegistryClient) -> ServerStore:  # noqa: ARG002 - the server has its own access
        """Return the server's own answers."""
        store = ServerStore(self._api, self._journal, repository, self._pace)
        if store.claims_everything:
            self._this.ui.warn(
                "this Runtime API claims to have images that cannot exist; only the journal says what is there"
            )
        return store

    def make_builds(self, folder: Workspace, registry: RegistryClient, images: Sequence[Image]) -> RemoteBuilds:  # noqa: ARG002 - as above
        """Return builds on the server."""
        settings = self._this.settings
        sending = (settings.upload_format, settings.build_timeout, self._request.force, FirstAlone())
        return RemoteBuilds(self._api, folder, self._journal, *sending)


class EngineBackend:
    """Local engines: the one that ENGINE names, or each of the builders.

    Attributes:
        prefix: No server decides what the names of images begin with.
        links_layers: As above.
    """

    prefix: str | None = None

    def __init__(self, this: Run, request: BulkRequest, journal: Journal, pace: Pace) -> None:
        from buildkit.engines import list_engines

        if (
            request.push
            and this.settings.image_name.registry is None
            and "/" not in this.settings.image_name.repository
        ):
            raise SettingError(
                f"--push needs a registry, and IMAGE_NAME is {this.settings.image_name}",
                "set IMAGE_NAME=registry.example.com/team/agent-server",
            )
        self._this = this
        self._request = request
        self._journal = journal
        self._pace = pace
        self._engines = self._check(list_engines(this.settings.engine, this.settings.builder))
        self.links_layers = all(engine.links_layers for engine in self._engines)

    def choose_builder_images(
        self, entries: Sequence[ImageEntry], digests: Mapping[Reference, str]
    ) -> list[ImageEntry]:
        """Return the entries with a builder image: where none is set, the base image with the oldest C library."""
        bases = [base for base in need_builder_image(entries) if digests.get(base) != ""]
        exact = {base: f"{base}@{digests[base]}" if digests.get(base) else str(base) for base in bases}
        self._examine({base: name for base, name in exact.items() if name not in self._journal.libraries})
        found = {base: self._journal.libraries.get(exact[base]) for base in bases}
        chosen = choose_builder_images(found, self._this.tree.project.requires_python)
        for kind, base in chosen.items():
            self._this.ui.report(f"the server is built on {base} ({found[base]}), for every base image with {kind}")
        return [_set_builder(entry, found, chosen) for entry in entries]

    def _examine(self, bases: Mapping[Reference, str]) -> None:
        """Note in the journal which C library base images have, by their exact names."""
        refusals: list[str] = []

        def examine(base: Reference) -> bool:
            try:
                libraries = parse_probe(next(engines).probe(str(base), PROBE))
            except NotStarted as refusal:
                refusals.append(refusal.message)
                return False
            if libraries:
                self._journal.note_libraries(bases[base], libraries)
            return False

        engines = cycle(self._engines)
        if bases and self._engines[0].runs_containers:
            self._this.ui.report(f"looking for the oldest C library among {len(bases)} base images")
            Workers(self._request.workers, self._pace).run(bases, examine)
        elif bases:
            refusals.append(f"{self._engines[0].name} runs no containers, so that it cannot look into base images")
        for message in refusals[:_SHOWN_REFUSALS]:
            self._this.ui.warn(message)

    def open_store(self, repository: Reference, registry: RegistryClient) -> RegistryStore | EngineStore:
        """Return the registry if images are pushed, and the engine otherwise."""
        if self._request.push:
            return RegistryStore(registry, self._journal, repository)
        return EngineStore(self._engines[0])

    def make_builds(self, folder: Workspace, registry: RegistryClient, images: Sequence[Image]) -> LocalBuilds:
        """Return builds with these engines."""
        request = self._request
        guard = DiskGuard(request.keep_free_bytes, self._this.workspace.path, self._this.ui)
        pushed = PushedLayers(registry, self._journal, images) if request.push else None
        options = EngineOptions(request.network, request.stall_s, guard, pushed)
        return LocalBuilds(self._engines, folder, self._journal, options)

    def _check(self, engines: Sequence[Engine]) -> list[Engine]:
        """Return the engines that respond; one of several that does not is only a warning.

        Raises:
            NotStarted: None responds.
        """
        checked: list[Engine] = []
        for engine in engines:
            try:
                checked.append(self._prefer_buildx(engine.check()))
            except NotStarted as refusal:
                if not checked and engine is engines[-1]:
                    raise
                self._this.ui.warn(f"not used: {refusal.message}")
        return checked

    def _prefer_buildx(self, engine: Engine) -> Engine:
        """Return the plugin instead of docker if images are pushed: it need not unpack them into docker's store."""
        if self._request.push and type(engine) is Docker and engine.reports_json:
            return Buildx(engine.program).check()
        return engine


def _set_builder(
    entry: ImageEntry, found: Mapping[Reference, Libraries | None], chosen: Mapping[str, Reference]
) -> ImageEntry:
    libraries = found.get(entry.base)
    if entry.settings.builder_image is not None or libraries is None or libraries.kind not in chosen:
        return entry
    return entry._replace(settings=replace(entry.settings, builder_image=chosen[libraries.kind]))
