"""Whole processes, measured: wall time, processor time, peak memory; in pairs that take turns."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_KIBI = 1024


@dataclass(frozen=True)
class Sample:
    """One run of one command, with all the processes that it waited for; memory is that of the largest."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Case:
    """A command to measure.

    Attributes:
        command: An argument vector, or text for the shell where it is a pipeline.
        environment: Besides a clean one.
        prepare: Called before each run, outside the measurement.
        output: The file whose size is reported.
        peer: Whether it is what we are held against, rather than ours.
    """

    name: str
    command: Sequence[str] | str
    environment: dict[str, str]
    prepare: Callable[[], None] | None = None
    output: Path | None = None
    peer: bool = False


@dataclass(frozen=True)
class Result:
    """What was measured of a case, and of the peer that took turns with it."""

    case: Case
    samples: list[Sample]
    against: list[Sample]
    output_bytes: int | None

    @property
    def ratios(self) -> list[float]:
        """Wall time of each run, over that of the peer's run just before it."""
        return [ours.wall_s / theirs.wall_s for ours, theirs in zip(self.samples, self.against, strict=True)]

    @property
    def ratio(self) -> float:
        """Median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> str:
        """Smallest and largest of these ratios."""
        return f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"


def take_median(samples: Sequence[Sample]) -> Sample:
    """Return the median of each figure by itself."""
    return Sample(
        statistics.median(sample.wall_s for sample in samples),
        statistics.median(sample.cpu_s for sample in samples),
        int(statistics.median(sample.peak_bytes for sample in samples)),
    )


def measure_once(case: Case, folder: Path) -> Sample:
    """Return one run in `folder`.

    Raises:
        RuntimeError: The command failed; its output is the message.
    """
    if case.prepare:
        case.prepare()
    base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    started = time.perf_counter()
    with subprocess.Popen(
        case.command,
        shell=isinstance(case.command, str),
        cwd=folder,
        env=base | case.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        errors = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"{case.name}: exit {process.returncode}: {errors.decode('utf-8', 'replace')[-2000:]}")
    return Sample(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _KIBI)


def measure_in_turns(case: Case, peer: Case, folder: Path, pairs: int) -> Result:
    """Return `pairs` runs of `case`, each with a run of `peer` before it; one of each to warm up is not counted."""
    samples, against = [], []
    measure_once(peer, folder)
    measure_once(case, folder)
    for _ in range(pairs):
        against.append(measure_once(peer, folder))
        samples.append(measure_once(case, folder))
    return Result(case, samples, against, case.output.stat().st_size if case.output else None)
