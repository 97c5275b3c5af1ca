"""What would be packed, for people: a list, a map, what changed since another archive, and why a path is in or out."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from buildkit.display import escape_controls, format_size
from buildkit.errors import LocalError, SettingError
from buildkit.models import BuildContext, Dockerfile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.archive.comparison import Change, PackedFile
    from buildkit.source.tree import SourceTree
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace


class Preview(NamedTuple):
    """What is shown, and the same for programs."""

    text: str
    record: dict[str, Any]


class Differences(NamedTuple):
    """How what would be packed now differs from an archive.

    Attributes:
        archive: What the archive is called.
    """

    archive: str
    old: list[PackedFile]
    new: list[PackedFile]
    changes: list[Change]

    @property
    def growth(self) -> int:
        """By how many bytes all files together have grown."""
        return sum(change.growth for change in self.changes)


def list_files(tree: SourceTree, ui: Ui) -> Preview:
    """Return every file that would be packed with its size, largest first."""
    sizes = _list_sizes(tree, ui)
    ui.report(f"{len(sizes)} files, {format_size(sum(size for size, _ in sizes))}")
    text = "\n".join(f"{size:>12}  {escape_controls(path)}" for size, path in sizes)
    return Preview(text, {"files": [{"path": path, "size_bytes": size} for size, path in sizes]})


def compare(workspace: Workspace, tree: SourceTree, archive: str | None, ui: Ui) -> Differences:
    """Return how what would be packed now differs from an archive.

    Args:
        archive: Its path as seen from the working directory; the last one of the workspace if None.

    Raises:
        LocalError: The Dockerfile or the archive is missing, or a file cannot be read.
    """
    from buildkit.archive import comparison
    from buildkit.generated import read_generated

    workspace.load(Dockerfile)
    with _open_archive(workspace, archive) as (name, file):
        old = comparison.read_archive(file, name)
    new = [*comparison.read_source(tree.path, _select(tree, ui)), *comparison.read_generated(read_generated(workspace))]
    return Differences(name, old, new, comparison.compare_files(old, new))


def list_changes(differences: Differences, ui: Ui) -> Preview:
    """Return a line for each change, the largest difference first; the sum is reported."""
    changes = differences.changes
    _report_changes(differences, ui)
    text = "\n".join(f"{change.kind:<7} {change.growth:>+12}  {escape_controls(change.path)}" for change in changes)
    return Preview(text, _describe_changes(differences))


def draw_map(tree: SourceTree, ui: Ui, name: str, template_dir: Path | None) -> Preview:
    """Write what would be packed as a treemap into a file, named as seen from the working directory."""
    from buildkit.treemap import LEGEND, render_treemap

    files = [(path, size) for size, path in _list_sizes(tree, ui)]
    title = f"Build context of {escape_controls(tree.path.name)}"
    values = {"title": title, "treemap": render_treemap(files), "legend": LEGEND}
    _write_map(name, values, template_dir)
    return Preview(name, {"map": name, "files": len(files), "context_bytes": sum(size for _, size in files)})


def draw_changes(differences: Differences, ui: Ui, name: str, template_dir: Path | None) -> Preview:
    """Write what would be packed as a treemap that shows what changed; removed files have the size they had."""
    from buildkit.treemap import LEGEND_OF_CHANGES, render_treemap

    _report_changes(differences, ui)
    files = {path: size for path, size, _ in (*differences.old, *differences.new)}
    treemap = render_treemap(files.items(), {change.path: change for change in differences.changes})
    title = f"Changes since {escape_controls(differences.archive)}"
    _write_map(name, {"title": title, "treemap": treemap, "legend": LEGEND_OF_CHANGES}, template_dir)
    return Preview(name, {"map": name, **_describe_changes(differences)})


def explain(tree: SourceTree, path: str) -> Preview:
    """Return which rule decides about `path`, given as seen from the working directory or from the source."""
    typed, inside = Path(os.path.normpath(Path.cwd() / path)), os.path.normpath(path)
    if typed.is_relative_to(tree.path) and os.path.lexists(typed):
        inside = typed.relative_to(tree.path).as_posix()
    if os.path.isabs(inside) or inside.split("/")[0] == "..":
        raise LocalError(f"not in the source directory: {path}", "give a path below SOURCE_DIR")
    verdict = tree.explain(inside)
    text = f"{'packed' if verdict.packed else 'left out'}: {inside}: {verdict.describe()}"
    return Preview(text, {"path": inside, **verdict._asdict()})


@contextmanager
def _open_archive(workspace: Workspace, path: str | None) -> Iterator[tuple[str, IO[bytes]]]:
    """Give the name of an archive, and the archive opened."""
    from buildkit.files import open_regular
    from buildkit.record import open_archive

    if path is None:
        context = workspace.load(BuildContext, trace=False)
        with open_archive(workspace, context) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
            yield context.archive, file
        return
    try:
        descriptor = open_regular(Path.cwd() / path, follow=True)
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}", "name an archive of this tool") from error
    with os.fdopen(descriptor, "rb") as file:
        yield os.path.basename(path), file


def _select(tree: SourceTree, ui: Ui) -> list[str]:
    selected = tree.select()
    for warning in selected.warnings:
        ui.warn(warning)
    return list(selected.files)


def _list_sizes(tree: SourceTree, ui: Ui) -> list[tuple[int, str]]:
    from buildkit.archive.sizes import list_sizes

    return list_sizes(tree.path, _select(tree, ui))


def _report_changes(differences: Differences, ui: Ui) -> None:
    """Report the sum of all changes."""
    counts = Counter(change.kind for change in differences.changes)
    if not counts:
        ui.report(f"nothing changed since {differences.archive}")
        return
    sign = "+" if differences.growth >= 0 else "-"
    total = f"{sign}{format_size(abs(differences.growth))}, now {len(differences.new)} files"
    named = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    ui.report(f"{named} since {differences.archive}: {total}")


def _describe_changes(differences: Differences) -> dict[str, Any]:
    changes = [{"change": kind, "path": path, "growth_bytes": growth} for kind, path, growth in differences.changes]
    return {"since": differences.archive, "changes": changes, "growth_bytes": differences.growth}


def _write_map(name: str, values: dict[str, Any], template_dir: Path | None) -> None:
    from buildkit.folder import Folder
    from buildkit.template import render_template

    path = Path.cwd() / name
    Folder(path.parent.resolve()).write(path.name, render_template("map.html.j2", values, template_dir).encode())
