"""Step `dockerfile`: one standalone Dockerfile for the target, and the instructions beside it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from buildkit.errors import LocalError, SettingError
from buildkit.reference import parse_reference
from buildkit.rendering.arguments import check_argument, check_text
from buildkit.rendering.template import render_template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from buildkit.models import Project, Version

TARGETS = ("binary", "binary-minimal", "source", "source-minimal")
FEATURES = frozenset({"docker", "desktop", "vscode"})

_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._:=~-]*")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COPIED_PATH = re.compile(r"[\w.@+ -][\w.@+ /-]*")
_MAX_PORT = 65535


@dataclass(frozen=True)
class DockerfileSettings:
    """What the user may say of the image.

    Attributes:
        build_args: Values of the template's own ARGs, and further ones that every stage sees.
        extra_packages: Names for the base image's package manager.
        features: Of the full targets; the minimal ones have none.
        split_executable: Whether the project's own files lie beside the executable, as `{server_name}.own`.
        server_name: Of the executable in `/usr/local/bin`.
        image_name: What the instructions call the image.
        source_url: Where the source is published; empty: the image has no such label.
    """

    target: str
    base_image: str
    build_args: Mapping[str, str] = field(default_factory=dict)
    extra_packages: Sequence[str] = ()
    features: frozenset[str] = FEATURES
    split_executable: bool = False
    server_module: str = "openhands.agent_server"
    server_name: str = "openhands-agent-server"
    server_port: int = 8000
    image_name: str = "openhands-agent-server"
    source_url: str = ""


@dataclass(frozen=True)
class RenderedDockerfile:
    """The text of both files, and the digest (sha256, hex) of the first."""

    text: str
    instructions: str
    dockerfile_sha256: str


def render_dockerfile(
    settings: DockerfileSettings, project: Project, version: Version, *, git_ref: str, template_dir: Path | None = None
) -> RenderedDockerfile:
    """Return the Dockerfile for the target and the instructions beside it; neither holds a clock's time.

    Args:
        git_ref: The branch or tag that was checked out, for the image's environment.
        template_dir: Overrides the templates by name.

    Raises:
        SettingError: A value cannot stand in a Dockerfile, or a template is wrong.
        LocalError: The target needs something that the source tree lacks.
    """
    check_settings(settings)
    check_text("GIT_REF", git_ref)
    _check_project(settings.target, project)
    values = _collect_values(settings, project, version, git_ref)
    text = render_template("Dockerfile.j2", values, template_dir)
    instructions = render_template("BUILD_INSTRUCTIONS.md.j2", values, template_dir)
    return RenderedDockerfile(text, instructions, hashlib.sha256(text.encode()).hexdigest())


def render_instructions(
    settings: DockerfileSettings,
    project: Project,
    version: Version,
    *,
    git_ref: str,
    derived_from: str,
    template_dir: Path | None = None,
) -> str:
    """Return the instructions for a Dockerfile that was not rendered, but derived from the source's own.

    Args:
        derived_from: Its path in the source.

    Raises:
        SettingError: A template is wrong.
    """
    values = _collect_values(settings, project, version, git_ref) | {"derived_from": derived_from}
    return render_template("BUILD_INSTRUCTIONS.md.j2", values, template_dir)


def check_settings(settings: DockerfileSettings) -> None:
    """Return nothing when every value can stand in a Dockerfile.

    Raises:
        SettingError: One cannot; it is named.
    """
    if settings.target not in TARGETS:
        raise SettingError(f"TARGET is not a target: {settings.target!r}", f"choose one of {', '.join(TARGETS)}")
    parse_reference(settings.base_image, "BASE_IMAGE")
    for name, value in settings.build_args.items():
        check_argument(name, value)
    for package in settings.extra_packages:
        _check_match("EXTRA_PACKAGES", _PACKAGE, package, "give names of packages, separated by spaces or commas")
    for feature in sorted(settings.features - FEATURES):
        raise SettingError(f"FEATURES has an unknown feature: {feature!r}", f"choose of {', '.join(sorted(FEATURES))}")
    _check_match("SERVER_MODULE", _MODULE, settings.server_module, "set it to a dotted name such as package.module")
    _check_match("SERVER_NAME", _FILE_NAME, settings.server_name, "use A-Z a-z 0-9 . _ - and begin with no sign")
    parse_reference(settings.image_name, "IMAGE_NAME")
    if not 1 <= settings.server_port <= _MAX_PORT:
        raise SettingError(f"SERVER_PORT is not a port: {settings.server_port}", f"set it to 1 to {_MAX_PORT}")
    check_text("SOURCE_URL", settings.source_url)


def _check_match(setting: str, pattern: re.Pattern[str], value: str, fix: str) -> None:
    if not pattern.fullmatch(value):
        raise SettingError(f"{setting} has a value that cannot be used: {value!r}", fix)


def _check_project(target: str, project: Project) -> None:
    if target.startswith("binary") and project.spec is None:
        raise LocalError(
            f"target {target!r} needs a PyInstaller spec, and the source tree has none",
            "set PYINSTALLER_SPEC to its path in the source directory, or choose a source target",
        )
    for path in (*project.members, *filter(None, [project.spec])):
        if not _COPIED_PATH.fullmatch(path):
            raise LocalError(
                f"a path cannot stand in a Dockerfile: {path!r}", "rename it, to letters, digits and . _ -"
            )


def _collect_values(settings: DockerfileSettings, project: Project, version: Version, git_ref: str) -> dict[str, Any]:
    """Return every name that the templates know; own templates may use the same."""
    full = not settings.target.endswith("-minimal")
    return {
        "target": settings.target,
        "binary": settings.target.startswith("binary"),
        "full": full,
        "development": settings.target == "source",
        "base_image": settings.base_image,
        "build_args": dict(sorted(settings.build_args.items())),
        "extra_packages": list(settings.extra_packages),
        "features": settings.features if full else frozenset(),
        "split_executable": settings.split_executable,
        "server_module": settings.server_module,
        "server_name": settings.server_name,
        "server_port": settings.server_port,
        "image_name": settings.image_name,
        "source_url": settings.source_url,
        "members": project.members,
        "spec": project.spec,
        "archive": version.archive,
        "folder": version.archive.removesuffix(".tar.gz"),
        "revision": version.sha or version.short_sha,
        "dirty": version.dirty,
        "image_version": f"{version.short_sha}-{version.primary_tag}" + ("-dirty" if version.dirty else ""),
        "created": _format_time(version.commit_time),
        "git_ref": git_ref,
        "derived_from": None,
    }


def _format_time(commit_time: int | None) -> str | None:
    return None if commit_time is None else datetime.fromtimestamp(commit_time, UTC).isoformat()
