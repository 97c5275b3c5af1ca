"""Results as Markdown."""

from __future__ import annotations

import os
import platform
import subprocess
from typing import TYPE_CHECKING

from benchmarks.measure import take_median

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.measure import Result

_HEAD = (
    "| case | ratio | smallest to largest | wall s | CPU s | peak MB | bytes | against gzip -6 |\n"
    "|---|---:|---|---:|---:|---:|---:|---:|\n"
)
_MEGA = 1e6


def format_table(results: Sequence[Result], gzip_bytes: int) -> str:
    """Return a row for each result.

    Args:
        gzip_bytes: Size of the same tar packed by `gzip -6`.
    """
    return _HEAD + "".join(_format_row(result, gzip_bytes) for result in results)


def describe_machine(package_root: Path) -> str:
    """Return what was measured on what: processor, kernel, Python, compressor, commit; no name of host or user."""
    commit = subprocess.run(
        ["git", "-C", package_root, "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    facts = {
        "processor": f"{_find_processor()}, {len(os.sched_getaffinity(0))} cores",
        "system": f"{platform.system()} {platform.release().split('-')[0]}, {platform.machine()}",
        "Python": platform.python_version(),
        "isal": _find_isal(),
        "git": subprocess.run(["git", "version"], capture_output=True, text=True, check=True).stdout.split()[-1],
        "commit": commit or "unknown",
    }
    return "".join(f"- {name}: {value}\n" for name, value in facts.items())


def _format_row(result: Result, gzip_bytes: int) -> str:
    typical, size = take_median(result.samples), result.output_bytes
    name = result.case.name if result.case.peer else f"**{result.case.name}**"
    bytes_, against = (f"{size:,}", f"{size / gzip_bytes:.3f}") if size else ("", "")
    return (
        f"| {name} | {result.ratio:.2f} | {result.spread} | {typical.wall_s:.3f} | {typical.cpu_s:.3f}"
        f" | {typical.peak_bytes / _MEGA:.1f} | {bytes_} | {against} |\n"
    )


def _find_processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _find_isal() -> str:
    try:
        from isal import ISAL_VERSION, __version__
    except ImportError:
        return "not installed"
    return f"{__version__} (ISA-L {ISAL_VERSION})"
