"""What a project file says about its source tree: members, what is packed by default, what must exist."""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from buildkit.errors import LocalError
from buildkit.files import read_bounded
from buildkit.models import Project
from buildkit.source.dependencies import Dependencies, DependencyKind
from buildkit.source.members import find_folders
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
_SOURCE_LABELS = ("source", "sourcecode", "repository", "github")
_MAX_BYTES = 16_000_000
_UV_LOCK = Dependencies(DependencyKind.UV_LOCK, "uv.lock", ("pyproject.toml", "uv.lock"))
_NO_SPECS_IN = frozenset({"node_modules", "venv", "build", "dist", "__pycache__"})


def read_project(source: Path) -> Project:
    """Return what `pyproject.toml` in `source` says.

    Packed by default: the top-level files that a build needs, the members of the uv workspace, the sources that
    `tool.uv.sources` names by path, and `openhands/` if it exists; if there is none of these, the project's package.

    Raises:
        LocalError: The project file or something it names is missing, or is outside the source tree.
    """
    settings = _load(source, "pyproject.toml")
    members = tuple(sorted(_find_members(source, settings)))
    folders = [*members, *_find_path_sources(source, settings)]
    if (source / "openhands").is_dir():
        folders.append("openhands")
    if not folders or _has_package(settings):
        folders += _find_package(source, settings, needed=not folders)
    files = [path.name for path in source.iterdir() if _is_top_level_file(path)]
    required = ["pyproject.toml", "uv.lock", *_named_files(settings)]
    missing = [name for name in required if not (source / name).is_file()]
    if missing:
        raise LocalError(
            f"missing in the source directory: {', '.join(missing)}",
            "run `uv lock` and commit uv.lock" if missing == ["uv.lock"] else "add what is missing, or set SOURCE_DIR",
        )
    roots = tuple(_drop_nested([*files, *required, *folders]))
    url = _find_source_url(source, settings, members)
    return Project(members, roots, tuple(sorted(set(required))), url, _UV_LOCK)


def find_spec(source: Path, roots: Iterable[str], spec: str | None) -> str | None:
    """Return the PyInstaller spec: the one that PYINSTALLER_SPEC names, `agent-server.spec`, or the only one.

    Raises:
        LocalError: The named one is missing.
    """
    if spec is not None:
        path = _inside(spec, "PYINSTALLER_SPEC")
        if not (source / path).is_file():
            raise LocalError(f"PYINSTALLER_SPEC names {path!r}, which is missing", "set PYINSTALLER_SPEC to a file")
        return path
    found = [path.name for path in source.glob("*.spec")]
    with suppress(LocalError):  # a folder that cannot be read
        found += (path for path in walk_files(source, roots, _has_no_specs) if path.endswith(".spec"))
    found = [PurePosixPath(path).as_posix() for path in found]
    preferred = [path for path in found if PurePosixPath(path).name == "agent-server.spec"]
    return min(preferred or found) if preferred or len(found) == 1 else None


def _has_no_specs(folder: str) -> bool:
    name = PurePosixPath(folder).name
    return name.startswith(".") or name in _NO_SPECS_IN


def _find_source_url(source: Path, settings: dict[str, Any], members: Iterable[str]) -> str | None:
    """Return where the project, or the first member that names a place, is published.

    The keys are well-known labels of PEP 753 (https://peps.python.org/pep-0753/).
    """
    for table in chain([settings], (_load(source, f"{member}/pyproject.toml") for member in members)):
        urls = _table(table, "project", "urls")
        known = {re.sub(r"[^a-z]", "", key.lower()): url for key, url in urls.items() if isinstance(url, str)}
        found = next((known[key] for key in _SOURCE_LABELS if key in known), None)
        if found:
            return found
    return None


def _load(source: Path, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bounded(source / name, _MAX_BYTES, follow=True).decode("utf-8"))
    except FileNotFoundError:
        raise LocalError(
            f"no pyproject.toml in the source directory {source}", "set SOURCE_DIR to the checkout of the agent server"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise LocalError(f"{name} cannot be read: {error}", f"correct {name}") from error


def _find_members(source: Path, settings: dict[str, Any]) -> set[str]:
    workspace = _table(settings, "tool", "uv", "workspace")
    excluded = [_inside(pattern, "tool.uv.workspace.exclude") for pattern in _strings(workspace, "exclude")]
    members = set()
    for pattern in (_inside(text, "tool.uv.workspace.members") for text in _strings(workspace, "members")):
        found = set(find_folders(source, pattern))
        if not found and not any(char in pattern for char in "*?["):
            raise LocalError(
                f"the workspace member {pattern!r} is missing", "correct tool.uv.workspace in pyproject.toml"
            )
        members |= {name for name in found if not any(fnmatchcase(name, skip) for skip in excluded)}
    for name in sorted(members):
        if not (source / name / "pyproject.toml").is_file() and not PurePosixPath(name).name.startswith("."):
            raise LocalError(f"the workspace member {name!r} has no pyproject.toml", f"add {name}/pyproject.toml")
    return {name for name in members if name != "." and (source / name / "pyproject.toml").is_file()}


def _find_path_sources(source: Path, settings: dict[str, Any]) -> list[str]:
    found = []
    for value in _table(settings, "tool", "uv", "sources").values():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, dict) and isinstance(entry.get("path"), str):
                path = _inside(entry["path"], "tool.uv.sources")
                if not (source / path).exists():
                    raise LocalError(f"tool.uv.sources names {path!r}, which is missing", "correct pyproject.toml")
                found.append(path)
    return found


def _has_package(settings: dict[str, Any]) -> bool:
    """Return whether the root is a package as well as a workspace."""
    return bool(_table(settings, "build-system")) and _table(settings, "tool", "uv").get("package") is not False


def _find_package(source: Path, settings: dict[str, Any], *, needed: bool) -> list[str]:
    """Return where the root's own package is, from the settings of each build backend, then from the usual places."""
    name = str(_table(settings, "project").get("name", "")).replace("-", "_").replace(".", "_")
    uv = _table(settings, "tool", "uv", "build-backend")
    setuptools = _table(settings, "tool", "setuptools")
    candidates = [
        *_strings(_table(settings, "tool", "hatch", "build", "targets", "wheel"), "packages"),
        *(f"{uv.get('module-root', 'src')}/{module}".lstrip("/") for module in _strings(uv, "module-name")),
        *_strings(_table(setuptools, "packages", "find"), "where"),
        *(package.split(".")[0] for package in _strings(setuptools, "packages")),
        *_strings(_table(settings, "tool", "flit", "module"), "name"),
        *(
            str(entry.get("from", entry.get("include", "")))
            for entry in _tables(settings, "tool", "poetry", "packages")
        ),
        "src",
        name,
        f"{name}.py",
    ]
    inside = [_inside(path, "pyproject.toml") for path in candidates if path]
    found = [path for path in inside if path != "." and (source / path).exists()]
    if needed and not found:
        raise LocalError(
            "pyproject.toml names no package of this source tree", "set INCLUDE to the folders that the build needs"
        )
    return found


def _is_top_level_file(path: Path) -> bool:
    return any(fnmatchcase(path.name, pattern) for pattern in _TOP_LEVEL_FILES) and not path.is_dir()


def _named_files(settings: dict[str, Any]) -> list[str]:
    """Return the files that the project table names; the package cannot be built without them."""
    project = _table(settings, "project")
    named = []
    for key in ("readme", "license"):
        value = project.get(key)
        if isinstance(value, dict):
            value = value.get("file")
        elif key == "license":
            continue
        if isinstance(value, str):
            named.append(_inside(value, f"project.{key}"))
    return named


def _drop_nested(paths: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for path in sorted(set(paths), key=lambda name: name.split("/")):
        if not kept or not path.startswith(kept[-1] + "/"):
            kept.append(path)
    return kept


def _inside(path: str, where: str) -> str:
    """Return `path` without `.` and repeated slashes; a source tree may not name anything outside itself."""
    parts = [part for part in PurePosixPath(path).parts if part != "."]
    if not path.isprintable():
        raise LocalError(f"{where} names {path!r}, which has a control character", "correct pyproject.toml")
    if PurePosixPath(path).is_absolute() or ".." in parts:
        raise LocalError(f"{where} names {path!r}, which is outside the source directory", "set SOURCE_DIR higher up")
    return "/".join(parts) or "."


def _table(settings: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        value = settings.get(key, {})
        settings = value if isinstance(value, dict) else {}
    return settings


def _tables(settings: dict[str, Any], *keys: str) -> list[dict[str, Any]]:
    value = _table(settings, *keys[:-1]).get(keys[-1], [])
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _strings(settings: dict[str, Any], key: str) -> list[str]:
    value = settings.get(key, [])
    if isinstance(value, str):
        return [value]
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []
