"""Credentials for registries: those that `docker login` stored, through docker's own library for its configuration."""

from __future__ import annotations

import base64
import re
import warnings
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from buildkit.errors import NotStarted, SettingError
from buildkit.runtime_api.http import HttpClient, Request
from buildkit.runtime_api.response import InvalidResponse, parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping

_PAIR = re.compile(r'(\w+)="([^"]*)"')
_HUB_HOST, _HUB = "registry-1.docker.io", "docker.io"
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.ASCII)
_TIMEOUT_S = 30.0
_OK = 200


def authorize(http: HttpClient, host: str, challenge: str) -> str | None:
    """Return the Authorization header that a registry asks for, or None if docker has nothing for it.

    Args:
        challenge: The `WWW-Authenticate` header of its response.
    """
    scheme, _, rest = challenge.partition(" ")
    credentials = _find_credentials(host)
    if scheme.lower() == "basic":
        return _format_basic(credentials) if "Username" in credentials else None
    parameters = dict(_PAIR.findall(rest))
    realm = parameters.pop("realm", "")
    parts = urlsplit(realm)
    if scheme.lower() != "bearer" or parts.scheme != choose_scheme(parts.netloc):
        return None
    return _fetch_token(http, realm, parameters, credentials)


def choose_scheme(host: str) -> str:
    """Return http for a registry on this machine, as docker does, and https for every other."""
    return "http" if _LOOPBACK.fullmatch(host) else "https"


def _fetch_token(
    http: HttpClient, realm: str, parameters: Mapping[str, str], credentials: Mapping[str, str]
) -> str | None:
    """Return a bearer token; without credentials it is one for everybody, which public images need."""
    wanted = {name: text for name, text in parameters.items() if name in {"service", "scope"}}
    headers = {"Authorization": _format_basic(credentials)} if "Username" in credentials else {}
    response = http.fetch(Request(realm, _TIMEOUT_S, wanted, total_s=_TIMEOUT_S, headers=headers))
    try:
        fields = parse_object(response) if response.status == _OK else {}
    except InvalidResponse:
        return None
    token = fields.get("token") or fields.get("access_token")
    return f"Bearer {token}" if isinstance(token, str) and token.isascii() and token.isprintable() else None


def _find_credentials(host: str) -> dict[str, str]:
    """Return the `Username` and `Password` that docker knows for a registry, or nothing.

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
    names = {name.lower(): name for name in ("Username", "Password")}
    return {names[name.lower()]: str(text) for name, text in found.items() if name.lower() in names and text}


def _format_basic(credentials: Mapping[str, str]) -> str:
    pair = f"{credentials['Username']}:{credentials.get('Password', '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"
