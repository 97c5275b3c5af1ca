"""What is packed of a real tree, and which rule says so."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from buildkit.settings import CiEnvironment, Settings
from buildkit.source.tree import SourceTree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from buildkit.source.rules import Verdict
    from buildkit.source.selection import SelectedFiles


def make_tree(source: Path, *, ours: Sequence[str] = (), **patterns: Sequence[str]) -> SourceTree:
    settings = Settings(**{name: tuple(lines) for name, lines in patterns.items()})  # type: ignore[arg-type]  # by name
    return SourceTree(source, settings, CiEnvironment(), ours=ours)


def select(source: Path, **rules: Any) -> SelectedFiles:
    return make_tree(source, **rules).select()


def find_changes(source: Path, **rules: Any) -> list[str]:
    return list(make_tree(source, **rules).find_changes())


def explain(source: Path, path: str, **rules: Any) -> Verdict:
    return make_tree(source, **rules).explain(path)


def put(source: Path, *paths: str) -> None:
    for path in paths:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(path)


def check_explained(source: Path, **rules: Any) -> None:
    """Every file below the source is explained as it is treated."""
    tree = make_tree(source, **rules)
    packed = set(tree.select().files)
    for folder, _, names in os.walk(source):
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), source)
            if "/.git/" not in f"/{path}":
                assert tree.explain(path).packed is (path in packed), path
