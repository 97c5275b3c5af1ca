"""Task `context`: the source and the generated files, packed into one reproducible archive."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from buildkit.display import format_size
from buildkit.errors import FileChanged, FileVanished, LocalError, run
from buildkit.models import PROGRAMS, BuildContext, Dockerfile, Version
from buildkit.task import Flag, Outcome, Run, Task
from buildkit.workspace import DOCKERFILE, INSTRUCTIONS, SBOM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildkit.archive.cache import CachedContext
    from buildkit.archive.stream import PackingOptions
    from buildkit.archive.writer import PackedArchive
    from buildkit.preview import Preview
    from buildkit.sbom import Sbom
    from buildkit.settings import Settings
    from buildkit.source.fingerprint import StatFingerprint
    from buildkit.source.selection import SelectedFiles
    from buildkit.source.tree import SourceTree
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

# If neither a commit nor SOURCE_DATE_EPOCH gives a time: the first that a zip file, and so a wheel, can have.
_NO_TIME = 315532800
# A file that changed less than this before it was read may change again within one tick of the file system's clock.
_RACY_NS = 2_000_000_000
_WARN_BYTES = 100_000_000

LIST_PACKAGES = Flag("sbom", "also list the locked Python packages, as CycloneDX in sbom.cdx.json")


class _Job(NamedTuple):
    """What is packed, and where."""

    workspace: Workspace
    tree: SourceTree
    version: Version
    generated: dict[str, bytes]
    options: PackingOptions
    ui: Ui


def pack_context(
    workspace: Workspace, tree: SourceTree, settings: Settings, ui: Ui, *, use_cache: bool = True
) -> BuildContext:
    """Return the packed build context, saved. Files are not read again if none changed since the last time.

    Raises:
        LocalError: The tree cannot be packed as it is, or is not what `version.json` says; the last archive stays.
    """
    from buildkit.archive.cache import load_cached, save_cached
    from buildkit.generated import read_generated

    version = workspace.load(Version)
    workspace.load(Dockerfile)
    _refuse_other_commit(workspace, tree, version)
    job = _Job(workspace, tree, version, read_generated(workspace), choose_options(version, settings, ui), ui)
    previous = load_cached(workspace)
    packed = _pack_until_stable(job, previous if use_cache else None)
    made_from = workspace.digests("version.json", "dockerfile.json", DOCKERFILE, INSTRUCTIONS, *PROGRAMS)
    for warning in packed.warnings:
        ui.warn(warning)
    context = replace(packed.context, made_from=made_from)
    if previous is None or packed is not previous or context != previous.context:
        workspace.save(context)
        save_cached(workspace, packed)
    if previous and previous.context.archive != context.archive:
        workspace.remove(previous.context.archive)
    verb = "nothing changed:" if packed is previous else "packed"
    ui.report(
        f"{verb} {context.files} files, {format_size(context.context_bytes)},"
        f" as {context.archive} ({format_size(context.archive_bytes)})"
    )
    return context


def _refuse_other_commit(workspace: Workspace, tree: SourceTree, version: Version) -> None:
    """Refuse a checkout that is no longer what `version.json` says: an image must not have another commit's name."""
    commit = tree.identify(lambda _: None)
    sha = commit.sha if commit else None
    if sha != version.sha:
        raise LocalError(
            f"{workspace.show('version.json')} was made from commit {version.sha}, but the source is at {sha}",
            f"run {run('version')} and {run('dockerfile')} again",
        )


def choose_options(version: Version, settings: Settings, ui: Ui) -> PackingOptions:
    """Return how the source is packed, in addition to its files."""
    from buildkit.archive.compressor import FALLBACK, find_compressor
    from buildkit.archive.stream import PackingOptions

    compressor = find_compressor()
    if compressor.name == FALLBACK:
        ui.report(f"the package isal is not installed: packing with {FALLBACK}, which is slower")
    key = settings.runtime_api_key
    return PackingOptions(
        mtime=_NO_TIME if version.commit_time is None else version.commit_time,
        compressor=compressor,
        max_bytes=settings.max_context_bytes,
        secrets=key.encoded_forms if key else (),
    )


def _pack_until_stable(job: _Job, previous: CachedContext | None) -> CachedContext:
    """Return what was packed, or `previous` if it is up to date; the tree is read again if it changes meanwhile."""
    retries = {FileVanished: 1, FileChanged: 3}
    warned: set[str] = set()
    while True:
        selected = job.tree.select()
        for warning in selected.warnings:
            if warning not in warned:
                job.ui.warn(warning)
        warned.update(selected.warnings)
        try:
            return _pack(job, selected, previous)
        except FileChanged as error:
            if not retries[type(error)]:
                raise
            retries[type(error)] -= 1
            previous = None
            job.ui.warn(f"{error.message}; reading the tree again")


def _refuse_other_version(job: _Job, selected: SelectedFiles, different: Mapping[str, str]) -> None:
    """Refuse to put a commit's name on something else, or to call a clean checkout changed."""
    from buildkit.source.changes import name_changes

    changes = job.tree.explain_changes(selected, different)
    if job.version.sha is None or job.version.dirty is bool(changes):
        return
    message = "version.json says that files differ from the commit, but none does now"
    if changes:
        message = f"version.json says that the checkout is clean, but {name_changes(changes)} differs from the commit"
    raise LocalError(message, f"run {run('version')} and {run('dockerfile')} again")


def _pack(job: _Job, selected: SelectedFiles, previous: CachedContext | None) -> CachedContext:
    """Return what was packed; the source part of the previous archive is copied if it is up to date."""
    from buildkit.archive.cache import CachedContext, make_files_key, make_generated_key, make_source_key, match_source
    from buildkit.archive.sizes import name_largest
    from buildkit.archive.writer import ArchiveWriter
    from buildkit.source.fingerprint import keeps_times
    from buildkit.source.losses import refuse_losses

    name, source, files, options = job.version.archive, job.tree.path, selected.files, job.options
    generated_key = make_generated_key(job.generated)
    fingerprint: StatFingerprint | None = None
    different: dict[str, str] = {}
    warnings: list[str] = []
    if previous:
        archive = job.workspace.path / previous.context.archive
        if fingerprint := match_source(previous, source, selected, options, archive):
            different, warnings = previous.different, previous.warnings
            _refuse_other_version(job, selected, different)
        if fingerprint and (previous.context.archive, previous.generated_key) == (name, generated_key):
            return previous
    started_ns = time.time_ns()
    with job.ui.progress("packing") as progress, job.workspace.replacing(name) as file:
        writer = ArchiveWriter(file, options, progress)
        if previous and fingerprint:
            with os.fdopen(job.workspace.open(previous.context.archive), "rb") as earlier:
                writer.copy_source(earlier, previous.source)
        else:
            refuse_losses(losses := job.tree.find_losses(selected))
            fingerprint, different, warnings = writer.pack_source(source, files, selected.committed)
            _refuse_other_version(job, selected, different)
            warnings = [*warnings, *(f"{loss.message}; {loss.fix}" for loss in losses)]
        packed = writer.finish(job.generated)
    if packed.context_bytes > _WARN_BYTES:
        job.ui.warn(name_largest(files, fingerprint.sizes))
    is_proof = fingerprint.newest_ns <= started_ns - _RACY_NS and keeps_times(source)
    files_key = make_files_key(fingerprint, selected) if is_proof else None
    source_key = make_source_key(files_key, options, job.workspace.path / name) if files_key else None
    context = _describe(job, packed, len(files) + len(job.generated))
    return CachedContext(context, source_key, files_key, generated_key, packed.source, different, warnings)


def _describe(job: _Job, packed: PackedArchive, files: int) -> BuildContext:
    return BuildContext(
        archive=job.version.archive,
        archive_sha256=packed.archive_sha256,
        archive_bytes=packed.archive_bytes,
        context_sha256=packed.context_sha256,
        context_bytes=packed.context_bytes,
        files=files,
        compressor=job.options.compressor.describe(),
    )


def main(this: Run) -> Outcome:
    """Pack the source and the Dockerfile into one reproducible tar.gz: prints its path."""
    this.check_folders()
    if preview := _preview(this):
        return Outcome(*preview)
    with this.writing():
        sbom = prepare_sbom(this)
        use_cache = not this.flags.get("no_cache")
        context = pack_context(this.workspace, this.tree, this.settings, this.ui, use_cache=use_cache)
        if sbom:
            sbom.save(this.workspace)
    archive = this.show_path(this.workspace.path / context.archive)
    this.ui.publish(archive=archive)
    return Outcome(archive, context)


def prepare_sbom(this: Run) -> Sbom | None:
    """Return the SBOM if `--sbom` was given, to be saved after packing; otherwise remove that of an earlier context."""
    if not this.flags.get(LIST_PACKAGES.name):
        this.workspace.remove(SBOM)
        return None
    from buildkit.sbom import read_sbom

    return read_sbom(this.tree)


def _preview(this: Run) -> Preview | None:
    """Return what a flag asks to show instead of packing."""
    from buildkit import preview

    ui, since, name = this.ui, this.flags.get("diff"), this.flags.get("map")
    if this.flags.get("explain") is not None:
        return preview.explain(this.tree, this.flags["explain"])
    if this.flags.get("files"):
        return preview.list_files(this.tree, ui)
    if since is not None:
        differences = preview.compare(this.workspace, this.tree, None if since is True else since, ui)
        if name is None:
            return preview.list_changes(differences, ui)
        return preview.draw_changes(differences, ui, name, this.template_dir)
    return preview.draw_map(this.tree, ui, name, this.template_dir) if name is not None else None


TASK = Task(
    "context",
    main,
    groups=("selection", "packing"),
    flags=(
        Flag("no_cache", "read every file again, even if none seems to have changed"),
        LIST_PACKAGES,
        Flag("files", "list every file that is packed with its size, largest first; packs nothing"),
        Flag("map", "write what is packed as a treemap into this HTML file; packs nothing", takes_value=True),
        Flag(
            "diff",
            "list what changed since this archive, or else the last one; in the treemap with --map; packs nothing",
            takes_value=True,
            is_optional=True,
        ),
        Flag("explain", "show which rule packs or leaves out this path; packs nothing", takes_value=True),
    ),
)
