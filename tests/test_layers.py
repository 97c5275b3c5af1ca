"""The rules of the architecture: who may import whom, and who may do what. They are read off the syntax trees."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import buildkit

if TYPE_CHECKING:
    from collections.abc import Iterator

    Function = ast.FunctionDef | ast.AsyncFunctionDef

PACKAGE = Path(buildkit.__file__).parent
MAX_BODY_LINES = 40
MAX_PARAMETERS = 5
# What opens sockets, what starts processes and what reads the environment, wherever it is imported from.
SOCKETS = {
    "socket",
    "ssl",
    "http.client",
    "http.server",
    "urllib.request",
    "asyncio",
    "httpcore",
    "requests",
    "urllib3",
}
PROCESSES = {"subprocess", "multiprocessing", "pty", "os.system", "os.popen", "os.fork", "os.forkpty"}
PROCESS_PREFIXES = ("os.exec", "os.spawn", "os.posix_spawn")
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv", "os.path.expandvars"}
HANDLERS = {"signal.signal", "signal.set_wakeup_fd", "signal.pthread_sigmask", "signal.sigwait", "signal.setitimer"}
# Where a broad `except` does not raise again: the last resort of the command line, and a thread whose error is raised
# by the one that waits for it.
LAST_RESORTS = {"cli", "archive.compressor", "bulk.workers"}
# Most of the time of a short run would be the import of these.
HEAVY = {"requests", "urllib3", "httpcore", "jinja2", "pathspec", "isal", "dotenv", "rich"}


class Module:
    """A module of the package; its name starts below the package."""

    def __init__(self, path: Path) -> None:
        self.path = path
        relative = path.relative_to(PACKAGE).with_suffix("")
        self.name = ".".join(relative.parts).removesuffix("__init__").rstrip(".")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text("utf-8"), str(self.path))

    @property
    def is_entrance(self) -> bool:
        """Whether others come in here: `import buildkit`, `buildkit.tasks.make_collection`, `python -m buildkit`."""
        return self.path.name in {"__init__.py", "__main__.py"}

    @cached_property
    def imports(self) -> set[str]:
        """The dotted names that are really imported, wherever; what is under TYPE_CHECKING is not."""
        return set(list_imports(self.tree))

    @cached_property
    def own_imports(self) -> set[str]:
        """The names of the package's modules among the imports."""
        return {name.removeprefix("buildkit.") for name in self.imports if name.startswith("buildkit.")} & NAMES

    @cached_property
    def uses(self) -> set[str]:
        """The imports, and every dotted name such as `os.environ`."""
        return self.imports | {ast.unparse(node) for node in ast.walk(self.tree) if isinstance(node, ast.Attribute)}

    @cached_property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    def is_in(self, *places: str) -> bool:
        """Whether this is one of these modules, or in one of these packages."""
        return any(self.name == place or self.name.startswith(f"{place}.") for place in places)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def list_imports(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module or ""
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not is_for_types(child):
            yield from list_imports(child)


def find_layer(name: str) -> int:
    """Return the height of a module: tools, then `task`, then the tasks, then what is made of them, then `cli`."""
    heights = {"task": 1, "tasks.all": 3, "tasks.images": 4, "cli": 5}
    return heights.get(name, 2 if name.startswith("tasks.") else 3 if name.startswith("bulk.") else 0)


MODULES = [Module(path) for path in sorted(PACKAGE.rglob("*.py")) if "templates" not in path.parts]
NAMES = {module.name for module in MODULES if not module.is_entrance}


def find_users(names: set[str], *allowed: str) -> list[str]:
    """Return which modules use any of these names, apart from those that are allowed to."""
    return [
        f"{module.name} uses {name}"
        for module in MODULES
        if not module.is_in(*allowed)
        for name in sorted(module.uses & names)
    ]


def test_imports_go_down() -> None:
    assert not [
        f"{module.name} imports {name}"
        for module in MODULES
        if not module.is_entrance
        for name in module.own_imports
        if find_layer(name) > find_layer(module.name)
    ]


def test_no_task_imports_another_but_all() -> None:
    assert not [
        f"{module.name} imports {name}"
        for module in MODULES
        if module.is_in("tasks") and module.name != "tasks.all"
        for name in module.own_imports
        if name.startswith("tasks.")
    ]


def test_no_modules_import_one_another() -> None:
    circle = {module.name: module.own_imports for module in MODULES if not module.is_entrance}
    # What is left when all that imports nothing of the rest, or is imported by nothing of it, is taken away.
    while free := circle.keys() - {
        name for name, needed in circle.items() if needed & circle.keys() and name in set().union(*circle.values())
    }:
        circle = {name: needed for name, needed in circle.items() if name not in free}
    assert not circle, f"these import one another in a circle: {sorted(circle)}"


def test_only_cli_imports_invoke() -> None:
    assert not [
        f"{module.name} imports {name}"
        for module in MODULES
        if module.name != "cli"
        for name in module.imports
        if name.partition(".")[0] == "invoke"
    ]


def test_only_the_settings_read_the_environment() -> None:
    assert not find_users(ENVIRONMENT, "settings", "envfile")


def test_only_git_and_engines_start_processes() -> None:
    starters = {name for module in MODULES for name in module.uses if name.startswith(PROCESS_PREFIXES)}
    assert not find_users(PROCESSES | starters, "source.git", "engines")


def test_only_the_two_ends_of_the_runtime_api_open_sockets() -> None:
    assert not find_users(SOCKETS, "runtime_api", "server")


def test_signals_are_handled_in_one_place() -> None:
    assert not find_users(HANDLERS, "signals")
    assert not find_users({"signal"}, "signals", "engines")


def test_only_ui_writes_to_the_streams() -> None:
    assert not [
        f"{module.name}, line {node.lineno}: print"
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not find_users({"sys.stdout", "sys.stderr"}, "ui")


def test_importing_a_module_does_no_work() -> None:
    """Only definitions and values: no loop, no `with`, no bare call, nothing asked of the system."""
    assert not [
        f"{module.name}, line {node.lineno}"
        for module in MODULES
        for node in module.tree.body
        if does_work(node) and not (isinstance(node, ast.If) and module.path.name == "__main__.py")
    ]


def does_work(node: ast.stmt) -> bool:
    """Return whether a statement of a module does more than define something."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        calls = [ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)]
        return any(call.startswith(("open", "os.", "sys.", "subprocess.", "Path.")) for call in calls)
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return not isinstance(node, definitions) and not is_for_types(node)


def test_import_opens_nothing_starts_nothing_and_loads_nothing_heavy() -> None:
    code = """
import sys
seen = []
ours = ("subprocess.", "socket.", "os.exec", "os.fork", "os.mkdir", "os.remove", "os.rename", "shutil.", "tempfile.")
sys.addaudithook(lambda name, _: seen.append(name) if name.startswith(ours) else None)
import importlib, pkgutil
import buildkit.cli, buildkit.tasks
for module in pkgutil.iter_modules(buildkit.tasks.__path__, "buildkit.tasks."):
    importlib.import_module(module.name)
assert not seen, seen
print(*sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert not HEAVY & set(done.stdout.split())


def test_nothing_broad_is_caught() -> None:
    assert not [
        f"{module.name}, line {node.lineno}"
        for module in MODULES
        if module.name not in LAST_RESORTS
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler) and catches_all(node)
    ]


def catches_all(node: ast.ExceptHandler) -> bool:
    """Return whether a handler ends errors of every kind; one that raises again does not."""
    caught = {ast.unparse(kind) for kind in ast.walk(node.type)} if node.type else {"BaseException"}
    raises_again = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
    return bool(caught & {"Exception", "BaseException"}) and not raises_again


def test_functions_are_short() -> None:
    assert not [
        f"{module.name}: the body of {node.name} has {lines} lines"
        for module in MODULES
        for node in module.functions
        if (lines := count_lines(node)) > MAX_BODY_LINES
    ]


def count_lines(function: Function) -> int:
    """Return the lines of a body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_have_few_parameters() -> None:
    assert not [
        f"{module.name}: {node.name} has {count} parameters"
        for module in MODULES
        for node in module.functions
        if (count := count_parameters(node)) > MAX_PARAMETERS
    ]


def count_parameters(function: Function) -> int:
    """Return the number of parameters, without `self` and `cls`."""
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    names += [argument.arg for argument in (given.vararg, given.kwarg) if argument]
    return len(names) - (names[:1] in (["self"], ["cls"]))
