"""What a registry received: the layers of a pushed image that it had not received before."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from buildkit.registry.client import RegistryRefused

if TYPE_CHECKING:
    from buildkit.reference import Reference
    from buildkit.registry.client import RegistryClient


class PushedLayers:
    """The layers that the images of a run have in their registry."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def count(self, image: Reference, base: Reference) -> int | None:
        """Return the bytes of the layers that neither an earlier image nor a base image there has; None if unknown."""
        try:
            layers = self._list_layers(image)
            if base.registry == image.registry:  # layers that a registry has are not sent again
                with self._lock:
                    self._known |= self._list_layers(base).keys()
        except (RegistryRefused, ValueError, KeyError, TypeError, AttributeError):
            return None
        with self._lock:
            new = {digest: size for digest, size in layers.items() if digest not in self._known}
            self._known |= new.keys()
        return sum(new.values())

    def _list_layers(self, image: Reference) -> dict[str, int]:
        """Return the compressed size of each layer, by digest."""
        manifest = self._registry.read_manifest(image) or {}
        return {str(layer["digest"]): int(layer["size"]) for layer in manifest["layers"]}
