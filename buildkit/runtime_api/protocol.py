"""The Runtime API's protocol: paths, statuses and JSON fields, each value checked and made safe to show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from buildkit.errors import SettingError, run
from buildkit.models import UPLOAD_FORMATS
from buildkit.reference import parse_reference
from buildkit.runtime_api.response import InvalidResponse, describe, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BUILD = "/build"
BUILD_STATUS = "/build_status"
BUILD_LOGS = "/build_logs"
REGISTRY_PREFIX = "/registry_prefix"
IMAGE_EXISTS = "/image_exists"

JSON, MULTIPART = UPLOAD_FORMATS

SUCCESS = "SUCCESS"
ENDED = frozenset({SUCCESS, "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED"})
IN_PROGRESS = frozenset({"PENDING", "QUEUED", "RUNNING", "WORKING"})

_BUILD_ID = re.compile(r"[A-Za-z0-9_.:/-]{1,256}")
_URL = re.compile(r"[!-~]{1,2048}")
_MAX_STATUS_BYTES, _MAX_IMAGE_BYTES = 64, 256
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class StartedBuild:
    """A build that `POST /build` started.

    Attributes:
        status_url: The replica to poll, if the server named one that may be sent the key.
        refused_url: The replica that it named, if that may not be sent the key.
    """

    build_id: str
    status_url: str | None = None
    refused_url: str | None = None


@dataclass(frozen=True)
class BuildStatus:
    """The state of a build; None for what the server does not say.

    Attributes:
        image: A valid image reference.
        invalid_image: What the server gave instead of one, to be quoted.
    """

    status: str | None
    image: str | None
    error: str | None
    invalid_image: str | None = None


@dataclass(frozen=True)
class Endpoint:
    """The status that one call was given; `is_served` is None if that does not tell."""

    path: str
    status: int
    is_served: bool | None


@dataclass(frozen=True)
class Probe:
    """How a server responds to calls that change nothing.

    Attributes:
        is_key_accepted: False if a call was refused with 401 or 403; None if no response tells.
    """

    endpoints: tuple[Endpoint, ...]
    is_key_accepted: bool | None


def is_build_id(text: str) -> bool:
    """Return whether a text can be a build ID: it is safe to send, to show and to type."""
    return _BUILD_ID.fullmatch(text) is not None


def check_build_id(text: str | None) -> str | None:
    """Return a build ID that was typed, or None if there is none.

    Raises:
        SettingError: It is invalid.
    """
    if text is not None and not is_build_id(text):
        raise SettingError(f"--build-id is not a build ID: {text!r}", f"use the ID that {run('upload')} printed")
    return text


def read_build_id(fields: Mapping[str, Any], clean: Callable[[str], str]) -> str:
    """Return the build ID, which some servers give as a number.

    Raises:
        InvalidResponse: There is none, or it is invalid.
    """
    value = fields.get("build_id")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidResponse("it is missing" if value is None else f"it is a {type(value).__name__}")
    build_id = str(value)
    if not is_build_id(build_id) or clean(build_id) != build_id:
        raise InvalidResponse("it is not 1 to 256 of A-Z a-z 0-9 _ . : / -")
    return build_id


def read_replica(fields: Mapping[str, Any]) -> str | None:
    """Return the URL of the replica to poll, or None if the response does not name a plain http or https URL."""
    url = fields.get("url")
    return url if isinstance(url, str) and _URL.fullmatch(url) and parse_origin(url) else None


def read_status(fields: Mapping[str, Any], clean: Callable[[str], str]) -> BuildStatus:
    """Return the state of a build; values of a wrong type count as missing.

    Args:
        clean: Masks secrets and escapes control characters.
    """
    status, image, error = (fields.get(name) for name in ("status", "image", "error"))
    is_image = isinstance(image, str) and _is_reference(image) and clean(image) == image
    return BuildStatus(
        status=shorten(clean(status.strip().upper()), _MAX_STATUS_BYTES) or None if isinstance(status, str) else None,
        image=str(image) if is_image else None,
        error=shorten(clean(describe(error))) if error else None,
        invalid_image=shorten(clean(describe(image)), _MAX_IMAGE_BYTES) if image and not is_image else None,
    )


def _is_reference(text: str) -> bool:
    try:
        parse_reference(text)
    except SettingError:
        return False
    return True


def parse_origin(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of a URL, or None if it is not one or has a user, a query or a fragment."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        return None
    return parts.scheme, parts.hostname, port or _PORTS[parts.scheme]
