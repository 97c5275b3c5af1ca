"""What image registries have: digests, manifests and tags. Nothing is ever changed in one.

https://distribution.github.io/distribution/spec/api/
"""

from __future__ import annotations

import re
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from buildkit.errors import NotStarted
from buildkit.registry.credentials import authorize, choose_scheme
from buildkit.runtime_api.exchange import ExchangeFailed
from buildkit.runtime_api.http import HttpClient, Network, Request
from buildkit.runtime_api.response import InvalidResponse, parse_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from buildkit.reference import Reference
    from buildkit.registry.credentials import Credentials
    from buildkit.runtime_api.response import Response

_ACCEPT = {
    "Accept": "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json,"
    " application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DOCKER_HUB, _DOCKER_HUB_HOST = "docker.io", "registry-1.docker.io"
# The next page of a list: only its query is followed, never to another place.
_NEXT = re.compile(r'<[^<>?]*\?([!-;=?-~]+)>; *rel="?next\b')
_PAGE, _MAX_PAGES = 1000, 50
NETWORK_FIX = "check the name of the registry and the network, then run the same command again"


class RegistryRefused(NotStarted):
    """The registry does not say whether it has the image, which is not the same as not having it.

    Attributes:
        needs_login: It asked for credentials, and had none or others.
    """

    def __init__(self, message: str, fix: str, *, needs_login: bool = False) -> None:
        super().__init__(message, fix)
        self.needs_login = needs_login


class RegistryClient:
    """Asks registries; threads may share it.

    Args:
        environment: Names proxies and certificate authorities.
        find_credentials: Returns those for a host; None if none are ever sent.
        timeout_s: For one whole request.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        find_credentials: Callable[[str], Credentials] | None,
        timeout_s: float = 30.0,
    ) -> None:
        self._http = HttpClient({"User-Agent": "runtime-build"}, Network(environment=environment))
        self._find_credentials = find_credentials
        self._timeout_s = timeout_s
        self._authorizations: dict[tuple[str, str], str] = {}

    def find_digest(self, image: Reference) -> str | None:
        """Return the digest behind a reference, or None if the registry certainly has nothing there.

        Raises:
            RegistryRefused: The registry does not say.
        """
        response = self._find(image, _format_manifest_path(image), "HEAD")
        if response is None:
            return None
        digest = response.headers.get("Docker-Content-Digest", "")
        if not _DIGEST.fullmatch(digest):
            raise self._refuse(image, response, " without a digest")
        return digest

    def read_manifest(self, image: Reference) -> dict[str, Any] | None:
        """Return the manifest of an image, or None if there is none; of an index, that of its first image.

        The first one is that of the platform: attestations come after it.

        Raises:
            RegistryRefused: The registry does not say.
            ValueError: What it says is not a manifest.
        """
        response = self._find(image, _format_manifest_path(image))
        manifest = None if response is None else parse_object(response)
        if manifest is None or not manifest.get("manifests"):
            return manifest
        match manifest["manifests"]:
            case [{"digest": str(digest)}, *_]:
                return self.read_manifest(replace(image, tag=None, digest=digest))
        raise InvalidResponse("it is an index without digests")

    def read_config(self, image: Reference, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration of an image; empty if the registry does not have it, or keeps it elsewhere.

        Raises:
            RegistryRefused: The registry does not respond.
            ValueError: What it says is not JSON.
        """
        match manifest:
            case {"config": {"digest": str(digest)}}:
                response = self.ask(image, f"blobs/{digest}")
                return parse_object(response) if response.status == HTTPStatus.OK else {}
        return {}

    def list_tags(self, repository: Reference) -> frozenset[str]:
        """Return the tags that a repository is said to have; a list may be incomplete, or there may be none."""
        tags: set[str] = set()
        query = f"n={_PAGE}"
        for _ in range(_MAX_PAGES):
            try:
                response = self.ask(repository, f"tags/list?{query}")
                fields = parse_object(response) if response.status == HTTPStatus.OK else {}
            except (RegistryRefused, InvalidResponse):
                break
            listed = fields.get("tags")
            tags.update(tag for tag in (listed if isinstance(listed, list) else []) if isinstance(tag, str))
            link = _NEXT.match(response.headers.get("Link", ""))
            if link is None:
                break
            query = link[1]
        return frozenset(tags)

    def ask(self, image: Reference, path: str, method: str = "GET") -> Response:
        """Return the response of a registry about a repository, whatever its status.

        Raises:
            RegistryRefused: It does not respond.
        """
        try:
            return self.exchange(image, path, method)
        except ExchangeFailed as failure:
            raise RegistryRefused(
                f"the registry {locate(image)[0]} does not respond: {failure.reason}", NETWORK_FIX
            ) from failure

    def exchange(self, image: Reference, path: str, method: str) -> Response:
        """Return the response to one request, with credentials once the registry has asked for some.

        Raises:
            ExchangeFailed: There was none.
        """
        host, repository = locate(image)
        known = self._authorizations.get((host, repository))
        scheme = choose_scheme(host, is_anonymous=self._find_credentials is None)
        request = Request(
            f"{scheme}://{host}/v2/{repository}/{path}",
            self._timeout_s,
            total_s=self._timeout_s,
            method=method,
            headers=_ACCEPT | ({"Authorization": known} if known else {}),
        )
        response = self._http.fetch(request)
        challenge = response.headers.get("Www-Authenticate", "")
        if response.status != HTTPStatus.UNAUTHORIZED or not challenge:
            return response
        credentials = self._find_credentials(host) if self._find_credentials else None
        authorization = authorize(self._http, challenge, credentials)
        if authorization is None or authorization == known:
            return response
        self._authorizations[host, repository] = authorization
        return self._http.fetch(request._replace(headers=_ACCEPT | {"Authorization": authorization}))

    def _find(self, image: Reference, path: str, method: str = "GET") -> Response | None:
        """Return a response that something is there, or None if certainly nothing is.

        Raises:
            RegistryRefused: The registry does not say.
        """
        response = self.ask(image, path, method)
        if response.status == HTTPStatus.NOT_FOUND:
            return None
        if response.status != HTTPStatus.OK:
            raise self._refuse(image, response)
        if response.problem:
            raise self._refuse(image, response, f", incomplete or too large: {response.problem}")
        return response

    def _refuse(self, image: Reference, response: Response, more: str = "") -> RegistryRefused:
        message = f"the registry {locate(image)[0]} does not say whether it has {image}: {response.title}{more}"
        if response.status not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return RegistryRefused(message, NETWORK_FIX)
        login = " ".join(filter(None, ["docker login", image.registry]))
        needs_login = response.status == HTTPStatus.UNAUTHORIZED
        return RegistryRefused(message, f"log in with `{login}`, or check the name", needs_login=needs_login)


def locate(image: Reference) -> tuple[str, str]:
    """Return the host and the repository, in full, at which the registry of an image is asked."""
    if image.registry not in {None, _DOCKER_HUB}:
        return str(image.registry), image.repository
    return _DOCKER_HUB_HOST, image.repository if "/" in image.repository else f"library/{image.repository}"


def _format_manifest_path(image: Reference) -> str:
    return f"manifests/{image.digest or image.tag or 'latest'}"
