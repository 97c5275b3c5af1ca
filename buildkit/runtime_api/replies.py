"""What the Runtime API's JSON objects mean, each value checked; text in the results is safe to show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from buildkit.runtime_api.answer import OddAnswer, describe, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ENDED = frozenset({"SUCCESS", "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED"})

_BUILD_ID = re.compile(r"[A-Za-z0-9_.:/-]{1,256}")
_URL = re.compile(r"[!-~]{1,2048}")
_IMAGE = re.compile(r"[!-~]{1,1024}")
_MAX_STATUS_BYTES = 64
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class StartedBuild:
    """What `POST /build` answered.

    Attributes:
        status_url: The replica to poll, where the server named one that may be sent the key.
        refused_url: The replica that it named, where that may not be sent the key.
    """

    build_id: str
    status_url: str | None = None
    refused_url: str | None = None


@dataclass(frozen=True)
class BuildStatus:
    """How a build stands; None where the server says nothing of use."""

    status: str | None
    image: str | None
    error: str | None


@dataclass(frozen=True)
class Endpoint:
    """What one call was answered with; `is_served` is None where that leaves it open."""

    path: str
    status: int
    is_served: bool | None


@dataclass(frozen=True)
class Probe:
    """What a server answers to calls that change nothing.

    Attributes:
        is_key_accepted: False where a call was answered with 401 or 403; None where no answer says anything.
    """

    endpoints: tuple[Endpoint, ...]
    is_key_accepted: bool | None


def is_build_id(text: str) -> bool:
    """Return whether a text can be a build ID: one that can be asked for, shown and typed."""
    return _BUILD_ID.fullmatch(text) is not None


def read_build_id(fields: Mapping[str, Any], clean: Callable[[str], str]) -> str:
    """Return the build ID, which some servers give as a number.

    Raises:
        OddAnswer: There is none, or none that could be asked for and shown.
    """
    value = fields.get("build_id")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise OddAnswer("it is missing" if value is None else f"it is a {type(value).__name__}")
    build_id = str(value)
    if not is_build_id(build_id) or clean(build_id) != build_id:
        raise OddAnswer("it is not 1 to 256 of A-Z a-z 0-9 _ . : / -")
    return build_id


def read_replica(fields: Mapping[str, Any]) -> str | None:
    """Return the URL of the replica to poll, where the answer names one that is a plain http or https URL."""
    url = fields.get("url")
    return url if isinstance(url, str) and _URL.fullmatch(url) and parse_origin(url) else None


def read_status(fields: Mapping[str, Any], clean: Callable[[str], str]) -> BuildStatus:
    """Return how a build stands; values of a wrong type count as missing."""
    status, image, error = (fields.get(name) for name in ("status", "image", "error"))
    return BuildStatus(
        status=shorten(clean(status.strip().upper()), _MAX_STATUS_BYTES) or None if isinstance(status, str) else None,
        image=clean(image) if isinstance(image, str) and _IMAGE.fullmatch(image) else None,
        error=shorten(clean(describe(error))) if error else None,
    )


def parse_origin(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of a URL; None where it is none, or holds a user, a query or a fragment."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        return None
    return parts.scheme, parts.hostname, port or _PORTS[parts.scheme]
