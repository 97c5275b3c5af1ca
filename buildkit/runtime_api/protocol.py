"""The Runtime API's protocol: paths, statuses, build IDs, and the records of what a server says about a build."""

from __future__ import annotations

import re
from typing import NamedTuple

from buildkit.errors import SettingError, run
from buildkit.models import UPLOAD_FORMATS

FEATURES = "/"
BUILD = "/build"
BUILD_STATUS = "/build_status"
BUILD_LOGS = "/build_logs"
REGISTRY_PREFIX = "/registry_prefix"
IMAGE_EXISTS = "/image_exists"
BUILDS = "/builds"
CONTEXTS = "/contexts"

JSON, MULTIPART = UPLOAD_FORMATS

# Features that a server may list.
IDEMPOTENCY, CANCEL, FOLLOW, STORED_CONTEXTS = "idempotency", "cancel", "follow", "contexts"

SUCCESS = "SUCCESS"
ENDED = frozenset({SUCCESS, "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED"})
IN_PROGRESS = frozenset({"PENDING", "QUEUED", "RUNNING", "WORKING"})

_BUILD_ID = re.compile(r"[A-Za-z0-9_.:/-]{1,256}")


class StartedBuild(NamedTuple):
    """A build that `POST /build` started.

    Attributes:
        status_url: The replica to poll, if the server named one that may be sent the key.
        refused_url: The replica that it named, if that may not be sent the key.
    """

    build_id: str
    status_url: str | None = None
    refused_url: str | None = None


class BuildStatus(NamedTuple):
    """The state of a build; None for what the server does not say.

    Attributes:
        image: A valid image reference.
        invalid_image: What the server gave instead of one, to be quoted.
        detail: The step that is running, or the position in the queue; empty if the server says neither.
    """

    status: str | None
    image: str | None
    error: str | None
    invalid_image: str | None = None
    detail: str = ""


class ListedBuild(NamedTuple):
    """A build as a server lists it; None for what the server does not say.

    Attributes:
        image: What was requested.
        created_at: Seconds since the epoch.
    """

    build_id: str
    status: str | None
    image: str | None
    created_at: float | None


def is_build_id(text: str) -> bool:
    """Return whether a text can be a build ID: it is safe to send, to show and to type."""
    return _BUILD_ID.fullmatch(text) is not None


def parse_build_id(text: str, name: str) -> str:
    """Return a build ID that was typed."""
    if not is_build_id(text):
        raise SettingError(f"{name} is not a build ID: {text!r}", f"use the ID that {run('upload')} printed")
    return text
