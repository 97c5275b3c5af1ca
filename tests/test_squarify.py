"""The layout of a treemap: every size has its share of the box, and nothing overlaps."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from buildkit.squarify import Box, squarify

SIZES = st.lists(st.integers(1, 10**12), min_size=1, max_size=40).map(lambda sizes: sorted(sizes, reverse=True))
SIDES = st.floats(1, 2000)


@settings(max_examples=200)
@example([10**12, 64], 1.0, 1.0000013054881136)
@given(SIZES, SIDES, SIDES)
def test_every_size_has_its_share_of_the_box_and_nothing_overlaps(
    sizes: list[int], width: float, height: float
) -> None:
    boxes = squarify(sizes, Box(10, 20, width, height))
    slack = 1e-6 * max(width, height)
    areas = [box.width * box.height for box in boxes]
    assert areas == pytest.approx([size * width * height / sum(sizes) for size in sizes], rel=1e-6, abs=slack)
    for box in boxes:
        assert 10 - slack <= box.x <= box.x + box.width <= 10 + width + slack
        assert 20 - slack <= box.y <= box.y + box.height <= 20 + height + slack
    for one, other in combinations(boxes, 2):
        apart_x = one.x + one.width <= other.x + slack or other.x + other.width <= one.x + slack
        apart_y = one.y + one.height <= other.y + slack or other.y + other.height <= one.y + slack
        assert apart_x or apart_y


def test_equal_sizes_in_a_square_are_squares() -> None:
    boxes = squarify([1, 1, 1, 1], Box(0, 0, 100, 100))
    assert {(box.x, box.y, box.width, box.height) for box in boxes} == {
        (0, 0, 50, 50),
        (0, 50, 50, 50),
        (50, 0, 50, 50),
        (50, 50, 50, 50),
    }


def test_nothing_needs_no_box() -> None:
    assert squarify([], Box(0, 0, 100, 100)) == []
