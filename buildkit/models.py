"""A frozen record for each step's result: what the state files hold and what library callers get."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class StepResult:
    """What one step left behind.

    `step` names the task, and so the state file `<step>.json`.

    Attributes:
        made_from: Digests (sha256, hex) of the files in the output directory that this result was made from, by file
            name. A later step refuses to go on where one of them has changed.
    """

    step: ClassVar[str]
    made_from: dict[str, str] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class Version(StepResult):
    """Which source this is and what its archive is called."""

    step: ClassVar[str] = "version"
    name: str
    sha: str | None
    short_sha: str
    dirty: bool
    tags: list[str]
    primary_tag: str
    archive: str
    commit_time: int | None


@dataclass(frozen=True)
class Dockerfile(StepResult):
    """The rendered Dockerfile; `Dockerfile` and `BUILD_INSTRUCTIONS.md` lie beside the state file."""

    step: ClassVar[str] = "dockerfile"
    target: str
    base_image: str
    dockerfile_sha256: str
    build_args: dict[str, str]


@dataclass(frozen=True)
class BuildContext(StepResult):
    """The packed archive and its digests."""

    step: ClassVar[str] = "context"
    archive: str
    archive_sha256: str
    archive_bytes: int
    context_sha256: str
    context_bytes: int
    files: int
    compressor: dict[str, str | int]


@dataclass(frozen=True)
class Submission(StepResult):
    """A build that was asked for: `state` is `intent` until the Runtime API has given its ID.

    Attributes:
        tags: Full image references besides `target_image`.
        submitted_at: RFC 3339, UTC; None while it is an intent.
        status_url: The replica to poll, where the server named one on a host that the user allows.
    """

    step: ClassVar[str] = "upload"
    state: str
    runtime_api_url: str
    target_image: str
    tags: list[str]
    context_sha256: str
    build_id: str | None
    submitted_at: str | None
    status_url: str | None = None


@dataclass(frozen=True)
class BuildResult(StepResult):
    """How a remote build ended."""

    step: ClassVar[str] = "wait"
    build_id: str
    status: str
    image: str | None
    error: str | None
    elapsed_s: float


@dataclass(frozen=True)
class LocalBuild(StepResult):
    """An image built by an engine at hand.

    Attributes:
        digest: The registry's, `sha256:…`; None where nothing was pushed.
    """

    step: ClassVar[str] = "build"
    engine: str
    image: str
    image_id: str
    digest: str | None
    elapsed_s: float


@dataclass(frozen=True)
class Finding:
    """One line of `doctor` or `verify`: what was looked at, whether it is right, and what to do where it is not."""

    subject: str
    ok: bool
    detail: str
    fix: str = ""
    exit_code: int = 4


@dataclass(frozen=True)
class Verification(StepResult):
    """The contract of the image, held against a running container."""

    step: ClassVar[str] = "verify"
    image: str
    engine: str
    target: str
    ok: bool
    findings: list[Finding]
    health_s: float | None
    stop_s: float | None


@dataclass(frozen=True)
class Project:
    """What the project file says of a source tree; every path is POSIX and relative to the source directory.

    Attributes:
        members: Directories of the uv workspace's members, sorted; empty for a single package.
        roots: Files and directories that are packed by default, sorted, none inside another.
        required: Files that must be there and must be packed.
        spec: The PyInstaller spec, or None where there is none.
    """

    members: tuple[str, ...]
    roots: tuple[str, ...]
    required: tuple[str, ...]
    spec: str | None
