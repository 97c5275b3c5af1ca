"""Which calls a Runtime API provides, found out with requests that change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from buildkit.runtime_api import policy, protocol

if TYPE_CHECKING:
    from buildkit.runtime_api.client import RuntimeApi

_UNKNOWN_BUILD = {"build_id": "runtime-build-doctor"}
_PROBES: dict[str, dict[str, str]] = {
    protocol.BUILD: {},
    protocol.BUILD_STATUS: _UNKNOWN_BUILD,
    protocol.BUILD_LOGS: _UNKNOWN_BUILD,
    protocol.REGISTRY_PREFIX: {},
    protocol.IMAGE_EXISTS: {"image": "runtime-build/doctor:none"},
}


class Probe(NamedTuple):
    """How a server responds to GETs that change nothing: the HTTP status by path."""

    statuses: dict[str, int]

    @property
    def is_key_accepted(self) -> bool | None:
        """Whether the server accepts the key; None if no response tells."""
        statuses = set(self.statuses.values())
        return False if statuses & policy.KEY_REFUSED else bool(statuses & policy.ACCEPTED) or None

    def is_served(self, path: str) -> bool | None:
        """Return whether the server provides the call, or None if its status does not tell."""
        status = self.statuses[path]
        if status == policy.NOT_FOUND:
            # Elsewhere, 404 may mean that there is no such build or image, or that only POST is provided.
            return False if path == protocol.REGISTRY_PREFIX else None
        return None if status in policy.KEY_REFUSED or status >= policy.SERVER_ERROR else True


def probe(api: RuntimeApi) -> Probe:
    """Return which calls the server provides and whether it accepts the key."""
    requests = {path: api.make_get(path, parameters) for path, parameters in _PROBES.items()}
    return Probe({path: api.fetch(request).status for path, request in requests.items()})
