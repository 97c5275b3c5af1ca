"""The layout of a treemap: areas in proportion to sizes, as close to squares as possible.

The algorithm is that of Bruls, Huizing and van Wijk, "Squarified treemaps" (2000).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Box(NamedTuple):
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float


def squarify(sizes: Sequence[float], box: Box) -> list[Box]:
    """Return a box within `box` for each size, with its share of the area, as close to a square as possible.

    Args:
        sizes: Positive, largest first.
    """
    scale = box.width * box.height / (sum(sizes) or 1)
    areas = [size * scale for size in sizes]
    boxes: list[Box] = []
    while len(boxes) < len(areas):
        start = len(boxes)
        end = _end_row(areas, start, min(box.width, box.height))
        row, box = _lay_row(areas[start:end], box)
        boxes += row
    return boxes


def _end_row(areas: Sequence[float], start: int, side: float) -> int:
    """Return where a row along `side` ends: as soon as one more box would make the least square one worse."""
    total, worst = 0.0, float("inf")
    for end in range(start, len(areas)):
        total += areas[end]
        thickness = total / side if side else 0.0
        if not thickness or not areas[end]:
            return len(areas)
        ratio = max(areas[start] / thickness**2, thickness**2 / areas[end])
        if ratio > worst:
            return end
        worst = ratio
    return len(areas)


def _lay_row(areas: Sequence[float], box: Box) -> tuple[list[Box], Box]:
    """Return the boxes of one row along the shorter side, and what is left of `box`."""
    is_column = box.width >= box.height
    side, depth = (box.height, box.width) if is_column else (box.width, box.height)
    # Rounding must not lead out of the box.
    thickness = min(sum(areas) / side, depth) if side else 0.0
    boxes, offset = [], 0.0
    for area in areas:
        length = min(area / thickness, side - offset) if thickness else 0.0
        if is_column:
            boxes.append(Box(box.x, box.y + offset, thickness, length))
        else:
            boxes.append(Box(box.x + offset, box.y, length, thickness))
        offset += length
    if is_column:
        return boxes, Box(box.x + thickness, box.y, max(0.0, box.width - thickness), box.height)
    return boxes, Box(box.x, box.y + thickness, box.width, max(0.0, box.height - thickness))
