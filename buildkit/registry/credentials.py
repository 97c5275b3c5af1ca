"""Credentials for registries: those that `docker login` stored, through docker's own library for its configuration.

https://distribution.github.io/distribution/spec/auth/token/ and https://distribution.github.io/distribution/spec/auth/oauth/
"""

from __future__ import annotations

import base64
import re
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from buildkit.errors import NotStarted, SettingError
from buildkit.runtime_api.http import HttpClient, Request
from buildkit.runtime_api.response import InvalidResponse, parse_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PAIR = re.compile(r'(\w+)="([^"]*)"')
_HUB_HOST, _HUB = "registry-1.docker.io", "docker.io"
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.ASCII)
_SERVICE_NAME = re.compile(r"[^.:\[\]]+(?::\d{1,5})?", re.ASCII)
_CLIENT_ID = "runtime-build"
_TIMEOUT_S = 30.0
_OK = 200


class Credentials(NamedTuple):
    """What docker knows for a registry: a user with a password, or an identity token instead of both."""

    user: str = ""
    password: str = ""
    identity_token: str = ""

    def format_basic(self) -> str | None:
        """Return the header of basic authentication, or None without a user."""
        pair = f"{self.user}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode('ascii')}" if self.user else None


class Form:
    """A form as the body of a request."""

    content_type = "application/x-www-form-urlencoded"

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._data = urlencode(fields).encode("ascii")
        self.total = len(self._data)
        self.sent = 0

    @property
    def complete(self) -> bool:
        """Whether the server may have all of it."""
        return self.sent >= self.total

    def __iter__(self) -> Iterator[bytes]:
        """Yield it."""
        self.sent = self.total
        yield self._data


def choose_scheme(host: str, *, is_anonymous: bool = False) -> str:
    """Return http for a registry on this machine, as docker does, and https for every other.

    Args:
        is_anonymous: No credentials are sent, so that http also does for a service in a network of containers, whose
            name has no dot and nobody's certificate.
    """
    is_near = _LOOPBACK.fullmatch(host) or (is_anonymous and _SERVICE_NAME.fullmatch(host))
    return "http" if is_near else "https"


def authorize(http: HttpClient, challenge: str, credentials: Credentials | None) -> str | None:
    """Return the Authorization header that a registry asks for, or None if the credentials do not give one.

    Without credentials, a token is one for everybody, which public images need.

    Args:
        challenge: The `WWW-Authenticate` header of its response.
    """
    kind, _, rest = challenge.partition(" ")
    given = credentials or Credentials()
    if kind.lower() == "basic":
        return given.format_basic()
    parameters = dict(_PAIR.findall(rest))
    realm = parameters.pop("realm", "")
    parts = urlsplit(realm)
    scheme = choose_scheme(parts.netloc, is_anonymous=credentials is None)
    if kind.lower() != "bearer" or parts.scheme != scheme:
        return None
    wanted = {name: text for name, text in parameters.items() if name in {"service", "scope"}}
    response = http.fetch(_request_token(realm, wanted, given))
    try:
        fields = parse_object(response) if response.status == _OK else {}
    except InvalidResponse:
        return None
    token = fields.get("token") or fields.get("access_token")
    return f"Bearer {token}" if isinstance(token, str) and token.isascii() and token.isprintable() else None


def find_docker_credentials(host: str) -> Credentials:
    """Return what docker knows for a registry; empty credentials if it knows nothing.

    Raises:
        SettingError: docker's library is not installed.
        NotStarted: A credential helper fails, or docker's configuration is damaged.
    """
    try:
        from docker import auth, errors
    except ImportError as error:
        raise SettingError(
            f"the registry {host} requires a login, and the package docker is not installed",
            "install it with `pip install 'runtime-build[images]'`",
        ) from error
    try:
        with warnings.catch_warnings(action="ignore"):  # of a helper that is not installed, which is an error, too
            found: dict[str, Any] = auth.load_config().resolve_authconfig(_HUB if host == _HUB_HOST else host) or {}
    except errors.DockerException as error:
        raise NotStarted(
            f"docker's credentials for {host} cannot be read: {error}", f"run `docker login {host}`"
        ) from error
    # Entries of the file and of helpers differ in their case.
    known = {name.lower(): str(text) for name, text in found.items() if text}
    return Credentials(*(known.get(name, "") for name in ("username", "password", "identitytoken")))


def _request_token(realm: str, wanted: dict[str, str], credentials: Credentials) -> Request:
    if credentials.identity_token:
        fields = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token, "client_id": _CLIENT_ID}
        return Request(realm, _TIMEOUT_S, body=Form(fields | wanted), total_s=_TIMEOUT_S, method="POST")
    basic = credentials.format_basic()
    headers = {"Authorization": basic} if basic else {}
    return Request(realm, _TIMEOUT_S, wanted, total_s=_TIMEOUT_S, headers=headers)
