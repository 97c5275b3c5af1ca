"""Where images go, and whether one is there: a registry, a local engine, or what a Runtime API says of its registry.

Each is asked first for an image that cannot exist. One that claims to have it is not believed.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from buildkit.reference import Reference
from buildkit.registry.client import RegistryRefused
from buildkit.runtime_api.policy import RequestFailed

if TYPE_CHECKING:
    from buildkit.bulk.journal import Journal
    from buildkit.bulk.pace import Pace
    from buildkit.bulk.plan import Image
    from buildkit.engines.engine import Engine
    from buildkit.registry.client import RegistryClient
    from buildkit.runtime_api.client import RuntimeApi

# Each of them is several requests already.
_TRIES = 5


class RegistryStore:
    """The registry that images are pushed to. One list of tags answers for the images that the journal knows.

    Raises:
        RegistryRefused: It claims to have everything.
    """

    def __init__(self, registry: RegistryClient, journal: Journal, repository: Reference) -> None:
        self._registry = registry
        self._journal = journal
        if registry.find_digest(_invent(repository)):
            raise RegistryRefused(
                f"the registry of {repository} claims to have images that cannot exist",
                "check IMAGE_NAME and any proxy in between; `--force` builds without asking",
            )

        self._tags = registry.list_tags(repository)

    def find(self, image: Image) -> str | None:
        """Return the digest of the image, or None if it is not there.

        The registry is asked for the image itself if its tag is not on the list, or if the journal has no digest.
        """
        built = self._journal.find_built(image.name, image.reference)
        if built and built.digest and image.reference.tag in self._tags:
            return built.digest
        return self._registry.find_digest(image.reference)


class EngineStore:
    """The store of a local engine, listed once."""

    def __init__(self, engine: Engine) -> None:
        self._images = engine.list_images()

    def find(self, image: Image) -> str | None:
        """Return an empty digest if the image is there."""
        return "" if str(image.reference) in self._images else None


class ServerStore:
    """A Runtime API. If it cannot be believed or does not say, what the journal knows to be built is there.

    Attributes:
        claims_everything: It says that it has an image which cannot exist.
    """

    def __init__(self, api: RuntimeApi, journal: Journal, repository: Reference, pace: Pace) -> None:
        self._api = api
        self._journal = journal
        self._pace = pace
        said = self._ask(_invent(repository))
        self._is_believed = said is False
        self.claims_everything = said is True

    def find(self, image: Image) -> str | None:
        """Return the digest that the journal has, or an empty one, if the image is there."""
        built = self._journal.find_built(image.name, image.reference)
        said = self._ask(image.reference) if self._is_believed else None
        is_there = built is not None if said is None else said
        return ((built and built.digest) or "") if is_there else None

    def _ask(self, image: Reference) -> bool | None:
        """Return what the server says; what may pass is waited out, because it says nothing about the image."""
        for _ in range(_TRIES):
            try:
                return self._api.image_exists(str(image))
            except RequestFailed as failure:
                if not failure.retry.is_transient:
                    raise
                self._pace.fail()
        return self._api.image_exists(str(image))


def _invent(repository: Reference) -> Reference:
    return Reference(repository.registry, repository.repository, f"none-{secrets.token_hex(8)}", None)
