"""Image registries: the digest behind a reference, with one HEAD request and the credentials that docker has.

https://distribution.github.io/distribution/spec/api/ and https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from buildkit.bulk.credentials import authorize, choose_scheme
from buildkit.errors import NotStarted
from buildkit.runtime_api.http import ExchangeFailed, HttpClient, Network, Request
from buildkit.runtime_api.response import InvalidResponse, parse_object, parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildkit.bulk.pace import Pace
    from buildkit.reference import Reference
    from buildkit.runtime_api.response import Response

_ACCEPT = {
    "Accept": "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json,"
    " application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DOCKER_HUB, _DOCKER_HUB_HOST = "docker.io", "registry-1.docker.io"
_BUSY_TRIES, _LOST_TRIES = 6, 3
# The next page of a list: only its query is followed, never to another place.
_NEXT = re.compile(r'<[^<>?]*\?([!-;=?-~]+)>; *rel="?next\b')
_PAGE, _MAX_PAGES = 1000, 50
_MAX_RETRY_AFTER_S = 300.0
_TIMEOUT_S = 30.0
_NETWORK_FIX = "check the name of the registry and the network, then run the same command again"


class Manifest(NamedTuple):
    """What a registry has under a reference; the body is that of a GET."""

    digest: str
    body: bytes


class RegistryRefused(NotStarted):
    """The registry does not say whether it has the image, which is not the same as not having it."""


class RegistryClient:
    """Asks registries; threads may share it.

    Args:
        environment: Names proxies and certificate authorities.
        pace: Stops every thread. When a registry asks for a pause, all threads obey, but other registries are asked.
    """

    def __init__(self, environment: Mapping[str, str], pace: Pace) -> None:
        self._http = HttpClient({"User-Agent": "runtime-build"}, Network(environment=environment))
        self._authorizations: dict[tuple[str, str], str] = {}
        self._unreachable: dict[str, str] = {}
        self._pace = pace
        self._paces: dict[str, Pace] = {}

    def find(self, image: Reference, method: str = "HEAD") -> Manifest | None:
        """Return what a registry has under the reference, or None if it certainly has nothing there.

        Args:
            method: GET, if the manifest itself is wanted and not only its digest.

        Raises:
            RegistryRefused: The registry does not say.
        """
        host, _ = locate(image)
        response = self._ask(image, f"manifests/{image.digest or image.tag or 'latest'}", method)
        if response.status == HTTPStatus.NOT_FOUND:
            return None
        digest = response.headers.get("Docker-Content-Digest", "")
        if response.status == HTTPStatus.OK and _DIGEST.fullmatch(digest):
            return Manifest(digest, response.body)
        said = f"{response.title} without a digest" if response.status == HTTPStatus.OK else response.title
        fix = _NETWORK_FIX
        if response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            fix = f"log in with `{' '.join(filter(None, ['docker login', image.registry]))}`, or check the name"
        raise RegistryRefused(f"the registry {host} does not say whether it has {image}: {said}", fix)

    def list_tags(self, repository: Reference) -> frozenset[str]:
        """Return the tags that a repository is said to have; a list may be incomplete, or there may be none."""
        tags: set[str] = set()
        query = f"?n={_PAGE}"
        for _ in range(_MAX_PAGES):
            try:
                response = self._ask(repository, f"tags/list{query}", "GET")
                fields = parse_object(response) if response.status == HTTPStatus.OK else {}
            except (RegistryRefused, InvalidResponse):
                break
            listed = fields.get("tags")
            tags.update(tag for tag in (listed if isinstance(listed, list) else []) if isinstance(tag, str))
            link = _NEXT.match(response.headers.get("Link", ""))
            if link is None:
                break
            query = f"?{link[1]}"
        return frozenset(tags)

    def _ask(self, image: Reference, path: str, method: str) -> Response:
        """Return a response that is final; a busy registry makes every thread pause, not only this one."""
        host, repository = locate(image)
        url = f"{choose_scheme(host)}://{host}/v2/{repository}/{path}"
        request = Request(url, _TIMEOUT_S, total_s=_TIMEOUT_S, method=method)
        pace, tries = self._paces.setdefault(host, self._pace.fork()), 0
        while True:
            tries += 1
            pace.wait()
            if host in self._unreachable:
                raise RegistryRefused(self._unreachable[host], _NETWORK_FIX)
            try:
                response = self._send(host, repository, request)
            except ExchangeFailed as failure:
                may_pass = (failure.connection_lost and not failure.refused) or failure.timed_out
                if tries < _LOST_TRIES and may_pass:
                    pace.fail()
                    continue
                self._unreachable[host] = f"the registry {host} does not respond: {failure.reason}"
                raise RegistryRefused(self._unreachable[host], _NETWORK_FIX) from failure
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

    def _send(self, host: str, repository: str, request: Request) -> Response:
        """Return the response to a request, with credentials once the registry has asked for some."""
        known = self._authorizations.get((host, repository))
        response = self._http.fetch(request._replace(headers=_ACCEPT | ({"Authorization": known} if known else {})))
        challenge = response.headers.get("Www-Authenticate", "")
        if response.status != HTTPStatus.UNAUTHORIZED or not challenge:
            return response
        authorization = authorize(self._http, host, challenge)
        if authorization is None or authorization == known:
            return response
        self._authorizations[host, repository] = authorization
        return self._http.fetch(request._replace(headers=_ACCEPT | {"Authorization": authorization}))


def locate(image: Reference) -> tuple[str, str]:
    """Return the host and the repository, in full, at which the registry of an image is asked."""
    if image.registry not in {None, _DOCKER_HUB}:
        return str(image.registry), image.repository
    return _DOCKER_HUB_HOST, image.repository if "/" in image.repository else f"library/{image.repository}"
