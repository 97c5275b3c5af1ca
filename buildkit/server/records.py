"""Records that the parts of the server share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Build:
    """An accepted build; times are seconds since the epoch.

    Attributes:
        context_sha256: The digest of the stored context, or of its second gzip member if there is a `source_sha256`.
        source_sha256: The digest of the source part if that was uploaded on its own.
        attempts: How many times a builder has started it.
        image: The reference of the image that it produced.
        step: What it is doing right now, as the engine puts it.
        builder: The engine or buildx builder that runs it, or ran it last.
        retry_of: The ID of the build that a user asked to build again.
    """

    id: str
    status: str
    target_image: str
    tags: tuple[str, ...]
    base_image: str
    owner: str
    context_sha256: str
    source_sha256: str | None
    idempotency_key: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempts: int
    image: str | None
    error: str | None
    step: str
    builder: str
    cancel_requested: bool
    retry_of: str | None


@dataclass(frozen=True)
class NewBuild:
    """A build to accept; its fields are those of `Build`."""

    target_image: str
    tags: tuple[str, ...]
    base_image: str
    owner: str
    context_sha256: str
    source_sha256: str | None = None
    idempotency_key: str | None = None
    retry_of: str | None = None


class Query(NamedTuple):
    """Which builds to list.

    Attributes:
        text: Part of an ID, an image or an owner, in upper or lower case.
        before: The ID of a build; only older ones are listed.
    """

    status: str | None = None
    text: str = ""
    limit: int = 50
    before: str | None = None
