"""Task `context`: the source and the generated files, packed into one reproducible archive."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit.display import format_size
from buildkit.errors import LocalError, run
from buildkit.models import PROGRAMS, BuildContext, Dockerfile, Version
from buildkit.task import Flag, Outcome, Run, Task
from buildkit.workspace import DOCKERFILE, INSTRUCTIONS, SBOM

if TYPE_CHECKING:
    from buildkit.preview import Preview
    from buildkit.sbom import Sbom
    from buildkit.settings import Settings
    from buildkit.source.tree import SourceTree
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

LIST_PACKAGES = Flag("sbom", "also list the locked Python packages, as CycloneDX in sbom.cdx.json")


def pack_context(
    workspace: Workspace, tree: SourceTree, settings: Settings, ui: Ui, *, use_cache: bool = True
) -> BuildContext:
    """Return the packed build context, saved. Files are not read again if none changed since the last time.

    Raises:
        LocalError: The tree cannot be packed as it is, or is not what `version.json` says; the last archive stays.
    """
    from buildkit.archive.cache import load_cached, save_cached
    from buildkit.generated import read_generated
    from buildkit.packing import PackingJob, choose_options, pack_until_stable

    version = workspace.load(Version)
    workspace.load(Dockerfile)
    _refuse_other_commit(workspace, tree, version)
    job = PackingJob(workspace, tree, version, read_generated(workspace), choose_options(version, settings, ui), ui)
    previous = load_cached(workspace)
    packed = pack_until_stable(job, previous if use_cache else None)
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
