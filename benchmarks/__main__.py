"""Measure `runtime-build` against what people would use instead, and print the figures as Markdown.

python -m benchmarks                          all three made trees, about half an hour
python -m benchmarks --checkout ../agent-sdk  tree a is a clone of that checkout
python -m benchmarks --trees a --pairs 7      one tree, more pairs
python -m benchmarks --plots docs/images      besides: peers.svg, and growth.svg against files and megabytes
python -m benchmarks --smoke                  a tiny tree, one pair: only whether it works
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cases import Bench, list_ours, list_peers
from benchmarks.measure import Result, measure_in_turns
from benchmarks.plots import draw_growth, draw_peers
from benchmarks.table import describe_machine, format_table
from benchmarks.trees import SHAPES, Shape, copy_checkout, make_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGE_ROOT = Path(__file__).resolve().parent.parent
_SMOKE = Shape(40, 60_000)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what was asked for."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        print(describe_machine(PACKAGE_ROOT))
        trees: dict[str, list[Result]] = {}
        for name in options.trees.split(","):
            heading, results, table = _measure_tree(name, folder, options)
            print(f"### {heading}, ratios of wall time to `tar -czf` of the same files\n\n{table}", flush=True)
            trees[heading] = results
        if options.plots:
            draw_peers(options.plots / "peers.svg", trees)
            draw_growth(options.plots / "growth.svg", folder, PACKAGE_ROOT, smoke=options.smoke)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trees", default="a,b,c", help="which trees, by their letters")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each case, each beside one of its peer")
    parser.add_argument("--checkout", type=Path, help="a real checkout to clone for tree a")
    parser.add_argument("--keep", type=Path, help="make the trees here, and use them again next time")
    parser.add_argument("--plots", type=Path, help="draw peers.svg and growth.svg in this folder")
    parser.add_argument("--ours", action="store_true", help="leave out the peers, except the one that is the measure")
    parser.add_argument("--smoke", action="store_true", help="tiny trees and one pair")
    options = parser.parse_args(arguments)
    unknown = set(options.trees.split(",")) - SHAPES.keys()
    if unknown:
        parser.error(f"no such tree: {', '.join(sorted(unknown))}; there are a, b and c")
    if options.pairs < 1:
        parser.error("--pairs is at least 1")
    return options


def _measure_tree(name: str, folder: Path, options: argparse.Namespace) -> tuple[str, list[Result], str]:
    """Return heading, results and table of one tree."""
    shape = _SMOKE if options.smoke else SHAPES[name]
    pairs = 1 if options.smoke else options.pairs
    if name == "a" and options.checkout:
        tree = copy_checkout(options.checkout.resolve(), folder / name)
    else:
        tree = make_tree(folder / name, shape)
    bench = Bench(name, tree, PACKAGE_ROOT)
    bench.prepare()
    tar, *peers = list_peers(bench)
    results = []
    for case in [*list_ours(bench), *([] if options.ours else peers)]:
        print(f"{name}: {case.name}", file=sys.stderr, flush=True)
        results.append(measure_in_turns(case, tar, tree, pairs))
    count = (bench.beside / "files").read_bytes().count(b"\0")
    every_tar = [sample for result in results for sample in result.against]
    results.append(Result(tar, every_tar, every_tar, tar.output.stat().st_size if tar.output else None))
    return f"{name}: {count:,} files, {pairs} pairs", results, format_table(results, _measure_gzip(bench))


def _measure_gzip(bench: Bench) -> int:
    """Return the size of our tar, packed by `gzip -6`."""
    command = 'gzip -dc "$1" | gzip -6 | wc -c'
    done = subprocess.run(["sh", "-c", command, "sh", bench.archive], capture_output=True, text=True, check=True)
    return int(done.stdout)


if __name__ == "__main__":
    main()
