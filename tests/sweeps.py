"""Many values of which the quick run takes a few; CI's slow step takes the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable


def rest_is_slow(values: Iterable[Any], quick: int) -> list[Any]:
    """Return the values as parameters of a test, all but the first few of them marked as slow."""
    return [
        value if index < quick else pytest.param(value, marks=pytest.mark.slow) for index, value in enumerate(values)
    ]
