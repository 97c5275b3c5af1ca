"""One run of `images`, from the list to the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit.bulk.backends import EngineBackend, ServerBackend
from buildkit.bulk.board import Board
from buildkit.bulk.entries import IMAGES_FILE, read_bases, read_images, select_shard
from buildkit.bulk.journal import FAILED, Journal
from buildkit.bulk.local import LocalBuilds
from buildkit.bulk.plan import State, decide, name_image, resolve_bases
from buildkit.bulk.recipe import identify, make_recipes
from buildkit.bulk.report import LiveTable, format_results, format_summary
from buildkit.bulk.runner import Runner
from buildkit.bulk.stores import PatientRegistry
from buildkit.bulk.workers import Pace, Workers
from buildkit.display import format_duration
from buildkit.errors import SettingError, run
from buildkit.files import append_regular
from buildkit.settings import read_environment
from buildkit.signals import advising
from buildkit.tasks.dockerfile import DockerfileRequest
from buildkit.workspace import IMAGES, RESULTS, SUMMARY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit.bulk.backends import BulkRequest
    from buildkit.bulk.entries import ImageEntry
    from buildkit.bulk.plan import Image
    from buildkit.bulk.recipe import Recipe
    from buildkit.task import Run

    Backend = ServerBackend | EngineBackend

# Registries and servers are asked this many questions at a time.
_QUERIES = 16


class Session:
    """The parts of a run, made in the order in which they can fail; the caller holds the output directory."""

    def __init__(self, this: Run, request: BulkRequest) -> None:
        self._this = this
        self._request = request
        self._pace = Pace()
        self._queries = Workers(_QUERIES, self._pace)
        self._registry = PatientRegistry(read_environment(), self._pace)
        self._entries = self._read_entries()
        self._journal = Journal(this.workspace)
        if self._journal.damaged:
            this.ui.warn(f"{self._journal.damaged} damaged lines of the journal are passed over")

    def plan(self) -> tuple[list[Image], Backend]:
        """Return the images, each with what is to be done for it, and what builds them.

        Raises:
            SettingError: Something cannot be built as it is wanted.
            LocalError: The source cannot be packed.
            NotStarted: It cannot be found out which images are there.
        """
        this, journal = self._this, self._journal
        kind = ServerBackend if this.settings.runtime_api_url else EngineBackend
        backend = kind(this, self._request, journal, self._pace)
        digests = resolve_bases(self._entries, self._registry, self._queries)
        entries = backend.choose_builder_images(self._entries, digests)
        recipes = self._make_recipes(entries, backend)
        images = [
            name_image(entry, recipes[identify(entry.settings)], digests.get(entry.base), backend.prefix)
            for entry in entries
        ]
        self._warn_of_names(images)
        if self._request.only_failed:
            images = [image for image in images if self._has_failed(image)]
        if images:
            store = backend.open_store(images[0].reference, self._registry)
            decide(images, journal, store, self._queries, force=self._request.force)
        return images, backend

    def build(self, images: Sequence[Image], backend: Backend) -> None:
        """Build what is not there, and leave `images.json` and a summary, however the run ends.

        Raises:
            RuntimeBuildError: No image can be built.
        """
        this, request = self._this, self._request
        builds = backend.make_builds(this.workspace.child(IMAGES), self._registry, images)
        board = Board(images, request.workers, self._journal.list_seconds())
        runner = Runner(builds, self._journal, board, self._pace, this.ui)

        def tick() -> None:
            runner.beat()
            if isinstance(builds, LocalBuilds):
                builds.cancel_stalled()

        cancel = builds.cancel_all if isinstance(builds, LocalBuilds) else lambda: None
        todo = [image for image in images if image.state in {State.BUILD, State.WAITING}]
        todo.sort(key=lambda image: image.state is not State.WAITING)  # what has been submitted comes first
        try:
            with (
                advising(f"run {run('images')} again: it continues where it stopped"),
                this.ui.keeping(lambda: LiveTable(board.look(), self._pace.left_s)),
            ):
                Workers(request.workers, self._pace, tick, cancel).run(todo, runner.work)
        finally:
            self._save_results(images)
            self._journal.close()

    def estimate(self, images: Sequence[Image]) -> str:
        """Return what is to be done, and how long that takes if earlier builds tell."""
        counts = {state: sum(image.state is state for image in images) for state in State}
        text = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "nothing to do"
        left_s = Board(images, self._request.workers, self._journal.list_seconds()).look().left_s
        if left_s:
            text += f"; about {format_duration(round(left_s))} with {self._request.workers} workers"
        return text

    def _read_entries(self) -> list[ImageEntry]:
        """Return the wanted images of this shard.

        Raises:
            SettingError: There is no list, something in it is wrong, or a setting does not fit many images.
        """
        settings = self._this.settings
        if settings.target_image is not None:
            raise SettingError("TARGET_IMAGE names one image, not many", "unset it; IMAGE_NAME names the repository")
        if self._request.bases is not None:
            entries = read_bases(self._this.locate(self._request.bases), settings)
        elif (self._this.root / IMAGES_FILE).exists():
            entries = read_images(self._this.root / IMAGES_FILE, settings)
        else:
            raise SettingError(
                f"no images are named: there is no {IMAGES_FILE} in {self._this.root}",
                "give `--bases` a file with one base image per line, or write that file",
            )
        return select_shard(entries, self._request.shard)

    def _make_recipes(self, entries: Sequence[ImageEntry], backend: Backend) -> dict[str, Recipe]:
        this = self._this
        request = DockerfileRequest.from_run(this)._replace(link_layers=backend.links_layers)
        if any(entry.settings.builder_image for entry in entries):
            request.origins["BUILDER_IMAGE"] = IMAGES
        return make_recipes(this.workspace, this.tree, [entry.settings for entry in entries], request, this.ui)

    def _has_failed(self, image: Image) -> bool:
        record = self._journal.find(image.name)
        return record is not None and record.event == FAILED

    def _warn_of_names(self, images: Sequence[Image]) -> None:
        """Say for which base images only the name counts: a new image under that name is not noticed."""
        names = [str(image.entry.base) for image in images if image.base_digest is None and not image.error]
        if names:
            self._this.ui.warn(
                f"the registry does not give the digest of {len(names)} base images, such as {names[0]};"
                " their names count instead"
            )

    def _save_results(self, images: Sequence[Image]) -> None:
        this = self._this
        summary = format_summary(images)
        this.workspace.write(RESULTS, format_results(images).encode("ascii"))
        this.workspace.write(SUMMARY, summary.encode())
        if this.ci.summary:
            try:
                append_regular(this.ci.summary, summary.encode())
            except OSError as error:
                this.ui.warn(f"GITHUB_STEP_SUMMARY cannot be written: {error.strerror}")
