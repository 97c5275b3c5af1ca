"""Whether an image exists, as its registry or its engine reports it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from buildkit.errors import NotStarted, SettingError
from buildkit.reference import parse_reference
from buildkit.registry.client import NETWORK_FIX, RegistryClient, RegistryRefused
from buildkit.server.refusals import InvalidBody

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit.engines.engine import Engine
    from buildkit.reference import Reference

_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class StoredImage:
    """An image that exists.

    Attributes:
        size_bytes: As its store counts: compressed in a registry, unpacked in an engine.
    """

    upload_time: str
    size_bytes: int


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
        RegistryRefused: It does not say.
    """
    if image.registry in {None, "docker.io"}:  # which gives nothing without a token
        return _find_with_engine(engines, image)
    registry = RegistryClient({}, None, _TIMEOUT_S)
    try:
        manifest = registry.read_manifest(image)
        if manifest is None:
            return None
        return _describe(manifest, str(registry.read_config(image, manifest).get("created") or _now()))
    except RegistryRefused as refusal:
        if refusal.needs_login:
            return _find_with_engine(engines, image)
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise RegistryRefused(f"the registry responded with an invalid manifest for {image}", NETWORK_FIX) from error


def _find_with_engine(engines: Sequence[Engine], image: Reference) -> StoredImage | None:
    for engine in engines:
        words = ("buildx", "imagetools", "inspect", "--raw") if engine.name == "buildx" else ("manifest", "inspect")
        output = engine.run(*words, str(image), timeout_s=_TIMEOUT_S)
        if output.code == 0:
            return _describe(json.loads(output.stdout), _now())
        if "not found" in output.stderr.lower() or "no such manifest" in output.stderr.lower():
            return None
    raise RegistryRefused(
        f"the registry of {image} requires a login, and no engine has one", "log in where the engine runs"
    )


def _describe(manifest: dict[str, Any], created: str) -> StoredImage:
    layers = [*manifest.get("layers", ()), manifest.get("config", {})]
    return StoredImage(created, sum(int(layer.get("size", 0)) for layer in layers))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
