"""The tasks that speak to a Runtime API, called as the command calls them, with all that they report and save kept."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from buildkit.models import BuildContext, Dockerfile, Submission, Target, Version
from buildkit.record import ImageNaming
from buildkit.reference import parse_reference
from buildkit.runtime_api.client import RuntimeApi
from buildkit.runtime_api.http import Network
from buildkit.runtime_api.polling import WatchedBuild, poll_build
from buildkit.runtime_api.retry import Clock
from buildkit.secret import ApiKey
from buildkit.tasks.upload import UploadRequest, upload
from buildkit.tasks.wait import WaitRequest, wait
from buildkit.ui import Ui
from buildkit.workspace import Workspace
from tests.runtime_api import KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from buildkit.models import BuildResult, StepResult

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
DOCKERFILE = Dockerfile(Target("binary"), "debian", "d" * 64, {})


@dataclass
class FakeTime:
    """A monotonic clock that only sleeping moves, and that lets a test act instead of sleeping."""

    now: float = 1000.0
    pauses: list[float] = field(default_factory=list)
    on_sleep: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.on_sleep()
        self.pauses.append(seconds)
        self.now += seconds


@dataclass
class KeptUi(Ui):
    """Keeps what is reported, and lets a test watch the progress.

    Attributes:
        draw: Called with the progress of an upload.
    """

    reports: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    published: dict[str, str | None] = field(default_factory=dict)
    draw: Callable[[int, int], None] = lambda _done, _total: None

    def report(self, line: str) -> None:
        self.reports.append(line)

    def warn(self, line: str) -> None:
        self.warnings.append(line)

    def publish(self, **outputs: str | None) -> None:
        self.published |= outputs

    @contextmanager
    def progress(self, _label: str) -> Iterator[Callable[[int, int], None]]:
        yield self.draw


class KeptWorkspace(Workspace):
    """Keeps the submissions that are saved, and lets a test act before each of them."""

    def __init__(self, path: Path, saved: list[Submission], before_save: Callable[[Submission], object]) -> None:
        super().__init__(path)
        self._saved = saved
        self._before_save = before_save

    def save(self, result: StepResult) -> None:
        if isinstance(result, Submission):
            self._before_save(result)
            self._saved.append(result)
        super().save(result)


@dataclass
class Steps:
    """Runs a task and keeps what it reported and saved.

    Attributes:
        saved: Submissions, in the order in which they were saved.
        limits: Limits of the client, by name.
    """

    url: str
    clock: FakeTime = field(default_factory=FakeTime)
    saved: list[Submission] = field(default_factory=list)
    ui: KeptUi = field(default_factory=KeptUi)
    limits: dict[str, float] = field(default_factory=dict)
    workspace: Workspace | None = None

    @property
    def reports(self) -> list[str]:
        return self.ui.reports

    @property
    def warnings(self) -> list[str]:
        return self.ui.warnings

    @property
    def upload_state(self) -> str | None:
        """What `upload.json` says now."""
        if self.workspace is None or not self.workspace.exists("upload.json"):
            return None
        return self.workspace.load(Submission, trace=False).state

    def submit(self, archive: Path, **changes: Any) -> Submission:
        """Upload an archive; what an earlier call left in the workspace counts."""
        target_image = changes.get("target_image")
        naming = ImageNaming(
            parse_reference(changes.get("image_name", "agent-server")),
            parse_reference(target_image) if target_image else None,
        )
        request = UploadRequest(naming, changes.get("upload_format", "json"), changes.get("force", False))
        before_save = changes.get("save", lambda _: None)
        self.workspace = KeptWorkspace(archive.parent / "runtime-build", self.saved, before_save)
        fill_workspace(self.workspace, archive)
        if packed := changes.get("packed"):
            self.workspace.save(packed)
        if previous := changes.get("previous"):
            Workspace(self.workspace.path).save(previous)
        return upload(self.workspace, self.open_api(), request, self.ui)

    def poll(self, build_id: str = "abc123", **changes: Any) -> BuildResult:
        build = WatchedBuild(build_id, changes.get("status_url"), changes.get("target_image"))
        clock = Clock(changes.get("clock", self.clock), changes.get("sleep", self.clock.sleep))
        return poll_build(self.open_api(clock), build, timeout_s=changes.get("timeout_s", 1800), ui=self.ui)

    def wait(self, workspace: Workspace, build_id: str | None = "abc123", **changes: Any) -> BuildResult:
        """Wait for a build, or for the one on record."""
        workspace.path.mkdir(exist_ok=True)
        clock = Clock(changes.pop("clock", self.clock), self.clock.sleep)
        request = WaitRequest(changes.pop("timeout_s", 1800), build_id, **changes)
        return wait(workspace, self.open_api(clock), request, self.ui)

    def open_api(self, clock: Clock | None = None) -> RuntimeApi:
        names = {"answer_timeout_s": "response_s"}
        limits = {names.get(name, name.replace("_timeout_s", "_s")): value for name, value in self.limits.items()}
        network = Network(dict(os.environ), **limits)
        return RuntimeApi(self.url, ApiKey(KEY), network=network, clock=clock or Clock(self.clock, self.clock.sleep))


def fill_workspace(workspace: Workspace, archive: Path) -> None:
    """Put there what the local tasks leave."""
    workspace.path.mkdir(exist_ok=True)
    workspace.write(VERSION.archive, archive.read_bytes())
    workspace.save(VERSION)
    workspace.save(DOCKERFILE)
    workspace.save(replace(make_context(archive), archive=VERSION.archive))


def make_context(archive: Path) -> BuildContext:
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    return BuildContext(archive.name, sha256, archive.stat().st_size, "c" * 64, 100_000, 3, {"name": "zlib"})
