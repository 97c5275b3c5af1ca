"""What a test session has counted; the figures at its end are these and no others."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, fields
from typing import Any

ROWS = 81
_LARGEST = {"slowest_signal_s", "overrun_s"}
_PAIRS = {"refused", "accepted"}
_ROW = re.compile(r"test_(\d{1,2})_")


@dataclass
class Ledger:
    """Counts of one test session."""

    outcomes: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    runs: int = 0
    kills: int = 0
    torn: list[str] = field(default_factory=list)
    resumed: int = 0
    resumable: int = 0
    builds_started: int = 0
    builds_started_twice: list[str] = field(default_factory=list)
    secret_hits: list[str] = field(default_factory=list)
    searched_bytes: int = 0
    outside_touched: list[str] = field(default_factory=list)
    raw_controls: int = 0
    tracebacks: int = 0
    foreign_requests: int = 0
    refused: list[int] = field(default_factory=lambda: [0, 0])
    accepted: list[int] = field(default_factory=lambda: [0, 0])
    signals: int = 0
    slowest_signal_s: float = 0.0
    overrun_s: float | None = None

    def record(self, test: str, outcome: str) -> None:
        """Take down how a test of a row ended: passed, failed or skipped."""
        if row := _ROW.search(test):
            self.outcomes[int(row[1])].add(outcome)

    def export(self) -> dict[str, Any]:
        """Return the counts, without the outcomes, as values that JSON can hold."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "outcomes"}

    def add(self, counts: dict[str, Any]) -> None:
        """Add the exported counts of another process."""
        for name, value in counts.items():
            own = getattr(self, name)
            if name in _LARGEST:
                setattr(self, name, max((known for known in (own, value) if known is not None), default=None))
            elif name in _PAIRS:
                setattr(self, name, [mine + other for mine, other in zip(own, value, strict=True)])
            else:
                setattr(self, name, own + value)

    def survived(self) -> list[int]:
        """Return the rows of which a test passed and none failed."""
        return [row for row, ends in sorted(self.outcomes.items()) if "passed" in ends and "failed" not in ends]

    def skipped(self) -> list[int]:
        """Return the rows of which every test was skipped."""
        return [row for row, ends in sorted(self.outcomes.items()) if ends == {"skipped"}]

    def is_clean(self) -> bool:
        """Return whether nothing was lost, leaked, torn, built twice or touched."""
        return not (self.torn or self.builds_started_twice or self.secret_hits or self.outside_touched)

    def figures(self) -> list[str]:
        """Return a line for each figure."""
        survived, skipped = self.survived(), self.skipped()
        missing = [str(row) for row in range(1, ROWS + 1) if row not in survived and row not in skipped]
        lines = [
            f"faults survived: {len(survived)} of {ROWS}" + (f" (not: {', '.join(missing)})" if missing else ""),
            f"faults skipped: {len(skipped)}" + (f" ({', '.join(map(str, skipped))})" if skipped else ""),
            f"kills: torn {len(self.torn)} of {self.kills}",
            f"builds started twice: {len(self.builds_started_twice)} (of {self.builds_started} started)",
            f"resumed from a saved build ID: {self.resumed} of {self.resumable}",
            f"secret hits: {len(self.secret_hits)} (in {self.searched_bytes / 1e6:.0f} MB from {self.runs} runs)",
            f"outside files touched: {len(self.outside_touched)}",
            f"requests to other servers: {self.foreign_requests}",
            f"raw control characters printed: {self.raw_controls}",
            f"tracebacks: {self.tracebacks}",
            f"bad inputs refused: {self.refused[0]} of {self.refused[1]}, with no file touched",
            f"good inputs accepted: {self.accepted[0]} of {self.accepted[1]}",
            f"slowest end after a signal: {self.slowest_signal_s:.2f} s of {self.signals}",
        ]
        if self.overrun_s is not None:
            lines.append(f"overrun past 30 minutes: {self.overrun_s:.1f} s (virtual clock)")
        return lines + [
            f"  {entry}"
            for entry in (self.torn + self.builds_started_twice + self.secret_hits + self.outside_touched)[:20]
        ]


LEDGER = Ledger()
