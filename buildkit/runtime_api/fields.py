"""What the JSON object of a response says: each value checked, bounded and made safe to show."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from buildkit.errors import SettingError
from buildkit.reference import parse_reference
from buildkit.runtime_api.protocol import BuildStatus, ListedBuild, is_build_id
from buildkit.runtime_api.response import InvalidResponse, describe, parse_origin, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Clean = Callable[[str], str]  # masks secrets and escapes control characters

_URL = re.compile(r"[!-~]{1,2048}")
_MAX_TIME_S = 1e11
_MAX_STATUS_BYTES, _MAX_IMAGE_BYTES = 64, 256
_MAX_STEP_BYTES = 200
_MAX_POSITION = 10**9
_MAX_FEATURES = 64
_FEATURE = re.compile(r"[a-z0-9_-]{1,32}")


def read_build_id(fields: Mapping[str, Any], clean: Clean) -> str:
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


def read_status(fields: Mapping[str, Any], clean: Clean) -> BuildStatus:
    """Return the state of a build; values of a wrong type count as missing."""
    status, image, error = (fields.get(name) for name in ("status", "image", "error"))
    is_image = isinstance(image, str) and _is_reference(image) and clean(image) == image
    return BuildStatus(
        status=_read_status(status, clean),
        image=str(image) if is_image else None,
        error=shorten(clean(describe(error))) if error else None,
        invalid_image=shorten(clean(describe(image)), _MAX_IMAGE_BYTES) if image and not is_image else None,
        detail=_read_detail(fields.get("step"), fields.get("queue_position"), clean),
    )


def _read_status(status: object, clean: Clean) -> str | None:
    return shorten(clean(status.strip().upper()), _MAX_STATUS_BYTES) or None if isinstance(status, str) else None


def _read_detail(step: object, position: object, clean: Clean) -> str:
    if isinstance(step, str) and step:
        return shorten(clean(step), _MAX_STEP_BYTES)
    return f"number {position} in the queue" if type(position) is int and 0 < position <= _MAX_POSITION else ""


def read_builds(fields: Mapping[str, Any], clean: Clean) -> list[ListedBuild]:
    """Return the builds that a server lists; an entry without a usable build ID is left out."""
    listed = fields.get("builds")
    if not isinstance(listed, list):
        raise InvalidResponse("it has no list of builds")
    return [build for entry in listed if isinstance(entry, dict) and (build := _read_listed(entry, clean))]


def read_features(fields: Mapping[str, Any]) -> frozenset[str]:
    """Return the features that a server lists; anything that cannot be the name of one is ignored."""
    listed = fields.get("features")
    names = listed[:_MAX_FEATURES] if isinstance(listed, list) else []
    return frozenset(name for name in names if isinstance(name, str) and _FEATURE.fullmatch(name))


def _read_listed(fields: Mapping[str, Any], clean: Clean) -> ListedBuild | None:
    try:
        build_id = read_build_id(fields, clean)
    except InvalidResponse:
        return None
    status, image, created_at = (fields.get(name) for name in ("status", "target_image", "created_at"))
    is_number = isinstance(created_at, int | float) and not isinstance(created_at, bool)
    time_s = created_at if created_at is not None and is_number else -1
    return ListedBuild(
        build_id,
        _read_status(status, clean),
        shorten(clean(image), _MAX_IMAGE_BYTES) or None if isinstance(image, str) else None,
        float(time_s) if 0 <= time_s < _MAX_TIME_S else None,
    )


def _is_reference(text: str) -> bool:
    try:
        parse_reference(text)
    except SettingError:
        return False
    return True
