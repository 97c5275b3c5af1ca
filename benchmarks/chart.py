"""A small line chart as SVG, drawn without a library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH, _HEIGHT, _MARGIN = 420, 280, 56
_COLOURS = ("#1f5fa8", "#c2571a", "#2d7d46", "#7a3f9d")


@dataclass(frozen=True)
class Line:
    """Points of one line, as x and y."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One chart; both axes are logarithmic where `log` says so, so that growth in step with x is a straight line."""

    title: str
    x_name: str
    y_name: str
    lines: Sequence[Line]
    log: bool = True


def draw(panels: Sequence[Panel]) -> str:
    """Return the panels beside one another, two in a row."""
    rows = (len(panels) + 1) // 2
    body = "".join(
        f'<g transform="translate({index % 2 * _WIDTH},{index // 2 * _HEIGHT})">{_draw_panel(panel)}</g>'
        for index, panel in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * _WIDTH}" height="{rows * _HEIGHT}"'
        ' font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f"{body}</svg>\n"
    )


def _draw_panel(panel: Panel) -> str:
    points = [point for line in panel.lines for point in line.points]
    x_axis = _Axis([x for x, _ in points], _MARGIN, _WIDTH - 20, log=True)
    y_axis = _Axis([y for _, y in points], _HEIGHT - _MARGIN, 34, log=panel.log)
    parts = [f'<text x="{_WIDTH / 2}" y="18" text-anchor="middle" font-weight="bold">{panel.title}</text>']
    for value in x_axis.ticks():
        x = x_axis.place(value)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="34" y2="{_HEIGHT - _MARGIN}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _MARGIN + 15}" text-anchor="middle">{value:,g}</text>')
    for value in y_axis.ticks():
        y = y_axis.place(value)
        parts.append(f'<line x1="{_MARGIN}" x2="{_WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_MARGIN - 5}" y="{y + 4:.1f}" text-anchor="end">{value:,g}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 22}" text-anchor="middle">{panel.x_name}</text>')
    parts.append(f'<text x="14" y="{_HEIGHT / 2}" transform="rotate(-90 14 {_HEIGHT / 2})">{panel.y_name}</text>')
    for colour, line in zip(_COLOURS, panel.lines, strict=False):
        path = " ".join(f"{x_axis.place(x):.1f},{y_axis.place(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in line.points:
            parts.append(f'<circle cx="{x_axis.place(x):.1f}" cy="{y_axis.place(y):.1f}" r="3" fill="{colour}"/>')
    for index, (colour, line) in enumerate(zip(_COLOURS, panel.lines, strict=False)):
        parts.append(f'<text x="{_MARGIN + 8}" y="{48 + 14 * index}" fill="{colour}">{line.name}</text>')
    return "".join(parts)


class _Axis:
    """Maps values to places between two ends."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool) -> None:
        self._log = log
        self._start, self._end = start, end
        if log:
            self._low = 10.0 ** math.floor(math.log10(min(values)))
            self._high = 10.0 ** math.ceil(math.log10(max(values)))
        else:
            self._low, self._high = 0.0, max(values) * 1.25

    def place(self, value: float) -> float:
        """Return where a value lies."""
        if self._log:
            part = math.log10(value / self._low) / math.log10(self._high / self._low)
        else:
            part = (value - self._low) / (self._high - self._low)
        return self._start + part * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Return values to write at the axis."""
        if self._log:
            decades = round(math.log10(self._high / self._low))
            return [self._low * 10.0**step for step in range(decades + 1)]
        step = 10.0 ** math.floor(math.log10(self._high / 2))
        return [step * index for index in range(int(self._high / step) + 1)]
