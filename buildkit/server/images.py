"""Whether an image exists, as its registry or its engine reports it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from buildkit.errors import NotStarted, SettingError
from buildkit.reference import parse_reference
from buildkit.server.refusals import InvalidBody

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from buildkit.engines.engine import Engine
    from buildkit.reference import Reference

_TIMEOUT_S = 20.0
_MAX_BYTES = 4_000_000
_OK, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json,"
    " application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"
)


@dataclass(frozen=True)
class StoredImage:
    """An image that exists.

    Attributes:
        size_bytes: As its store counts: compressed in a registry, unpacked in an engine.
    """

    upload_time: str
    size_bytes: int


class RegistryUnavailable(Exception):
    """The registry does not say whether it has the image."""


def parse_name(name: str, prefix: str | None) -> Reference:
    """Return the parts of an image name that a client has sent.

    A key of this server gives the right to push to, and to ask, only what is below the prefix, if there is one.

    Raises:
        InvalidBody: It is not an image name, or not below the prefix.
    """
    try:
        reference = parse_reference(name, "the image name")
    except SettingError as error:
        raise InvalidBody(error.message) from error
    if prefix is not None and not reference.name.startswith(f"{prefix}/"):
        raise InvalidBody(f"this server has only images whose name begins with {prefix}/: {name}")
    return reference


def find_local_image(engines: Sequence[Engine], image: Reference) -> StoredImage | None:
    """Return the image in the first engine that has it, or None.

    Raises:
        NotStarted: No engine responds.
    """
    failure: NotStarted | None = None
    for engine in engines:
        try:
            output = engine.run("image", "inspect", str(image), timeout_s=_TIMEOUT_S)
            if output.code == 0:
                description = json.loads(output.stdout)[0]
                return StoredImage(str(description.get("Created") or _now()), int(description.get("Size") or 0))
            engine.check()
        except NotStarted as error:
            failure = error
    if failure:
        raise failure
    return None


def find_registry_image(engines: Sequence[Engine], image: Reference) -> StoredImage | None:
    """Return the image in its registry, or None. If that asks for a password, the engine, which has one, is asked.

    Raises:
        RegistryUnavailable: It does not say.
    """
    if image.registry in {None, "docker.io"}:  # which gives nothing without a token
        return _find_with_engine(engines, image)
    registry = _Registry(image)
    status, manifest = registry.fetch(f"manifests/{registry.version}")
    if status == _UNAUTHORIZED:
        return _find_with_engine(engines, image)
    if status == _NOT_FOUND:
        return None
    if status != _OK:
        raise RegistryUnavailable(f"the registry responded with HTTP {status}")
    try:
        if manifest.get("manifests"):  # an index: its images differ by platform, and the first one stands for all
            _, manifest = registry.fetch(f"manifests/{manifest['manifests'][0]['digest']}")
        digest = manifest.get("config", {}).get("digest")
        config = registry.fetch(f"blobs/{digest}")[1] if digest else {}
        return _describe(manifest, str(config.get("created") or _now()))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise RegistryUnavailable("the registry responded with an invalid manifest") from error


def _find_with_engine(engines: Sequence[Engine], image: Reference) -> StoredImage | None:
    for engine in engines:
        words = ("buildx", "imagetools", "inspect", "--raw") if engine.name == "buildx" else ("manifest", "inspect")
        output = engine.run(*words, str(image), timeout_s=_TIMEOUT_S)
        if output.code == 0:
            return _describe(json.loads(output.stdout), _now())
        if "not found" in output.stderr.lower() or "no such manifest" in output.stderr.lower():
            return None
    raise RegistryUnavailable("the registry requires a login, and no engine has one")


def _describe(manifest: dict[str, Any], created: str) -> StoredImage:
    layers = [*manifest.get("layers", ()), manifest.get("config", {})]
    return StoredImage(created, sum(int(layer.get("size", 0)) for layer in layers))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Registry:
    """One repository of a registry (https://distribution.github.io/distribution/spec/api/), without credentials."""

    def __init__(self, image: Reference) -> None:
        host = image.registry or ""
        name = host.rpartition(":")[0] or host
        # Plain http, as docker speaks it, to a registry on this machine, and to a service in a network of containers,
        # whose name has no dot and nobody's certificate. No credentials are sent.
        is_near = name == "[::1]" or name.startswith("127.") or not set(".:") & set(name)
        scheme = "http" if is_near else "https"
        self._base = f"{scheme}://{host}/v2/{image.repository}"
        self.version = image.digest or image.tag or "latest"

    def fetch(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON object of a response."""
        import httpcore

        try:
            with httpcore.ConnectionPool() as pool:
                url = f"{self._base}/{path}"
                with pool.stream("GET", url, headers={"Accept": _MANIFESTS}, extensions=_LIMIT) as response:
                    return response.status, _parse_object(_read_bounded(response.iter_stream()))
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise RegistryUnavailable(f"the registry does not respond: {error}") from error


_LIMIT = {"timeout": {"connect": _TIMEOUT_S, "read": _TIMEOUT_S, "write": _TIMEOUT_S, "pool": _TIMEOUT_S}}


def _read_bounded(pieces: Iterable[bytes]) -> bytes:
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > _MAX_BYTES:
            raise RegistryUnavailable("the response of the registry is too large")
    return bytes(body)


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
