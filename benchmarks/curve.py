"""How time and memory of `context` grow with files and with megabytes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from benchmarks.cases import Bench, list_ours
from benchmarks.chart import Line, Panel, draw
from benchmarks.measure import Sample, measure_once, take_median
from benchmarks.trees import Shape, make_tree

if TYPE_CHECKING:
    from pathlib import Path

_SMALL_BYTES, _LARGE_BYTES = 1_260, 17_000  # a file of tree c, and one of tree b
_COUNTS = (1_000, 5_000, 20_000, 100_000)
_MEGABYTES = (3, 20, 100, 340)
_RUNS = 3


def draw_curve(folder: Path, package_root: Path, *, smoke: bool) -> str:
    """Return the curves as SVG; trees are made in `folder`, or used where they are."""
    counts, megabytes, runs = ((20, 40), (1, 2), 1) if smoke else (_COUNTS, _MEGABYTES, _RUNS)
    by_files, by_size = [], []
    for count in counts:
        shape = Shape(count, count * _SMALL_BYTES, ignored=False)
        by_files.append((count, _measure(folder / f"files-{count}", shape, package_root, runs)))
    for size in megabytes:
        shape = Shape(size * 1_000_000 // _LARGE_BYTES, size * 1_000_000, ignored=False)
        by_size.append((size, _measure(folder / f"megabytes-{size}", shape, package_root, runs)))
    return draw([*_draw_pair("files of 1.26 kB", by_files), *_draw_pair("megabytes, in files of 17 kB", by_size)])


def _measure(tree: Path, shape: Shape, package_root: Path, runs: int) -> tuple[Sample, Sample]:
    """Return a first run and one where nothing changed, medians of a few."""
    bench = Bench(tree.name, make_tree(tree, shape), package_root)
    print(f"curve: {tree.name}", file=sys.stderr, flush=True)
    bench.prepare()
    first, unchanged = ([measure_once(case, bench.tree) for _ in range(runs)] for case in list_ours(bench)[:2])
    return take_median(first), take_median(unchanged)


def _draw_pair(x_name: str, points: list[tuple[int, tuple[Sample, Sample]]]) -> list[Panel]:
    names = ("first run", "nothing changed")
    walls = [Line(name, [(x, samples[at].wall_s) for x, samples in points]) for at, name in enumerate(names)]
    peaks = [Line(name, [(x, samples[at].peak_bytes / 1e6) for x, samples in points]) for at, name in enumerate(names)]
    return [
        Panel("wall time of `context`", x_name, "seconds", walls),
        Panel("peak memory of `context`", x_name, "MB", peaks, log=False),
    ]
