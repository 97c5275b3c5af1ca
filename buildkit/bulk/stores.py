"""Where images go, and whether one is there: a registry, a local engine, or what a Runtime API says of its registry.

Each is asked first for an image that cannot exist. One that claims to have it is not believed.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from buildkit.bulk.journal import BUILT
from buildkit.bulk.registry import RegistryRefused
from buildkit.reference import Reference
from buildkit.runtime_api.retry import RequestFailed

if TYPE_CHECKING:
    from buildkit.bulk.journal import Journal
    from buildkit.bulk.pace import Pace
    from buildkit.bulk.plan import Image
    from buildkit.bulk.registry import RegistryClient
    from buildkit.engines.engine import Engine
    from buildkit.runtime_api.client import RuntimeApi

# Each of them is several requests already.
_TRIES = 5


class RegistryStore:
    """The registry that images are pushed to.

    Raises:
        RegistryRefused: It claims to have everything.
    """

    def __init__(self, registry: RegistryClient, repository: Reference) -> None:
        self._registry = registry
        if registry.find(_invent(repository)):
            raise RegistryRefused(
                f"the registry of {repository} claims to have images that cannot exist",
                "check IMAGE_NAME and any proxy in between; `--force` builds without asking",
            )

    def find(self, image: Image) -> str | None:
        """Return the digest of the image, or None if it is not there."""
        found = self._registry.find(image.reference)
        return found.digest if found else None


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
        record = self._journal.find(image.name)
        is_built = record is not None and record.event == BUILT and record.reference == str(image.reference)
        if self._is_believed:
            said = self._ask(image.reference)
            is_built = is_built if said is None else said
        return ((record.digest if record else None) or "") if is_built else None

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
