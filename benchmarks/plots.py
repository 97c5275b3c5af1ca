"""The figures as pictures, drawn with matplotlib: `context` next to its peers, and how its time and memory grow."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from benchmarks.cases import Bench, list_ours
from benchmarks.measure import Result, Sample, measure_once, take_median
from benchmarks.trees import Shape, make_tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Point = tuple[int, tuple[Sample, Sample]]

_SMALL_BYTES, _LARGE_BYTES = 1_260, 17_000  # a file of tree c, and one of tree b
_COUNTS = (1_000, 5_000, 20_000, 100_000)
_MEGABYTES = (3, 20, 100, 340)
_RUNS = 3
_OURS, _PEER = "C0", "0.75"


def draw_peers(path: Path, trees: Mapping[str, Sequence[Result]]) -> None:
    """Draw a bar for each case to an SVG file: a chart for each tree, by its heading."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 0.3 * sum(map(len, trees.values()))), layout="constrained")
    charts = figure.subplots(len(trees), 1, squeeze=False, height_ratios=list(map(len, trees.values())))
    for (heading, results), (chart,) in zip(trees.items(), charts, strict=True):
        shown = sorted(results, key=lambda result: -result.ratio)
        colours = [_PEER if result.case.peer else _OURS for result in shown]
        names = [result.case.name.replace("`", "").replace("\\|", "|") for result in shown]
        bars = chart.barh(names, [result.ratio for result in shown], color=colours)
        chart.bar_label(bars, fmt="%.2f", padding=3)
        chart.set(title=heading, xlabel="wall time, tar -czf = 1")
        chart.margins(x=0.1)
    figure.savefig(path, format="svg")


def draw_growth(path: Path, folder: Path, package_root: Path, *, smoke: bool) -> None:
    """Draw time and memory against size to an SVG file; trees are made in `folder`, or used if they exist."""
    counts, megabytes, runs = ((20, 40), (1, 2), 1) if smoke else (_COUNTS, _MEGABYTES, _RUNS)
    by_files: list[Point] = []
    by_size: list[Point] = []
    for count in counts:
        shape = Shape(count, count * _SMALL_BYTES, ignored=False)
        by_files.append((count, _measure(folder / f"files-{count}", shape, package_root, runs)))
    for size in megabytes:
        shape = Shape(size * 1_000_000 // _LARGE_BYTES, size * 1_000_000, ignored=False)
        by_size.append((size, _measure(folder / f"megabytes-{size}", shape, package_root, runs)))
    _draw(path, {"files of 1.26 kB": by_files, "megabytes, in files of 17 kB": by_size})


def _measure(tree: Path, shape: Shape, package_root: Path, runs: int) -> tuple[Sample, Sample]:
    """Return a first run and one with nothing changed, each the median of a few."""
    bench = Bench(tree.name, make_tree(tree, shape), package_root)
    print(f"growth: {tree.name}", file=sys.stderr, flush=True)
    bench.prepare()
    first, unchanged = ([measure_once(case, bench.tree) for _ in range(runs)] for case in list_ours(bench)[:2])
    return take_median(first), take_median(unchanged)


def _draw(path: Path, rows: dict[str, list[Point]]) -> None:
    """Draw a row of two charts for each series of points: wall time, and peak memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    charts = figure.subplots(len(rows), 2, squeeze=False)
    for (x_name, points), (walls, peaks) in zip(rows.items(), charts, strict=True):
        sizes = [size for size, _ in points]
        for index, name in enumerate(("first run", "nothing changed")):
            samples = [pair[index] for _, pair in points]
            walls.plot(sizes, [sample.wall_s for sample in samples], marker="o", label=name)
            peaks.plot(sizes, [sample.peak_bytes / 1e6 for sample in samples], marker="o", label=name)
        _label(walls, "wall time of `context`", x_name, "seconds")
        _label(peaks, "peak memory of `context`", x_name, "MB")
        walls.set_yscale("log")
        peaks.set_ylim(bottom=0)
    figure.savefig(path, format="svg")


def _label(chart: Any, title: str, x_name: str, y_name: str) -> None:  # noqa: ANN401 - matplotlib types it as Any
    chart.set(title=title, xlabel=x_name, ylabel=y_name, xscale="log")
    chart.grid(visible=True, alpha=0.3)
    chart.legend()
