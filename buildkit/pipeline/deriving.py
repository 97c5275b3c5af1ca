"""The Dockerfile from the source's own, for the task `dockerfile` where DOCKERFILE is set."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit.steps.dockerfile import RenderedDockerfile, check_settings, render_instructions

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.models import Version
    from buildkit.session import Session
    from buildkit.steps.dockerfile import DockerfileSettings

_ONLY_FOR_TEMPLATE = ("EXTRA_PACKAGES", "FEATURES", "PYINSTALLER_SPEC", "SPLIT_EXECUTABLE")


def derive_files(
    session: Session, wanted: DockerfileSettings, version: Version, path: str, git_ref: str, template_dir: Path | None
) -> tuple[RenderedDockerfile, str]:
    """Return the derived Dockerfile with its instructions, and the image that the target stands on.

    Args:
        path: The Dockerfile's, in the source.
    """
    from buildkit.steps.derive import derive_dockerfile, read_own_dockerfile

    origins, warn = session.loaded.origins, session.console.warn
    check_settings(wanted)
    derived = derive_dockerfile(
        read_own_dockerfile(session.source, path),
        source_name=path,
        target=wanted.target,
        base_image=wanted.base_image if origins["BASE_IMAGE"] != "default" else None,
        build_args=wanted.build_args,
        sha=version.sha or "unknown",
        git_ref=git_ref,
        warn=warn,
    )
    if unheard := [name for name in _ONLY_FOR_TEMPLATE if origins[name] != "default"]:
        warn(f"without effect, for DOCKERFILE is set: {', '.join(unheard)}")
    _name_unpacked(session, path, derived.text)
    instructions = render_instructions(
        replace(wanted, base_image=derived.base_image),
        session.project,
        version,
        git_ref=git_ref,
        derived_from=path,
        template_dir=template_dir,
    )
    return RenderedDockerfile(derived.text, instructions, derived.dockerfile_sha256), derived.base_image


def _name_unpacked(session: Session, path: str, text: str) -> None:
    from buildkit.rendering.copied import find_unpacked

    packed = sorted({*session.selection.select().files, "Dockerfile", "BUILD_INSTRUCTIONS.md"})
    if missing := find_unpacked(text, packed):
        session.console.warn(
            f"{path} copies what the build context will not hold: {', '.join(missing)};"
            f" add it to INCLUDE, or ask `invoke context --explain {missing[0]}`"
        )
