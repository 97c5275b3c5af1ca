"""Build, verify and manifest, each with its state: what an engine at hand makes of the archive."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit.errors import SettingError
from buildkit.models import BuildResult, Dockerfile, LocalBuild, Verification, Version
from buildkit.output.state import digest_files, find_state, load_state, save_state
from buildkit.pipeline.record import load_made, name_wanted

if TYPE_CHECKING:
    from buildkit.session import Session


def make_image(session: Session) -> LocalBuild:
    """Return the image that an engine built from the archive, saved."""
    from buildkit.engines.discovery import find_engine
    from buildkit.steps.build import build_image

    settings, directory = session.settings, session.directory
    made = load_made(directory)
    image, *tags = name_wanted(session, made)
    built = build_image(
        find_engine(settings.engine, builder=settings.builder),
        directory / made.context.archive,
        image,
        tags=tags,
        push=settings.push,
        network=settings.build_network,
        report=session.console.report,
    )
    built = replace(built, made_from=digest_files(directory, "context.json"))
    save_state(directory, built)
    session.console.publish(image=built.image)
    return built


def verify_image(session: Session, image: str | None) -> Verification:
    """Return what was found of an image: the one given, else the one that was built; saved."""
    from buildkit.engines.discovery import find_engine
    from buildkit.steps import verify

    settings, directory = session.settings, session.directory
    built = None if image else load_state(directory, LocalBuild)
    dockerfile = load_state(directory, Dockerfile) if built else None
    version = load_state(directory, Version) if built else None
    found = verify.verify_image(
        find_engine(settings.engine, builder=settings.builder),
        _pin(built) if built else image or "",
        target=dockerfile.target if dockerfile else settings.target,
        server_module=settings.server_module,
        server_name=settings.server_name,
        port=settings.server_port,
        expected_sha=version.sha if version else settings.git_sha,
        health_timeout_s=settings.health_timeout,
        report=session.console.report,
    )
    found = replace(
        found,
        image=built.image if built else found.image,
        made_from=digest_files(directory, "build.json") if built else {},
    )
    save_state(directory, found)
    return found


def _pin(built: LocalBuild) -> str:
    """Return the reference that means just this image; what a builder elsewhere has pushed is only in the registry."""
    return f"{built.image}@{built.digest}" if built.engine == "buildx" and built.digest else built.image_id


def make_manifest(session: Session, image: str | None) -> str:
    """Return the manifest that starts an image: the one given, else what `wait` or `build` recorded; saved."""
    from buildkit.output.atomic import write_file
    from buildkit.reference import parse_reference
    from buildkit.steps.manifest import render_manifest

    settings, directory = session.settings, session.directory
    digest = None
    if image is None:
        image, digest = _find_image(session)
    else:
        parse_reference(image, "--image")
    dockerfile = find_state(directory, Dockerfile)
    text = render_manifest(
        image,
        target=dockerfile.target if dockerfile else settings.target,
        digest=digest,
        name=settings.manifest_name,
        port=settings.manifest_port,
        replicas=settings.manifest_replicas,
        secret_name=settings.manifest_secret_name,
        secret_key=settings.manifest_secret_key,
        template_dir=session.template_dir,
    )
    write_file(directory / "manifest.yaml", text.encode("utf-8"))
    return text


def _find_image(session: Session) -> tuple[str, str | None]:
    """Return reference and digest of the image that the output directory tells of."""
    result = find_state(session.directory, BuildResult)
    if result and result.image:
        return result.image, None
    built = find_state(session.directory, LocalBuild)
    if built is None:
        raise SettingError(
            "there is no image yet", "run `invoke all` or `invoke build` first, or give --image REFERENCE"
        )
    return built.image, built.digest
