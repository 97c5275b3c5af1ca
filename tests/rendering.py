"""Rendered Dockerfiles for tests, made by the function behind the task `dockerfile`."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from buildkit.models import PROGRAMS, Dockerfile, Project, Target, Version
from buildkit.reference import parse_reference
from buildkit.settings import Settings
from buildkit.source.dependencies import Dependencies, DependencyKind, GitDescription
from buildkit.tasks.dockerfile import DockerfileRequest, render_dockerfile
from buildkit.ui import Ui
from buildkit.workspace import Workspace

SHA = "0506352" + "a" * 33
PROJECT = Project(
    members=("server", "tools"),
    roots=("pyproject.toml", "server", "tools", "uv.lock"),
    required=("pyproject.toml", "uv.lock"),
    source_url=None,
    dependencies=Dependencies(DependencyKind.UV_LOCK, "uv.lock", ("pyproject.toml", "uv.lock")),
)
VERSION = Version(
    name="agent-server-0506352-python",
    sha=SHA,
    short_sha=SHA[:7],
    dirty=False,
    tags=["python"],
    primary_tag="python",
    archive="agent-server-0506352-python.tar.gz",
    commit_time=1_700_000_000,
)


class Files(NamedTuple):
    """What a tree selects, as far as a Dockerfile depends on it."""

    files: list[str]


@dataclass
class Tree:
    """What a Dockerfile depends on in a source tree."""

    path: Path = Path("/nowhere")
    project: Project = PROJECT
    spec: str | None = "server/agent-server.spec"
    files: list[str] = field(default_factory=list)
    git_ref: str = "main"
    description: GitDescription = field(default_factory=lambda: GitDescription("0506352", "0.0.dev0+g0506352"))

    def find_spec(self, named: str | None) -> str | None:
        return named or self.spec

    def select(self) -> Files:
        return Files(self.files)

    def describe(self) -> GitDescription:
        return self.description

    def ref(self, sha: str | None) -> str:
        return self.git_ref if sha else "unknown"


class Rendered(NamedTuple):
    """The text of both files, the digest of the first, and the programs by name."""

    text: str
    instructions: str
    dockerfile_sha256: str
    programs: dict[str, str]


def write_dockerfile(
    workspace: Workspace,
    target: str = "source-minimal",
    *,
    tree: Tree | None = None,
    version: Version = VERSION,
    template_dir: Path | None = None,
    link_layers: bool = False,
    **settings: Any,
) -> Dockerfile:
    """Return what the task does in a workspace; every one of `settings` counts as set by somebody."""
    chosen = replace(Settings(), target=Target(target), base_image=parse_reference("python:3.13"))
    origins = dict.fromkeys((name.upper() for name in settings), "environment")
    request = DockerfileRequest(replace(chosen, **settings), origins, template_dir, link_layers)
    with workspace.writing():
        workspace.save(version)
        return render_dockerfile(workspace, cast("Any", tree or Tree()), request, Ui())


def render(target: str = "source-minimal", **changes: Any) -> Rendered:
    """Return what the task writes; `changes` are those of `write_dockerfile`."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "out")
        result = write_dockerfile(workspace, target, **changes)
        programs = {name: workspace.read(name).decode() for name in PROGRAMS if workspace.exists(name)}
        text, instructions = workspace.read("Dockerfile"), workspace.read("BUILD_INSTRUCTIONS.md")
        return Rendered(text.decode(), instructions.decode(), result.dockerfile_sha256, programs)


def read_instructions(text: str) -> list[str]:
    """Return the instructions of a Dockerfile, each on one line, as an engine reads them."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [line for line in re.sub(r"\\\n", "", "\n".join(lines)).splitlines() if line.strip()]
