"""What the project files say about a source tree: what is packed by default, and what must exist."""

from __future__ import annotations

from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from buildkit.errors import LocalError
from buildkit.models import Project
from buildkit.source.dependencies import PROJECT_FILES, Dependencies, DependencyKind, find_dependencies
from buildkit.source.members import find_folders
from buildkit.source.metadata import Package, find_modules, find_python, list_import_roots, read_package
from buildkit.source.tables import inside, read_text, strings, table
from buildkit.source.walk import walk_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_TOP_LEVEL_FILES = (
    "pyproject.toml",
    "uv.lock",
    "LICENSE*",
    "LICENCE*",
    "COPYING*",
    "NOTICE*",
    "README*",
    "MANIFEST.in",
    ".python-version",
    "setup.py",
    "setup.cfg",
    "hatch_build.py",
)
# Backends that only warn about a missing readme or licence file.
_TOLERANT = ("setuptools",)
_NO_SPECS_IN = frozenset({"node_modules", "venv", "build", "dist", "__pycache__"})


def read_project(source: Path, requirements: str | None = None, *, is_built: bool = True) -> Project:
    """Return what the project files in `source` say.

    Packed by default: the whole tree, but in a uv workspace only the top-level files that a build needs, the members,
    the sources that `tool.uv.sources` names by path, `openhands/` if it exists, and the root's own package.

    Args:
        requirements: The file that REQUIREMENTS names.
        is_built: Whether our Dockerfile builds it, which cannot do without some files.

    Raises:
        LocalError: A project file is invalid, something that it names is missing, or is outside the source tree.
    """
    root = read_package(source)
    members = tuple(sorted(_find_members(source, root.settings)))
    is_workspace = "workspace" in table(root.settings, "tool", "uv") and (members or (source / "uv.lock").is_file())
    packages = [root, *(read_package(source, f"{member}/") for member in members)]
    dependencies = find_dependencies(source, root.settings, requirements)
    if is_workspace and dependencies.kind not in {DependencyKind.UV_LOCK, DependencyKind.REQUIREMENTS}:
        dependencies = Dependencies(DependencyKind.UV_LOCK, "uv.lock", ("pyproject.toml", "uv.lock"))
    project_files = [f"{member}/pyproject.toml" for member in members]
    read = [path for package in packages for path in _find_read(source, package)]
    sources = _find_path_sources(source, root.settings) if is_built else []
    required = sorted({*dependencies.files, *read, *project_files}) if is_built else []
    if missing := [name for name in required if not (source / name).is_file()]:
        raise LocalError(
            f"missing in the source directory: {', '.join(missing)}",
            "run `uv lock` and commit uv.lock" if missing == ["uv.lock"] else f"create {', '.join(missing)}",
        )
    built = [package for package in packages if package is not root or root.is_installable or not members]
    modules = {package.folder: find_modules(source, package) for package in built}
    return Project(
        members=members,
        roots=_find_roots(source, [*members, *required, *sources], modules.get("", [])) if is_workspace else (),
        required=tuple(required),
        source_url=next((package.source_url for package in packages if package.source_url), None),
        dependencies=dependencies,
        name=root.name,
        is_package=root.is_installable,
        requires_python=find_python(source, dependencies, root),
        packages=tuple(sorted({path for found in modules.values() for path in found})) if is_built else (),
        import_roots=tuple(dict.fromkeys(folder for package in packages for folder in list_import_roots(package))),
        scripts={name: target for package in packages for name, target in package.scripts.items()},
        git_versions={package.name or "": tool for package in packages if (tool := package.version_tool)},
    )


def find_spec(source: Path, roots: Iterable[str], spec: str | None) -> str | None:
    """Return the PyInstaller spec: the one that PYINSTALLER_SPEC names, `agent-server.spec`, or the only one.

    Raises:
        LocalError: The named one is missing.
    """
    if spec is not None:
        path = inside(spec, "PYINSTALLER_SPEC")
        if not (source / path).is_file():
            raise LocalError(
                f"PYINSTALLER_SPEC names {path!r}, which is missing", "set BUILD_ARGS=PYINSTALLER_SPEC=path/of/the.spec"
            )
        return path
    found = [path.name for path in source.glob("*.spec")]
    with suppress(LocalError):  # a folder that cannot be read
        folders = list(roots) or [path.name for path in source.iterdir() if path.is_dir() and not path.is_symlink()]
        found += (path for path in walk_files(source, folders, _has_no_specs) if path.endswith(".spec"))
    found = sorted({PurePosixPath(path).as_posix() for path in found})
    preferred = [path for path in found if PurePosixPath(path).name == "agent-server.spec"]
    return min(preferred or found) if preferred or len(found) == 1 else None


def _has_no_specs(folder: str) -> bool:
    name = PurePosixPath(folder).name
    return name.startswith(".") or name in _NO_SPECS_IN


def _find_roots(source: Path, required: Iterable[str], modules: Iterable[str]) -> tuple[str, ...]:
    """Return what is packed of a uv workspace."""
    folders = [*required, *modules]
    folders += [name for name in ("openhands", *(["src"] if modules else [])) if (source / name).is_dir()]
    files = [path.name for path in source.iterdir() if _is_top_level_file(path)]
    return tuple(_drop_nested([*files, *folders, "pyproject.toml", "uv.lock"]))


def _find_members(source: Path, settings: dict[str, Any]) -> set[str]:
    workspace = table(settings, "tool", "uv", "workspace")
    excluded = [inside(pattern, "tool.uv.workspace.exclude") for pattern in strings(workspace, "exclude")]
    members = set()
    for pattern in (inside(text, "tool.uv.workspace.members") for text in strings(workspace, "members")):
        found = set(find_folders(source, pattern))
        if not found and _is_locked(source, pattern):  # otherwise uv does without it, too
            raise LocalError(
                f"the workspace member {pattern!r} is missing", "correct tool.uv.workspace in pyproject.toml"
            )
        members |= {name for name in found if not any(fnmatchcase(name, skip) for skip in excluded)}
    for name in sorted(members):
        if not (source / name / "pyproject.toml").is_file() and not PurePosixPath(name).name.startswith("."):
            raise LocalError(f"the workspace member {name!r} has no pyproject.toml", f"add {name}/pyproject.toml")
    return {name for name in members if name != "." and (source / name / "pyproject.toml").is_file()}


def _is_locked(source: Path, member: str) -> bool:
    return f'= "{member}" }}' in read_text(source, "uv.lock")


def _find_path_sources(source: Path, settings: dict[str, Any]) -> list[str]:
    found = []
    for value in table(settings, "tool", "uv", "sources").values():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, dict) and isinstance(entry.get("path"), str):
                path = inside(entry["path"], "tool.uv.sources")
                if not (source / path).exists():
                    raise LocalError(f"tool.uv.sources names {path!r}, which is missing", "correct pyproject.toml")
                found.append(path)
    return found


def _is_top_level_file(path: Path) -> bool:
    return any(fnmatchcase(path.name, pattern) for pattern in _TOP_LEVEL_FILES) and not path.is_dir()


def _find_read(source: Path, package: Package) -> list[str]:
    """Return the files that installing a package reads, and that its backend does not do without."""
    if not package.is_installable:
        return []
    read = [path for path in (*PROJECT_FILES, *strings(package.project, "reads")) if _exists(source, package, path)]
    if package.backend and not package.backend.startswith(_TOLERANT):
        for key in ("readme", "license"):
            value = package.project.get(key)
            file = value.get("file") if isinstance(value, dict) else value
            if isinstance(file, str) and file and (key == "readme" or isinstance(value, dict)):
                read.append(inside(file, f"project.{key}"))
    return [f"{package.folder}{path}" for path in read]


def _exists(source: Path, package: Package, path: str) -> bool:
    return (source / f"{package.folder}{path}").is_file()


def _drop_nested(paths: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for path in sorted(set(paths), key=lambda name: name.split("/")):
        if not kept or not path.startswith(kept[-1] + "/"):
            kept.append(path)
    return kept
