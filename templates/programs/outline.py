"""Write the outline of a source tree: only what PyInstaller's analysis reads.

usage: outline.py TREE OUTLINE NOTES

In the outline, a module has only its imports, in a block that never runs, and any other file is empty. The outline, and
with it the analysis, stays the same until an import, the name of a file or the build configuration changes. Files that
the analysis reads in full, or runs, are complete; NOTES/outlined.txt lists the others. If the analysis of an outline
would miss something, NOTES/unresolved.txt says why.
"""

import ast
import os
import shutil
import sys
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES
from pathlib import Path

# METADATA without the description, which is often the README.
WHOLE_NAMES = {"pyproject.toml", "rthooks.dat", "entry_points.txt", "top_level.txt", "METADATA"}
WHOLE_SUFFIXES = (".spec", *BYTECODE_SUFFIXES, *EXTENSION_SUFFIXES)
# Programs and libraries have dependencies, and archives have modules.
WHOLE_BEGINNINGS = (b"\x7fELF", b"PK")
# Calls from which PyInstaller learns that a library is loaded, or that the metadata of a distribution is read.
TELLING_CALLS = {"CDLL", "PyDLL", "LoadLibrary", "find_library"}
TELLING_CALLS |= {"distribution", "files", "get_distribution", "metadata", "require", "requires", "version"}


def is_whole(path: Path, content: bytes) -> bool:
    """Return whether the analysis reads, or runs, more of a file than its imports."""
    if path.name.startswith("hook-") or "__pyinstaller" in path.parts or path.parent.name == ".packages":
        return True
    named = path.name in WHOLE_NAMES or path.name.endswith(WHOLE_SUFFIXES)
    return path.suffix != ".py" and (named or content.startswith(WHOLE_BEGINNINGS))


def list_parts(content: bytes) -> list[ast.AST] | None:
    """Return every part of a module, or None if it is not valid Python, such as a template."""
    try:
        return list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError, RecursionError):
        return None


def is_told(node: ast.AST) -> bool:
    """Return whether the analysis looks for such a part of a module."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and isinstance(node.args[0], ast.Constant):
        return getattr(node.func, "attr", getattr(node.func, "id", None)) in TELLING_CALLS
    return isinstance(node, ast.Import | ast.ImportFrom)


def write_statement(node: ast.AST) -> str:
    """Return a part as a statement that is valid inside a block."""
    # `__future__` is also an ordinary module, but `from __future__ import` is valid only at the top of a file.
    return "import __future__" if getattr(node, "module", None) == "__future__" else ast.unparse(node)


def moves_modules(node: ast.AST) -> bool:
    """Return whether a part of a package changes where its modules are searched; only running it shows where."""
    if isinstance(node, ast.Attribute):
        of_path = isinstance(node.value, ast.Name) and node.value.id == "__path__"
        return node.attr == "declare_namespace" or (of_path and node.attr in {"append", "extend", "insert"})
    return isinstance(node, ast.Name) and node.id == "__path__" and isinstance(node.ctx, ast.Store)


def outline_module(parts: list[ast.AST]) -> bytes:
    """Return the outline of a module."""
    told = {write_statement(node) for node in parts if is_told(node)}
    lines = [f"    {statement}\n" for statement in sorted(told)]
    return "".join(["if __name__ is None:\n", *lines]).encode() if lines else b""


def outline_tree(tree: Path, outline: Path, notes: Path) -> None:
    """Write the outline of every file, with the modes and symbolic links of the tree, and the notes."""
    outlined, moving = [], []
    for folder, folders, names in os.walk(tree):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        place = outline / Path(folder).relative_to(tree)
        place.mkdir(parents=True)
        for name in sorted([*names, *(name for name in folders if Path(folder, name).is_symlink())]):
            path, copy = Path(folder, name), place / name
            if path.is_symlink():
                copy.symlink_to(path.readlink())
                continue
            content, relative = path.read_bytes(), path.relative_to(tree)
            parts = list_parts(content) if path.suffix == ".py" else []
            if name == "METADATA":
                content = content.partition(b"\n\n")[0] + b"\n"
            if not is_whole(relative, content):
                outlined.append(relative.as_posix())
                content = content if parts is None else outline_module(parts)
            if name == "__init__.py" and any(map(moves_modules, parts or [])):
                moving.append(relative.as_posix())
            copy.write_bytes(content)
            shutil.copymode(path, copy)
    notes.mkdir()
    (notes / "outlined.txt").write_text("".join(f"{name}\n" for name in outlined))
    if moving:
        (notes / "unresolved.txt").write_text(f"packages search for their modules elsewhere: {', '.join(moving)}\n")


def forget_times(folder: Path) -> None:
    """Set all times to zero: some builders treat a file with another time as another file."""
    for parent, _, names in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in names)):
            os.utime(path, (0, 0), follow_symlinks=False)


if __name__ == "__main__":
    source_folder, outline_folder, notes_folder = map(Path, sys.argv[1:])
    outline_tree(source_folder, outline_folder, notes_folder)
    forget_times(outline_folder)
    forget_times(notes_folder)
