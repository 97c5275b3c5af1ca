"""Where images go, and what is there: a registry, a local engine, or what a Runtime API says of its registry.

Each is asked first for an image that cannot exist. One that claims to have it is not believed.
"""

from __future__ import annotations

import secrets
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING

from buildkit.bulk.journal import BUILT
from buildkit.reference import Reference, parse_reference
from buildkit.registry.client import NETWORK_FIX, RegistryClient, RegistryRefused, locate
from buildkit.registry.credentials import find_docker_credentials
from buildkit.runtime_api.exchange import ExchangeFailed
from buildkit.runtime_api.response import parse_retry_after
from buildkit.runtime_api.retry import RequestFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from buildkit.bulk.journal import Journal
    from buildkit.bulk.plan import Image
    from buildkit.bulk.workers import Pace
    from buildkit.engines.engine import Engine
    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.runtime_api.response import Response

_BUSY_TRIES, _LOST_TRIES = 6, 3
_MAX_RETRY_AFTER_S = 300.0
# Each of them is several requests already.
_SERVER_TRIES = 5


class PatientRegistry(RegistryClient):
    """Asks again what may pass, with the credentials that docker has.

    Args:
        pace: Stops every thread. When a registry asks for a pause, all threads obey, but other registries are asked.
    """

    def __init__(self, environment: Mapping[str, str], pace: Pace) -> None:
        super().__init__(environment, find_docker_credentials)
        self._unreachable: dict[str, RegistryRefused] = {}
        self._pace = pace
        self._paces: dict[str, Pace] = {}

    def ask(self, image: Reference, path: str, method: str = "GET") -> Response:
        """Return a response that is final; a busy registry makes every thread pause, not only this one."""
        host, _ = locate(image)
        pace, tries = self._paces.setdefault(host, self._pace.fork()), 0
        while True:
            tries += 1
            pace.wait()
            if host in self._unreachable:
                raise self._unreachable[host]
            try:
                response = self.exchange(image, path, method)
            except ExchangeFailed as failure:
                may_pass = (failure.connection_lost and not failure.refused) or failure.timed_out
                if tries < _LOST_TRIES and may_pass:
                    pace.fail()
                    continue
                message = f"the registry {host} does not respond: {failure.reason}"
                self._unreachable[host] = RegistryRefused(message, NETWORK_FIX)
                raise self._unreachable[host] from failure
            is_busy = (
                response.status == HTTPStatus.TOO_MANY_REQUESTS or response.status >= HTTPStatus.INTERNAL_SERVER_ERROR
            )
            if not is_busy or tries >= _BUSY_TRIES:
                pace.succeed()
                return response
            after_s = parse_retry_after(response.headers)
            if after_s is None:
                pace.fail()
            else:
                pace.back_off(min(after_s, _MAX_RETRY_AFTER_S))


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
        for _ in range(_SERVER_TRIES):
            try:
                return self._api.image_exists(str(image))
            except RequestFailed as failure:
                if not failure.retry.is_transient:
                    raise
                self._pace.fail()
        return self._api.image_exists(str(image))


def _invent(repository: Reference) -> Reference:
    return Reference(repository.registry, repository.repository, f"none-{secrets.token_hex(8)}", None)


class PushedLayers:
    """The layers that a registry has already, which a push does not send.

    Args:
        images: Of the plan. One that is there has the layers that its whole recipe shares, and one that was built
            before has those that its next version keeps.
    """

    def __init__(self, registry: RegistryClient, journal: Journal, images: Sequence[Image]) -> None:
        self._registry = registry
        self._known: set[str] = set()
        self._lock = threading.Lock()
        records = {image.name: journal.find(image.name) for image in images}
        self._earlier = {name: record.reference for name, record in records.items() if record and record.event == BUILT}
        alike = {image.recipe.workspace.path: str(image.reference) for image in images if image.is_there}
        self._alike = list(alike.values())

    def count(self, image: Image) -> int | None:
        """Return the bytes of the layers that no earlier image and no base image there has; None if unknown."""
        base = image.entry.base
        try:
            layers = self._list_layers(str(image.reference))
            with self._lock:
                earlier = [*self._alike, *filter(None, [self._earlier.get(image.name)])]
                self._alike = []
                # Layers that a registry has are not sent again.
                for reference in [*earlier, *([str(base)] if base.registry == image.reference.registry else [])]:
                    self._known |= self._list_layers(reference).keys()
        except (RegistryRefused, ValueError, KeyError, TypeError, AttributeError):
            return None
        with self._lock:
            new = {digest: size for digest, size in layers.items() if digest not in self._known}
            self._known |= new.keys()
        return sum(new.values())

    def _list_layers(self, image: str) -> dict[str, int]:
        """Return the compressed size of each layer, by digest; none if the image is not there."""
        manifest = self._registry.read_manifest(parse_reference(image)) or {"layers": []}
        return {str(layer["digest"]): int(layer["size"]) for layer in manifest["layers"]}
