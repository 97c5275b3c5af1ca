"""A treemap: every folder and file of a tree, as large as its bytes, as SVG that needs no script.

Each folder that is large enough has a view of its own, and links between views are plain anchors. Widths are
percentages, so that a view fits any screen and its text keeps its size.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from buildkit.archive.comparison import CHANGES
from buildkit.display import escape_controls, format_size
from buildkit.squarify import Box, squarify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from buildkit.archive.comparison import Change

ROOT_ID = "map"
# A view's height is fixed by the stylesheet; its width is that of the page, and this is what it is laid out for.
_WIDTH, _HEIGHT = 1000.0, 600.0
_MAX_VIEWS = 100
_MAX_CELLS = 60
_MIN_SHARE = 0.002  # a folder below this share of the whole has no view
_HEADER = 20.0
_MARGIN = 3.0
_MIN_SIDE = 3.0
_MIN_LABEL = (36.0, 16.0)
_CHARACTER = 5.6  # its usual width in the stylesheets' font
# A label that has less than this on a phone, which has a third of the width that a view is laid out for, is left out.
_MIN_NARROW_LABEL = 48.0
_MIN_FOLDER = (70.0, 50.0)

# What a file is, by the end of its name; the stylesheets have a colour for each.
_KINDS = {
    "code": "py js ts tsx jsx c h cc cpp rs go java sh css scss j2 html",
    "text": "md rst txt lock toml yaml yml ini cfg dockerfile license",
    "data": "json jsonl csv tsv xml sql db sqlite parquet npy pickle pkl",
    "media": "png jpg jpeg gif svg ico webp mp4 mp3 wav ttf woff woff2 pdf",
    "binary": "so o a bin exe dll whl zip gz tgz xz zst jar wasm pyc",
}
_KIND_OF = {ending: kind for kind, endings in _KINDS.items() for ending in endings.split()}
LEGEND = (*_KINDS, "other")
_SAME = "same"
LEGEND_OF_CHANGES = (*CHANGES, _SAME)


@dataclass
class _Node:
    """A file, or a folder with what is in it.

    Attributes:
        kind: What a file is or how it changed: one word of a legend, for which the stylesheet has a colour.
        note: What is written beside the size.
    """

    name: str
    path: str
    size: int = 0
    files: int = 0
    children: dict[str, _Node] = field(default_factory=dict)
    view: str = ""
    kind: str = "other"
    note: str = ""
    changed: int = 0

    @property
    def caption(self) -> str:
        """The size, with how it changed or how much in it changed, in words: nothing is said by a colour alone."""
        note = self.note or (f"{self.changed} changed" if self.changed else "")
        return f"{format_size(self.size)}, {note}" if note else format_size(self.size)

    def list_children(self) -> list[_Node]:
        """Return the largest children, the rest as one; folders that hold a single folder are skipped."""
        nodes = [_skip_single(node) for node in self.children.values() if node.size]
        for node in nodes:
            node.name = node.path.removeprefix(f"{self.path}/" if self.path else "")
        nodes.sort(key=lambda node: (-node.size, node.name))
        rest = nodes[_MAX_CELLS:]
        if rest:
            files = sum(node.files for node in rest)
            more = _Node(f"{files} more files", self.path, sum(node.size for node in rest), files)
            more.changed = sum(node.changed for node in rest)
            more.kind = "changed" if more.changed else "other"
            nodes = sorted([*nodes[:_MAX_CELLS], more], key=lambda node: -node.size)
        return nodes


def render_treemap(files: Iterable[tuple[str, int]], changes: Mapping[str, Change] | None = None) -> str:
    """Return the views of a tree as HTML, all names escaped; the view of the whole tree is the last one.

    Args:
        files: Path and size in bytes of each file.
        changes: How files changed, by path; the kinds of the files are then those of `LEGEND_OF_CHANGES`.
    """
    root = _build_tree(files, changes)
    views = _choose_views(root)
    return "\n".join(_render_view(node, views) for node in reversed(views))


def _build_tree(files: Iterable[tuple[str, int]], changes: Mapping[str, Change] | None) -> _Node:
    root = _Node("", "")
    for path, size in files:
        change = changes.get(path) if changes else None
        node = root
        for name in ("", *path.strip("/").split("/")):
            if name:
                node = node.children.setdefault(name, _Node(name, f"{node.path}/{name}" if node.path else name))
            node.size += size
            node.files += 1
            node.changed += change is not None
        if changes is not None:
            node.kind, node.note = (change.kind, _describe(change)) if change else (_SAME, "")
        else:
            node.kind = _KIND_OF.get(node.name.rpartition(".")[2].lower(), "other")
    return root


def _describe(change: Change) -> str:
    """Return how a file changed, in words: `added`, `grown by 1.2 kB`."""
    by = f" by {format_size(abs(change.growth))}" if change.kind in {"grown", "shrunk"} else ""
    return f"{change.kind}{by}"


def _skip_single(node: _Node) -> _Node:
    """Return the first folder at or below `node` that holds more than a single folder."""
    while len(node.children) == 1 and (child := next(iter(node.children.values()))).children:
        node = child
    return node


def _choose_views(root: _Node) -> list[_Node]:
    """Return the folders that have a view, the whole tree first, then the largest; each is given its anchor."""
    root.view = ROOT_ID
    views, waiting = [root], [(-node.size, node.path, node) for node in root.list_children() if node.children]
    heapq.heapify(waiting)
    while waiting and len(views) < _MAX_VIEWS and -waiting[0][0] >= root.size * _MIN_SHARE:
        node = heapq.heappop(waiting)[-1]
        node.view = f"{ROOT_ID}-{len(views)}"
        views.append(node)
        for child in node.list_children():
            if child.children:
                heapq.heappush(waiting, (-child.size, child.path, child))
    return views


def _render_view(node: _Node, views: Sequence[_Node]) -> str:
    cells = "".join(_render_cells(node, Box(0, 0, _WIDTH, _HEIGHT), depth=3))
    count = f"{node.files} file{'' if node.files == 1 else 's'}"
    return (
        f'<section class="map-view" id="{node.view}">'
        f'<p class="map-path">{_render_path(node, views)} <span>{format_size(node.size)} in {count}</span></p>'
        f'<svg class="map" role="group" aria-label="{_escape(node.path) or "all files"}">{cells}</svg></section>'
    )


def _render_path(node: _Node, views: Sequence[_Node]) -> str:
    """Return the way from the whole tree to a folder, with links to those on it that have a view."""
    linked = {view.path: view.view for view in views}
    names, parts = node.path.split("/") if node.path else [], []
    for depth in range(len(names) + 1):
        name = _escape(names[depth - 1]) if depth else "all files"
        view = linked.get("/".join(names[:depth]))
        if depth == len(names):
            parts.append(f"<b>{name}</b>")
        else:
            parts.append(f'<a href="#{view}">{name}</a>' if view else name)
    return " / ".join(parts)


def _render_cells(node: _Node, box: Box, depth: int) -> Iterator[str]:
    """Yield what is in a folder; each cell is an SVG of its own, which cuts off what does not fit into it."""
    children = node.list_children()
    for child, cell in zip(children, squarify([child.size for child in children], box), strict=True):
        if min(cell.width, cell.height) < _MIN_SIDE:
            continue
        place = _format_place(cell, box)
        inside = _render_folder(child, cell, depth) if child.children else _render_file(child, cell)
        title = f"<title>{_escape(child.path)}: {child.caption}</title>"
        text = f"<svg {place}>{title}{inside}</svg>"
        yield f'<a href="#{child.view}">{text}</a>' if child.view else text


def _render_folder(node: _Node, cell: Box, depth: int) -> str:
    fill = '<rect class="map-folder" width="100%" height="100%"/>'
    if depth == 1 or cell.width < _MIN_FOLDER[0] or cell.height < _MIN_FOLDER[1]:
        return fill + _render_label(f"{node.name}/", node.caption, cell)
    inner = Box(_MARGIN, _HEADER, cell.width - 2 * _MARGIN, cell.height - _HEADER - _MARGIN)
    content = "".join(_render_cells(node, Box(0, 0, inner.width, inner.height), depth - 1))
    title = f"{node.name}/ {node.caption}"
    label = _render_text(title if _fits(title, cell) else f"{node.name}/", "map-name", 14, cell)
    return f"{fill}{label}<svg {_format_place(inner, Box(0, 0, cell.width, cell.height))}>{content}</svg>"


def _render_file(node: _Node, cell: Box) -> str:
    name = f"{node.kind}: {node.name}" if node.note else node.name
    return f'<rect class="map-{node.kind}" width="100%" height="100%"/>{_render_label(name, node.caption, cell)}'


def _render_label(name: str, caption: str, cell: Box) -> str:
    if cell.width < _MIN_LABEL[0] or cell.height < _MIN_LABEL[1]:
        return ""
    label = _render_text(name, "map-file", 14, cell)
    if cell.height >= 2 * _MIN_LABEL[1] and _fits(caption, cell):
        label += _render_text(caption, "map-size", 28, cell)
    return label


def _render_text(text: str, kind: str, y: int, cell: Box) -> str:
    """Return a text for a cell, shortened if need be."""
    shown = text if _fits(text, cell) else f"{text[: int((cell.width - 8) / _CHARACTER) - 1]}…"
    needed = min(_MIN_NARROW_LABEL, len(text) * _CHARACTER + 8)
    roomy = " map-roomy" if cell.width / 3 < needed else ""
    return f'<text class="{kind}{roomy}" x="5" y="{y}">{_escape(shown)}</text>'


def _fits(text: str, cell: Box) -> bool:
    return len(text) * _CHARACTER + 8 <= cell.width


def _format_place(cell: Box, box: Box) -> str:
    """Return where a cell is, as a part of the box around it."""
    x, width = (100 * value / box.width for value in (cell.x - box.x, cell.width))
    y, height = (100 * value / box.height for value in (cell.y - box.y, cell.height))
    return f'x="{x:.2f}%" y="{y:.2f}%" width="{width:.2f}%" height="{height:.2f}%"'


def _escape(text: str) -> str:
    return escape(escape_controls(text))
