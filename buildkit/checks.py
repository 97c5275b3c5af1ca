"""What shows before a build that its image could not work: `doctor` and `all` report the same problems."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from buildkit.command import SOURCE_FOLDER
from buildkit.errors import LocalError
from buildkit.models import Problem
from buildkit.pythons import check_libraries, check_python
from buildkit.source.dependencies import LOCKS, DependencyKind, list_declared, list_named, names_versions, normalize
from buildkit.startup import StartChecker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from buildkit.settings import Settings
    from buildkit.source.tree import SourceTree

_LOCK_COMMANDS = {
    DependencyKind.UV_LOCK: "uv lock",
    DependencyKind.PYLOCK: "uv pip compile pyproject.toml -o pylock.toml",
    DependencyKind.POETRY_LOCK: "poetry lock",
    DependencyKind.PDM_LOCK: "pdm lock",
}
_UNLOCKED = {
    DependencyKind.PROJECT: "uv lock",
    DependencyKind.SETUP: "uv pip compile setup.py -o requirements.txt",
}
_PIPENV_LOCK = "Pipfile.lock"
_REQUIREMENTS_FILE = "requirements.txt"
_PROJECT_FILES = frozenset({"pyproject.toml", _REQUIREMENTS_FILE, "setup.py", *map(str, LOCKS)})


def find_problems(tree: SourceTree, settings: Settings) -> list[Problem]:
    """Return everything that is known to go wrong, or may go wrong, with what the settings ask for.

    Raises:
        RuntimeBuildError: A project file cannot be read, or nothing can be selected.
    """
    selected, missing = tree.try_select()
    problems = [Problem("source", missing.message, missing.fix)] if missing else []
    problems += tree.find_losses(selected)
    if settings.dockerfile:
        from buildkit.derived import check_dockerfile

        check_dockerfile(tree.path, settings.dockerfile, settings.target or None, settings.build_args)
        return problems  # nothing is known about what it builds
    installation = list(_check_lock(tree, selected.files))
    problems += [*installation, *check_python(tree, settings), *_check_spec(tree, settings)]
    problems += check_libraries(tree, settings)
    if not any(problem.is_error for problem in installation):
        problems += StartChecker(tree, settings, selected.files).check()
    return problems


def _check_lock(tree: SourceTree, files: Sequence[str]) -> Iterator[Problem]:
    """Yield an error if a lock is empty although there are dependencies, and a warning if there is no lock."""
    found, project = tree.project.dependencies, tree.package.project
    if found.kind is DependencyKind.NONE:
        detail = "no lock file, requirements.txt, pyproject.toml or setup.py: no packages are installed"
        below = [f"SOURCE_DIR={path}" for path in _list_projects(files)]
        fix = f"set {' or '.join(below)}" if below else "set REQUIREMENTS or SOURCE_DIR, if there are any"
        yield Problem("dependencies", detail, fix, is_error=bool(below))
    elif unlocked := find_unlocked(tree):
        yield unlocked
    if not found.kind.is_locked or list_named(tree.path, found, project) - {normalize(tree.project.name or "")}:
        return
    others = [found._replace(kind=kind, path=str(kind)) for kind in LOCKS if kind is not found.kind]
    others.append(
        found._replace(kind=DependencyKind.REQUIREMENTS, path=_REQUIREMENTS_FILE, files=(_REQUIREMENTS_FILE,))
    )
    for other in others:
        if names := list_named(tree.path, other, project):
            detail = f"{found.path} locks no package, but {other.path} has {len(names)}"
            yield Problem("dependencies", detail, f"delete {found.path}")
            return
    if declared := list_declared(project):
        detail = f"{found.path} locks no package, but the project depends on {len(declared)}"
        yield Problem("dependencies", detail, _suggest_locking(found.kind, project))


def find_unlocked(tree: SourceTree) -> Problem | None:
    """Return a warning if a build chooses the versions of the dependencies, so that no two images are the same."""
    found, project = tree.project.dependencies, tree.package.project
    if found.kind is DependencyKind.REQUIREMENTS and not names_versions(tree.path, found):
        detail = f"{found.path} names no versions: the newest of everything are installed"
        command = f"uv pip compile {shlex.quote(found.path)} -o {shlex.quote(found.path)}"
        fix = f"run `{command}` (with `--exclude-newer` and a date if the code is old), and commit what it writes"
        return Problem("dependencies", detail, fix, is_error=False)
    if found.kind not in _UNLOCKED or project.get("dependencies") == []:
        return None
    detail = f"no lock file: the newest versions that {found.path} allows are installed"
    command = "poetry lock" if isinstance(project.get("dependencies"), dict) else _UNLOCKED[found.kind]
    if (tree.path / _PIPENV_LOCK).is_file():
        command = "pipenv requirements >requirements.txt"
    return Problem("dependencies", detail, f"run `{command}`, and commit what it writes", is_error=False)


def _list_projects(files: Iterable[str]) -> list[str]:
    """Return the folders below the source that are projects of their own: the nearest ones, in two levels at most."""
    named = (path.rpartition("/") for path in files if not path.startswith("."))
    folders = sorted({folder for folder, _, name in named if folder and name in _PROJECT_FILES})
    return [path for path in folders if "/" not in path] or [path for path in folders if path.count("/") == 1]


def _suggest_locking(kind: DependencyKind, project: dict[str, object]) -> str:
    command = _LOCK_COMMANDS[kind]
    if kind is DependencyKind.UV_LOCK and isinstance(project.get("dependencies"), dict):
        return f"delete {kind}, because uv does not read Poetry's table; `poetry lock` makes a lock file"
    return f"run `{command}`"


def _check_spec(tree: SourceTree, settings: Settings) -> Iterator[Problem]:
    """Yield an error if the target is an executable that PyInstaller can be given neither a spec nor a module for."""
    if not settings.target.is_binary:
        return
    try:
        spec = tree.find_spec(settings.build_args.get("PYINSTALLER_SPEC"))
    except LocalError as error:
        yield Problem("spec", error.message, error.fix)
        return
    command = settings.server_command
    if command and PurePosixPath(command.folder).is_relative_to(SOURCE_FOLDER):
        detail = f"SERVER_COMMAND starts in {command.folder}, but the image of an executable has no source"
        yield Problem("server", detail, "set TARGET=source or leave the folder out")
    if spec is None and command and command.program == "python" and command.module is None:
        detail = f"no executable can be made of SERVER_COMMAND, which runs a script: {command}"
        yield Problem("spec", detail, "set TARGET=source, or BUILD_ARGS=PYINSTALLER_SPEC=path/of/a.spec in the source")
