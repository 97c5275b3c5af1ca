"""A frozen record for each step's result: what the state files contain and what library callers get."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildkit.source.dependencies import Dependencies, VersionTool

FEATURES = ("acp", "desktop", "docker", "vscode")
DEFAULT_FEATURES = ("docker", "vscode", "acp")
UPLOAD_FORMATS = ("json", "multipart")
# Written next to the Dockerfile, and packed under `.runtime-build/`: what the Dockerfile runs during a build.
PROGRAMS = (
    "agents.sh",
    "analyse.py",
    "bundle.py",
    "check_server.py",
    "copy_python.py",
    "health.sh",
    "outline.py",
    "separate.py",
    "server.py",
    "server.spec",
    "split.py",
)


class Target(str):
    """What is built: one of the four images or, with DOCKERFILE, a stage of it; empty for the last one."""

    __slots__ = ()

    @property
    def is_binary(self) -> bool:
        """Whether the server is an executable."""
        return self in {"binary", "binary-minimal"}

    @property
    def is_minimal(self) -> bool:
        """Whether the image has only the essentials."""
        return self in {"binary-minimal", "source-minimal"}

    @property
    def tag_suffix(self) -> str:
        """What image tags end in, so that images of different targets do not overwrite each other."""
        return "" if self in {"", "binary"} else f"-{self}"


TARGETS = tuple(map(Target, ("binary", "binary-minimal", "source", "source-minimal")))


def is_archive_name(name: str) -> bool:
    """Return whether a file of that name can be an archive of ours; no other name is ever removed as one."""
    return bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}", name)) and name.endswith((".tar.gz", ".tgz"))


@dataclass(frozen=True)
class StepResult:
    """What one step left behind.

    `step` names the task, and therefore the state file `<step>.json`.

    Attributes:
        made_from: Digests (sha256, hex) of the files in the output directory that this result was made from, by file
            name. A later step refuses to continue if one of them has changed.
    """

    step: ClassVar[str]
    made_from: dict[str, str] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class Version(StepResult):
    """Which commit the source is at, and what its archive is called."""

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
    """The rendered Dockerfile; `Dockerfile` and `BUILD_INSTRUCTIONS.md` are next to the state file."""

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
    """A requested build: `state` is `intent` until the Runtime API has returned its ID.

    Attributes:
        tags: Full image references in addition to `target_image`.
        submitted_at: RFC 3339, UTC; None while it is an intent.
        idempotency_key: Digest of the context, the image names and a nonce: one key, one build.
        status_url: The replica to poll, if the server named one on a host that the user allows.
    """

    step: ClassVar[str] = "upload"
    state: str
    runtime_api_url: str
    target_image: str
    tags: list[str]
    context_sha256: str
    build_id: str | None
    submitted_at: str | None
    idempotency_key: str | None = None
    status_url: str | None = None

    @property
    def images(self) -> list[str]:
        """Every image reference that was requested, the first one first."""
        return [self.target_image, *self.tags]


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
    """An image built by a local engine.

    Attributes:
        digest: The registry's, `sha256:…`; None if nothing was pushed.
    """

    step: ClassVar[str] = "build"
    engine: str
    image: str
    image_id: str
    digest: str | None
    elapsed_s: float


@dataclass(frozen=True)
class Finding:
    """One line of `doctor` or `verify`: what was checked, whether it is right, and what to do if it is not."""

    subject: str
    ok: bool
    detail: str
    fix: str = ""
    exit_code: int = 4


class Problem(NamedTuple):
    """Something about a source tree that ends in a broken image (an error) or may do so, and what to type.

    Attributes:
        is_in_context: Whether it is about what is packed, so that `context` reports it, too.
    """

    subject: str
    message: str
    fix: str
    is_error: bool = True
    is_in_context: bool = False


@dataclass(frozen=True)
class Verification(StepResult):
    """An image checked against its contract, in running containers."""

    step: ClassVar[str] = "verify"
    image: str
    engine: str
    target: str
    ok: bool
    findings: list[Finding]
    health_s: float | None
    stop_s: float | None


class Project(NamedTuple):
    """What the project files say about a source tree; every path is POSIX and relative to the source directory.

    Attributes:
        members: Directories of the uv workspace's members, sorted; empty for a single package.
        roots: Files and directories that are packed by default, sorted, none inside another; empty for the whole tree.
        required: Files that must exist and must be packed.
        source_url: Where the source is published, or None if the project file does not say.
        name: The distribution at the root as it is written there, or None.
        is_package: Whether the root is a package that can be installed: it has a build backend or a `setup.py`.
        requires_python: A version specifier (PEP 440), or None.
        packages: Top-level packages and modules that are imported, such as `src/app` or `app.py`, sorted.
        import_roots: Folders that modules are imported from, each with a slash at the end or empty.
        scripts: Console scripts of the root and its members, such as `{"app": "app.cli:main"}`.
        git_versions: The tool that takes the version from git, by the name of the package (root or member).
    """

    members: tuple[str, ...]
    roots: tuple[str, ...]
    required: tuple[str, ...]
    source_url: str | None
    dependencies: Dependencies
    name: str | None = None
    is_package: bool = False
    requires_python: str | None = None
    packages: tuple[str, ...] = ()
    import_roots: tuple[str, ...] = ("",)
    scripts: Mapping[str, str] = MappingProxyType({})
    git_versions: Mapping[str, VersionTool] = MappingProxyType({})
