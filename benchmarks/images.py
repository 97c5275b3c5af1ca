"""Build, verify, rebuild and push images with an engine of the benchmark's own, and print the figures as Markdown.

python -m benchmarks.images                                    this repository's example, all four targets
python -m benchmarks.images --features docker                  the same, without the desktop
python -m benchmarks.images --source ../agent-sdk --targets source-minimal,binary-minimal
python -m benchmarks.images --split --targets binary-minimal   the same with the executable in two files

It needs what the engine tests need: root, and `bash tests/engine/install.sh`. Each target has an engine that has built
nothing before, a registry on loopback, and a base image of Debian with Python. The source is cloned, never changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from benchmarks.rebuilds import PACKAGE_ROOT, Bench, Figures, clone_checkout
from buildkit.engines.discovery import find_engine
from buildkit.engines.engine import Engine, run_engine
from tests.engine.services import (
    SUITE,
    TRUST_VARIABLES,
    import_image,
    make_base_rootfs,
    run_dockerd,
    run_registry,
    unmount_below,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TARGETS = ("binary", "binary-minimal", "source", "source-minimal")
_BASE = "localhost/base:1"
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
        try:
            with _engine_folder() as folder, _docker(folder) as engine:
                figures = _measure_target(engine, folder, target, options)
                machine = describe_machine(engine, _inspect(engine, _BASE)["Size"], load)
        # Where an engine cannot run, the fixtures that are used here speak to pytest.
        except (pytest.skip.Exception, pytest.fail.Exception) as refusal:
            sys.exit(f"error: {refusal}")
        measured.append(figures)
        _tell(_format_row(figures))
    print(format_table(measured))
    print(machine)


def format_table(measured: Sequence[Figures]) -> str:
    """Return a row for each target."""
    return _HEAD + "".join(_format_row(figures) for figures in measured)


def describe_machine(engine: Engine, base_bytes: int, load: float) -> str:
    """Return a line of what it was measured on; no name of host or user."""
    kernel = platform.release().split("-")[0]
    return (
        f"{len(os.sched_getaffinity(0))} cores, {platform.system()} {kernel} {platform.machine()},"
        f" {engine.name} {engine.version}, base image of {base_bytes / _MEGA:.0f} MB (Debian {SUITE} with its Python),"
        f" load {load:.1f} at the start."
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
    parser.add_argument("--split", action="store_true", help="with SPLIT_EXECUTABLE=true")
    parser.add_argument("--module", default="openhands.agent_server", help="the server; its __main__.py is touched")
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


@contextlib.contextmanager
def _engine_folder() -> Iterator[Path]:
    """Yield a folder with a short name: the path of a socket has at most 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="rb-images-"))
    try:
        yield folder
    finally:
        unmount_below(folder)
        shutil.rmtree(folder)


@contextlib.contextmanager
def _docker(folder: Path) -> Iterator[Engine]:
    """Yield an engine that has the base image and nothing else."""
    home, config = folder / "docker", folder / "config"
    home.mkdir()
    config.mkdir()
    with (
        run_dockerd(home) as host,
        mock.patch.dict(os.environ, {"DOCKER_HOST": host, "DOCKER_CONFIG": str(config)}),
    ):
        engine = find_engine("docker")
        import_image(engine, make_base_rootfs(), _BASE, TRUST_VARIABLES)
        yield engine


def _measure_target(engine: Engine, folder: Path, target: str, options: argparse.Namespace) -> Figures:
    storage, beside = folder / "registry", folder / "beside"
    storage.mkdir()
    beside.mkdir()
    settings = {
        "BASE_IMAGE": _BASE,
        "BUILD_NETWORK": "host",
        "ENGINE": engine.name,
        "FEATURES": options.features,
        "SERVER_MODULE": options.module,
        "SPLIT_EXECUTABLE": str(options.split).lower(),
    }
    checkout = clone_checkout(options.source.resolve(), folder / "checkout")
    with run_registry(storage) as registry, options.log.open("a", encoding="utf-8") as log:
        bench = Bench(
            target,
            checkout,
            beside,
            settings,
            registry,
            inspect=lambda image: _inspect(engine, image),
            tell=_tell,
            record=log.write,
        )
        return bench.measure(options.module)


def _inspect(engine: Engine, image: str) -> dict[str, Any]:
    inspected: list[dict[str, Any]] = json.loads(run_engine(engine, "image", "inspect", image).stdout)
    return inspected[0]


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
