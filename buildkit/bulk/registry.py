"""Registries asked by many threads, which obey together when one of them asks for a pause."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from buildkit.registry.client import NETWORK_FIX, RegistryClient, RegistryRefused, locate
from buildkit.registry.credentials import find_docker_credentials
from buildkit.runtime_api.http import ExchangeFailed
from buildkit.runtime_api.response import parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildkit.bulk.pace import Pace
    from buildkit.reference import Reference
    from buildkit.runtime_api.response import Response

_BUSY_TRIES, _LOST_TRIES = 6, 3
_MAX_RETRY_AFTER_S = 300.0


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
