"""The steps that speak to a Runtime API, called as the tasks call them, with all that they say and save kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from buildkit.models import BuildContext, BuildResult, Submission, Version
from buildkit.runtime_api.client import RuntimeApi
from buildkit.secret import ApiKey
from buildkit.steps.upload import submit_build
from buildkit.steps.wait import poll_build
from tests.runtime_api import KEY

if TYPE_CHECKING:
    from pathlib import Path

VERSION = Version(
    name="agent-server-0506352-dev",
    sha="0506352" + "0" * 33,
    short_sha="0506352",
    dirty=False,
    tags=["dev", "staging"],
    primary_tag="dev",
    archive="agent-server-0506352-dev.tar.gz",
    commit_time=1_760_000_000,
)


@dataclass
class Clock:
    """A monotonic clock that only sleeping moves."""

    now: float = 1000.0
    pauses: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@dataclass
class Steps:
    """Runs a step and keeps what it said and saved.

    Attributes:
        saved: Submissions, in the order in which they were saved.
        discarded: How often the intent was taken back.
        limits: Arguments for the client.
    """

    url: str
    clock: Clock = field(default_factory=Clock)
    saved: list[Submission] = field(default_factory=list)
    discarded: int = 0
    reports: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    limits: dict[str, Any] = field(default_factory=dict)

    @property
    def upload_state(self) -> str | None:
        """What `upload.json` would say now."""
        return self.saved[-1].state if self.saved and not self.discarded else None

    def submit(self, archive: Path, **changes: Any) -> Submission:
        values: dict[str, Any] = {
            "target": "binary",
            "image_name": "agent-server",
            "target_image": None,
            "upload_format": "json",
            "previous": None,
            "force": False,
            "save": self.saved.append,
            "discard": self.discard,
            "progress": lambda _sent_bytes, _total_bytes: None,
            "report": self.reports.append,
            "warn": self.warnings.append,
            "context": make_context(archive),
            "version": VERSION,
        }
        with self.open_api() as api:
            return submit_build(api, archive, **(values | changes))

    def poll(self, build_id: str = "abc123", **changes: Any) -> BuildResult:
        values: dict[str, Any] = {
            "status_url": None,
            "timeout_s": 1800,
            "poll_interval_s": 30,
            "report": self.reports.append,
            "warn": self.warnings.append,
            "sleep": self.clock.sleep,
            "clock": self.clock,
        }
        with self.open_api() as api:
            return poll_build(api, build_id, **(values | changes))

    def open_api(self) -> RuntimeApi:
        return RuntimeApi(self.url, ApiKey(KEY), sleep=self.clock.sleep, **self.limits)

    def discard(self) -> None:
        self.discarded += 1


def make_context(archive: Path) -> BuildContext:
    return BuildContext(archive.name, "a" * 64, archive.stat().st_size, "c" * 64, 100_000, 3, {"name": "zlib"})
