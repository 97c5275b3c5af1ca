"""What is to be done for each image: its name by content, and whether it is there or a server is building it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from buildkit.errors import SettingError
from buildkit.reference import Reference, check_tag, parse_reference
from buildkit.registry.client import RegistryRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit.bulk.entries import ImageEntry
    from buildkit.bulk.journal import Journal
    from buildkit.bulk.recipe import Recipe
    from buildkit.bulk.stores import EngineStore, RegistryStore, ServerStore
    from buildkit.bulk.workers import Workers
    from buildkit.registry.client import RegistryClient

    Store = RegistryStore | EngineStore | ServerStore


class State(StrEnum):
    """What is known of an image, in the words of `images.json`."""

    BUILD = "to build"
    WAITING = "waiting"
    PRESENT = "already there"
    BUILT = "built"
    FAILED = "failed"


@dataclass
class Image:
    """One image of the plan; what happens to it is kept here.

    Attributes:
        reference: Where it goes; the tag identifies its contents.
        tags: More references for it.
        digest: Of the image in its registry, once it is known.
        base_digest: Of its base image; None if the registry of that does not say.
        attempts: How often it has been begun.
    """

    entry: ImageEntry
    recipe: Recipe
    reference: Reference
    tags: tuple[str, ...] = ()
    base_digest: str | None = None
    state: State = State.BUILD
    digest: str | None = None
    error: str = ""
    exit_code: int = 0
    seconds: float | None = None
    pushed_bytes: int | None = None
    attempts: int = 0

    @property
    def name(self) -> str:
        """Of its directory, and in every message."""
        return self.entry.name

    @property
    def is_there(self) -> bool:
        """Whether the image exists."""
        return self.state in {State.PRESENT, State.BUILT}


def resolve_bases(entries: Sequence[ImageEntry], registry: RegistryClient, workers: Workers) -> dict[Reference, str]:
    """Return the digest of each base image, as far as its registry tells; empty if it certainly does not exist."""
    digests: dict[Reference, str] = {}

    def resolve(base: Reference) -> bool:
        if base.digest:
            digests[base] = base.digest
            return False
        with suppress(RegistryRefused):  # the name counts instead, and the plan says so
            digests[base] = registry.find_digest(base) or ""
        return False

    workers.run(dict.fromkeys(entry.base for entry in entries), resolve)
    return digests


def name_image(entry: ImageEntry, recipe: Recipe, digest: str | None, prefix: str | None) -> Image:
    """Return the image with its references.

    Args:
        digest: Of the base image, if it is known.
        prefix: Of the server's registry.
    """
    name = parse_reference("/".join(filter(None, [prefix, str(recipe.settings.image_name)])), "IMAGE_NAME")
    tag = check_tag(f"{recipe.version.short_sha}-{recipe.make_key(entry.base, digest or None)}")
    reference = Reference(name.registry, name.repository, tag, None)
    image = Image(entry, recipe, reference, tuple(f"{name}:{tag}" for tag in entry.tags), digest or None)
    if digest == "":
        image.state, image.error = State.FAILED, f"its base image {entry.base} does not exist"
        image.exit_code = SettingError.exit_code
    return image


def decide(images: Sequence[Image], journal: Journal, store: Store, workers: Workers, *, force: bool) -> None:
    """Set the state of each image.

    Raises:
        RuntimeBuildError: It cannot be found out whether an image exists, which does not mean that it does not.
    """
    for image in images:
        record = journal.find(image.name)
        if image.state is State.BUILD and record and record.is_open and record.reference == str(image.reference):
            image.state = State.WAITING

    def look(image: Image) -> bool:
        digest = store.find(image)
        if digest is not None:
            image.state, image.digest = State.PRESENT, digest or None
        return False

    if not force:
        workers.run([image for image in images if image.state is State.BUILD], look)
