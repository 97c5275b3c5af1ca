"""Version, Dockerfile and build context, each with its state: load what it is made from, run the step, save."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit.display import format_size
from buildkit.errors import LocalError
from buildkit.models import BuildContext, Dockerfile, Version
from buildkit.output.directory import STAT_CACHE
from buildkit.output.state import digest_file, digest_files, find_state, load_state, save_state

if TYPE_CHECKING:
    from buildkit.archive.compressor import Compressor
    from buildkit.session import Session
    from buildkit.source.rules import Verdict
    from buildkit.steps.context import PackedContext
    from buildkit.steps.dockerfile import DockerfileSettings


_DOCKERFILE = "Dockerfile"
_INSTRUCTIONS = "BUILD_INSTRUCTIONS.md"


def make_version(session: Session) -> Version:
    """Return which source this is, saved."""
    from buildkit.steps.version import describe_version, identify_source

    settings, console = session.settings, session.console
    commit = identify_source(
        session.source,
        git_sha=settings.git_sha,
        github_sha=session.environment.get("GITHUB_SHA", ""),
        warn=console.warn,
    )
    version = describe_version(
        commit,
        session.selection.find_changed(),
        tags=settings.custom_tags,
        output_name=settings.output_name,
        commit_time=settings.source_date_epoch,
        allow_dirty=settings.allow_dirty,
        warn=console.warn,
    )
    save_state(session.directory, version)
    console.publish(short_sha=version.short_sha, tags=",".join(version.tags))
    return version


def make_dockerfile(session: Session) -> Dockerfile:
    """Return what was rendered; `Dockerfile` and `BUILD_INSTRUCTIONS.md` are written beside its state."""
    from buildkit.output.atomic import write_file
    from buildkit.pipeline.deriving import derive_files
    from buildkit.source.project import find_spec
    from buildkit.steps.dockerfile import render_dockerfile

    settings, directory = session.settings, session.directory
    version = load_state(directory, Version)
    wanted = _describe_image(session)
    git_ref = settings.git_ref or version.sha or "unknown"
    template_dir = session.template_dir
    if settings.dockerfile:
        rendered, base_image = derive_files(session, wanted, version, settings.dockerfile, git_ref, template_dir)
    else:
        base_image = settings.base_image
        spec = find_spec(session.source, session.project.roots, settings.pyinstaller_spec)
        project = replace(session.project, spec=spec)
        rendered = render_dockerfile(wanted, project, version, git_ref=git_ref, template_dir=template_dir)
    write_file(directory / _DOCKERFILE, rendered.text.encode("utf-8"))
    write_file(directory / _INSTRUCTIONS, rendered.instructions.encode("utf-8"))
    dockerfile = Dockerfile(
        target=settings.target,
        base_image=base_image,
        dockerfile_sha256=rendered.dockerfile_sha256,
        build_args=dict(settings.build_args),
        made_from=digest_files(directory, "version.json"),
    )
    save_state(directory, dockerfile)
    return dockerfile


def make_context(session: Session, *, use_cache: bool = True) -> BuildContext:
    """Return the packed build context, saved; its files are not read again where nothing changed."""
    from buildkit.steps.context import pack_context

    settings, console, directory = session.settings, session.console, session.directory
    version = load_state(directory, Version)
    load_state(directory, Dockerfile)
    _refuse_other_source(session, version)
    previous = _find_packed(directory)
    compressor = _choose_compressor(session)
    key = settings.runtime_api_key
    with console.progress("packing") as progress:
        packed = pack_context(
            session.source,
            session.selection.select,
            {name: (directory / name).read_bytes() for name in (_DOCKERFILE, _INSTRUCTIONS)},
            directory / version.archive,
            mtime=version.commit_time,
            compressor=compressor,
            secret=key.reveal() if key else "",
            max_bytes=settings.max_context_bytes,
            warn_bytes=settings.warn_context_bytes,
            dirty=version.dirty if version.sha else None,
            previous=previous if use_cache else None,
            progress=lambda done: progress(done, 0),
            warn=console.warn,
        )
    made_from = digest_files(directory, "version.json", "dockerfile.json", _DOCKERFILE, _INSTRUCTIONS)
    context = replace(packed.context, made_from=made_from)
    if previous is None or packed is not previous or context != previous.context:
        save_state(directory, context)
        _keep_proof(directory, packed)
    if previous and previous.context.archive != context.archive:
        (directory / previous.context.archive).unlink(missing_ok=True)
    _describe_context(session, context, unchanged=packed is previous)
    console.publish(archive=session.show_path(directory / context.archive))
    return context


def _choose_compressor(session: Session) -> Compressor:
    from buildkit.archive.compressor import FALLBACK, find_compressor

    compressor = find_compressor(session.settings.compression)
    if compressor.name == FALLBACK and not session.settings.compression:
        session.console.report(f"the package isal is not installed: packing with {FALLBACK}, which is slower")
    return compressor


def list_packed(session: Session) -> list[tuple[int, str]]:
    """Return size in bytes and path of each file that would be packed, largest first."""
    from buildkit.archive.sizes import list_sizes

    selected = session.selection.select()
    for warning in selected.warnings:
        session.console.warn(warning)
    return list_sizes(session.source, selected.files)


def explain_path(session: Session, path: str) -> tuple[str, Verdict]:
    """Return `path`, typed as seen from the source or from the working directory, and which rule decides on it."""
    typed = Path(os.path.normpath(Path.cwd() / path))
    inside = os.path.normpath(path)
    if typed.is_relative_to(session.source) and os.path.lexists(typed):
        inside = typed.relative_to(session.source).as_posix()
    if os.path.isabs(inside):
        raise LocalError(f"not in the source directory: {path}", "give a path below SOURCE_DIR")
    return inside, session.selection.explain(inside)


def _describe_image(session: Session) -> DockerfileSettings:
    from buildkit.source.project import find_source_url
    from buildkit.steps.dockerfile import DockerfileSettings

    settings = session.settings
    return DockerfileSettings(
        target=settings.target,
        base_image=settings.base_image,
        build_args=settings.build_args,
        extra_packages=settings.extra_packages,
        features=settings.features,
        split_executable=settings.split_executable,
        server_module=settings.server_module,
        server_name=settings.server_name,
        server_port=settings.server_port,
        source_url=settings.source_url or find_source_url(session.source, session.project.members),
    )


def _refuse_other_source(session: Session, version: Version) -> None:
    """Stop where the checkout is no longer what `version.json` says: an image must not carry another's name."""
    from buildkit.steps.version import identify_source

    settings = session.settings
    commit = identify_source(
        session.source,
        git_sha=settings.git_sha,
        github_sha=session.environment.get("GITHUB_SHA", ""),
        warn=lambda _: None,
    )
    sha = commit.sha if commit else None
    if sha != version.sha:
        raise LocalError(
            f"{session.directory.name}/version.json was made from commit {version.sha}, but the source is at {sha}",
            "run `invoke version` and `invoke dockerfile` again",
        )


def _find_packed(directory: Path) -> PackedContext | None:
    """Return the last build context and its proof; a damaged record only means that the files are read again."""
    from buildkit.steps.context import PackedContext

    try:
        context = find_state(directory, BuildContext)
        record = json.loads((directory / STAT_CACHE).read_bytes()) if context else {}
    except (LocalError, OSError, ValueError):
        return None
    if (
        context is None
        or not isinstance(record, dict)
        or record.get("context") != digest_file(directory / "context.json")
    ):
        return None
    proof = record.get("proof")
    return PackedContext(context, proof if isinstance(proof, str) else None)


def _keep_proof(directory: Path, packed: PackedContext) -> None:
    from buildkit.output.atomic import write_file

    record = {"context": digest_file(directory / "context.json"), "proof": packed.proof}
    write_file(directory / STAT_CACHE, json.dumps(record).encode("ascii"))


def _describe_context(session: Session, context: BuildContext, *, unchanged: bool) -> None:
    verb = "nothing changed:" if unchanged else "packed"
    session.console.report(
        f"{verb} {context.files} files, {format_size(context.context_bytes)},"
        f" as {context.archive} ({format_size(context.archive_bytes)})"
    )
