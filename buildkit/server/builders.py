"""Builders: engines that run several builds at a time, and the choice of the one whose cache fits a build best."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from buildkit.engines.docker import Buildx
from buildkit.errors import NotStarted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from buildkit.engines.engine import Engine


class Builder:
    """An engine, and whether it responds.

    Attributes:
        problem: Why it does not respond, or empty if it does; known after the first `check`.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = (isinstance(engine, Buildx) and engine.builder) or engine.name
        self.problem = f"{self.name} has not responded yet"

    def check(self) -> bool:
        """Return whether the engine responds."""
        try:
            self.engine.check()
        except NotStarted as refusal:
            self.problem = f"{refusal.message}; {refusal.fix}"
            return False
        self.problem = ""
        return True


def choose_builder(builders: Iterable[Builder], base_image: str) -> Builder | None:
    """Return the builder for a base image, or None if there is none.

    Builds on the same base image go to the same builder, because its cache holds their layers. When one builder is
    added or missing, only its own base images move (rendezvous hashing).

    Args:
        builders: Those that respond and have room for another build.
    """

    def weigh(builder: Builder) -> bytes:
        return hashlib.sha256(f"{builder.name}\0{base_image}".encode()).digest()

    return max(builders, key=weigh, default=None)
