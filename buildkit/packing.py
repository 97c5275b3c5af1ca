"""Packing a source tree: again if it changes meanwhile, and nothing again that has not changed."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from buildkit.archive.cache import CachedContext, make_files_key, make_generated_key, make_source_key, match_source
from buildkit.archive.compressor import FALLBACK, find_compressor
from buildkit.archive.sizes import name_largest
from buildkit.archive.stream import PackingOptions
from buildkit.archive.writer import ArchiveWriter
from buildkit.errors import FileChanged, FileVanished, LocalError, run
from buildkit.models import BuildContext
from buildkit.source.changes import name_changes
from buildkit.source.fingerprint import keeps_times
from buildkit.source.losses import refuse_losses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildkit.archive.writer import PackedArchive
    from buildkit.models import Version
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


class PackingJob(NamedTuple):
    """What is packed, and where."""

    workspace: Workspace
    tree: SourceTree
    version: Version
    generated: dict[str, bytes]
    options: PackingOptions
    ui: Ui


def choose_options(version: Version, settings: Settings, ui: Ui) -> PackingOptions:
    """Return how the source is packed, in addition to its files."""
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


def pack_until_stable(job: PackingJob, previous: CachedContext | None) -> CachedContext:
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


def _refuse_other_version(job: PackingJob, selected: SelectedFiles, different: Mapping[str, str]) -> None:
    """Refuse to put a commit's name on something else, or to call a clean checkout changed."""
    changes = job.tree.explain_changes(selected, different)
    if job.version.sha is None or job.version.dirty is bool(changes):
        return
    message = "version.json says that files differ from the commit, but none does now"
    if changes:
        message = f"version.json says that the checkout is clean, but {name_changes(changes)} differs from the commit"
    raise LocalError(message, f"run {run('version')} and {run('dockerfile')} again")


def _pack(job: PackingJob, selected: SelectedFiles, previous: CachedContext | None) -> CachedContext:
    """Return what was packed; the source part of the previous archive is copied if it is up to date."""
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


def _describe(job: PackingJob, packed: PackedArchive, files: int) -> BuildContext:
    return BuildContext(
        archive=job.version.archive,
        archive_sha256=packed.archive_sha256,
        archive_bytes=packed.archive_bytes,
        context_sha256=packed.context_sha256,
        context_bytes=packed.context_bytes,
        files=files,
        compressor=job.options.compressor.describe(),
    )
