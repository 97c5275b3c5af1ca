"""Who may import whom, and who may do what: read off the syntax trees, so that no test has to notice it by luck."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import buildkit

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(buildkit.__file__).parent
FRONT = {"__main__", "command", "console", "program", "session", "tasks"}
BOTTOM = {"errors", "models", "display"}
API_ROOMS = {"runtime_api.client", "runtime_api.connection", "runtime_api.transport"}
# From low to high; what is in none of them is a tool.
BOTTOM_LAYER, TOOL_LAYER, STEP_LAYER, STATE_LAYER, FRONT_LAYER = range(5)
# Modules that cost time or memory, or do what only some rooms may do, and the rooms that may import them.
OWNERS = {
    "dotenv": {"config.envfile"},
    "invoke": FRONT,
    "rich": {"console"},
    "jinja2": {"rendering.template"},
    "pathspec": {"source.patterns"},
    "requests": API_ROOMS,
    "urllib3": API_ROOMS,
    "http.client": API_ROOMS,
    "socket": API_ROOMS,
    "ssl": API_ROOMS,
    "subprocess": {"source.git", "engines.engine"},
    "signal": {"__main__", "engines.engine", "session"},
}
# Who may read the environment: config for the settings, the two that start processes to hand it on to them, and
# discovery, which looks for engines as they look for themselves.
READERS_OF_ENVIRONMENT = {"config.load", "source.git", "engines.engine", "engines.discovery"}
STARTERS = {
    "system",
    "popen",
    "fork",
    "posix_spawn",
    "posix_spawnp",
    "execv",
    "execve",
    "execvp",
    "spawnv",
    "startfile",
}


class Room(NamedTuple):
    """A module of the package."""

    name: str
    tree: ast.Module


def read_room(path: Path) -> Room:
    name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    return Room(name, ast.parse(path.read_text("utf-8"), str(path)))


ROOMS = [read_room(path) for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]
each_room = pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def list_imports(node: ast.AST) -> Iterator[str]:
    """Yield the dotted names that are really imported: what stands under TYPE_CHECKING is not."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module or ""
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not is_for_types(child):
            yield from list_imports(child)


def list_own(room: Room) -> set[str]:
    """Return the names of the package's modules that a room imports."""
    found = {name.removeprefix("buildkit.") for name in list_imports(room.tree) if name.startswith("buildkit.")}
    return found & {other.name for other in ROOMS}


@cache
def list_names(room: Room) -> frozenset[str]:
    """Return every dotted name that a room uses, such as `os.environ`."""
    nodes = list(ast.walk(room.tree))
    used = {
        f"{node.value.id}.{node.attr}"
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    return frozenset(used | set(list_imports(room.tree)))


def find_layer(name: str) -> int:
    if name in BOTTOM:
        return BOTTOM_LAYER
    if name in FRONT:
        return FRONT_LAYER
    return {"steps": STEP_LAYER, "pipeline": STATE_LAYER, "config": STATE_LAYER}.get(name.partition(".")[0], TOOL_LAYER)


def test_every_layer_has_rooms() -> None:
    names = {room.name for room in ROOMS}
    assert names >= FRONT | BOTTOM | API_ROOMS
    assert {find_layer(name) for name in names} == set(range(5))


@each_room
def test_imports_go_down(room: Room) -> None:
    assert not {name for name in list_own(room) if find_layer(name) > find_layer(room.name)}


@each_room
def test_no_step_imports_another_step(room: Room) -> None:
    if find_layer(room.name) == STEP_LAYER:
        assert not {name for name in list_own(room) if find_layer(name) == STEP_LAYER}


@each_room
def test_bottom_needs_the_standard_library_alone(room: Room) -> None:
    if room.name in BOTTOM:
        tops = {name.partition(".")[0] for name in list_imports(room.tree)}
        assert not tops - set(sys.stdlib_module_names) - {"buildkit"}


def test_no_two_rooms_import_each_other() -> None:
    waiting = {room.name: list_own(room) for room in ROOMS}
    while free := {name for name, needed in waiting.items() if not needed & waiting.keys()}:
        waiting = {name: needed for name, needed in waiting.items() if name not in free}
    assert not waiting, f"these import one another in a circle: {sorted(waiting)}"


@each_room
def test_foreign_modules_have_their_rooms(room: Room) -> None:
    for name in list_imports(room.tree):
        for owned, owners in OWNERS.items():
            if name == owned or name.startswith(f"{owned}."):
                assert room.name in owners, f"{room.name} imports {name}"


@each_room
def test_environment_is_read_in_one_place(room: Room) -> None:
    readings = {name for name in list_names(room) if name in {"os.environ", "os.environb", "os.getenv", "os.putenv"}}
    assert not readings or room.name in READERS_OF_ENVIRONMENT


@each_room
def test_processes_are_started_by_git_and_engine_only(room: Room) -> None:
    assert not {f"os.{name}" for name in STARTERS} & list_names(room)


@each_room
def test_steps_and_tools_print_nothing(room: Room) -> None:
    calls = [node.func for node in ast.walk(room.tree) if isinstance(node, ast.Call)]
    printed = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
    assert not printed
    if room.name != "console":
        assert not {"sys.stdout", "sys.stderr"} & list_names(room)


@each_room
def test_importing_does_no_work(room: Room) -> None:
    """Only definitions, and values made of literals and of what computes: no loop, no `with`, no bare call."""
    allowed = (
        ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.If | ast.Expr
    )
    for node in room.tree.body:
        assert isinstance(node, allowed), f"line {node.lineno}"
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"line {node.lineno}"
        if isinstance(node, ast.If):
            assert is_for_types(node) or room.name == "__main__", f"line {node.lineno}"
        if isinstance(node, ast.Assign | ast.AnnAssign):
            for call in ast.walk(node):
                name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
                assert not name.startswith(("open", "os.", "sys.", "subprocess.")), f"line {node.lineno}: {name}"


@each_room
def test_nothing_broad_is_caught(room: Room) -> None:
    for node in ast.walk(room.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            reraises = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            handed_on = room.name == "archive.compressor"  # from its thread to the one that waits for it
            broad = caught in {"everything", "Exception", "BaseException"}
            assert not broad or reraises or handed_on, f"line {node.lineno}"


@each_room
def test_functions_fit_on_a_screen(room: Room) -> None:
    for node in ast.walk(room.tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"the body of {node.name} has {lines} lines"


def test_import_opens_nothing_and_starts_nothing() -> None:
    code = """
import sys
seen = []
sys.addaudithook(lambda name, _: seen.append(name) if name.startswith(("subprocess.", "socket.", "os.exec")) else None)
import buildkit.tasks
assert not seen, seen
"""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_a_task_starts_without_what_only_others_need() -> None:
    code = "import sys, buildkit.tasks; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert not {"requests", "urllib3", "jinja2", "pathspec", "isal", "dotenv"} & set(done.stdout.split())
