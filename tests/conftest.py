"""Fixtures that more than one file uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.runtime_api import RuntimeApiServer
from tests.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def runtime_api() -> Iterator[RuntimeApiServer]:
    """A Runtime API on loopback, which behaves until it is told otherwise."""
    with RuntimeApiServer() as server:
        yield server


@pytest.fixture
def steps(runtime_api: RuntimeApiServer) -> Steps:
    """The steps that speak to that server."""
    return Steps(runtime_api.url)
