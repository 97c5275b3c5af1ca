"""Build, verify, rebuild and push images with an engine of the benchmark's own, and print the figures as Markdown.

python -m benchmarks.images                                    this repository's example, all four targets
python -m benchmarks.images --features docker                  the same, without the desktop
python -m benchmarks.images --source ../agent-sdk --targets source-minimal,binary-minimal
python -m benchmarks.images --base rootfs.tar                  from a root file system of one's own
python -m benchmarks.images --split --targets binary-minimal   the same with the executable in two files

Needs root, docker and docker-registry. Each target has an engine that has built nothing before, and a registry on
loopback. The source is cloned, never changed.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.docker import BASE, run_docker
from benchmarks.rebuilds import PACKAGE_ROOT, Bench, Figures, clone_checkout, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.docker import Docker

TARGETS = ("binary", "binary-minimal", "source", "source-minimal")
_DEFAULT_BASE = "nikolaik/python-nodejs:python3.12-nodejs22"
_HEAD = (
    "| target | size | cold | nothing changed | a file touched | then pushed | new commit | layers reused |"
    " `/health` | stop |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
)
_MEGA = 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for."""
    options = _parse(arguments)
    load = os.getloadavg()[0]
    measured = []
    machine = ""
    for target in options.targets:
        with run_docker(options.base) as engine:
            measured.append(_measure_target(engine, target, options))
            machine = describe_machine(engine.version, engine.inspect(BASE)["Size"], load)
        tell(_format_row(measured[-1]))
    print(format_table(measured))
    print(machine)


def format_table(measured: Sequence[Figures]) -> str:
    """Return a row for each target."""
    return _HEAD + "".join(_format_row(figures) for figures in measured)


def describe_machine(docker: str, base_bytes: int, load: float) -> str:
    """Return a line about what it was measured on; no name of host or user."""
    kernel = platform.release().split("-")[0]
    return (
        f"{len(os.sched_getaffinity(0))} cores, {platform.system()} {kernel} {platform.machine()}, docker {docker},"
        f" base image of {base_bytes / _MEGA:.0f} MB, load {load:.1f} at the start."
    )


def _format_row(figures: Figures) -> str:
    return (
        f"| `{figures.target}` | {figures.size_bytes / _MEGA:,.0f} MB | {figures.cold_s:.0f} s"
        f" | {figures.unchanged_s:.1f} s | {figures.touched_s:.1f} s | {figures.pushed_bytes / _MEGA:.2f} MB"
        f" | {figures.commit_s:.1f} s | {figures.layers_reused} of {figures.layers}"
        f" | {figures.health_s:.1f} s | {figures.stop_s:.1f} s |\n"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.images", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=PACKAGE_ROOT / "examples/agent-server", help="a checkout")
    parser.add_argument("--targets", default=",".join(TARGETS), help="which ones, separated by commas")
    parser.add_argument("--features", default="docker,desktop", help="of the full targets, or none")
    parser.add_argument("--split", action="store_true", help="with BUILD_ARGS=SPLIT_EXECUTABLE=true")
    parser.add_argument("--module", default="openhands.agent_server", help="the server; its __main__.py is touched")
    parser.add_argument("--base", default=_DEFAULT_BASE, help="an image reference, or a root file system's tarball")
    parser.add_argument(
        "--log", type=Path, default=Path(os.devnull), help="a file to which all that is said is appended"
    )
    options = parser.parse_args(arguments)
    options.targets = options.targets.split(",")
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if not options.source.is_dir():
        parser.error(f"no such folder: {options.source}")
    return options


def _measure_target(engine: Docker, target: str, options: argparse.Namespace) -> Figures:
    settings = {
        "BASE_IMAGE": BASE,
        "ENGINE": "docker",
        "FEATURES": options.features,
        "SERVER_MODULE": options.module,
        "BUILD_ARGS": f"SPLIT_EXECUTABLE={str(options.split).lower()}",
    }
    checkout = clone_checkout(options.source.resolve(), engine.folder / "checkout")
    return Bench(target, checkout, engine, settings, options.log).measure(options.module)


if __name__ == "__main__":
    main()
