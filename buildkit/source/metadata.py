"""What the project file of one package says: its name, its scripts, its modules, and where its version comes from."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from buildkit.source.dependencies import DependencyKind, VersionTool, read_locked_python
from buildkit.source.tables import load_setup, load_toml, resolve, strings, table, tables, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from buildkit.source.dependencies import Dependencies

_SOURCE_LABELS = ("source", "sourcecode", "repository", "github")
# Folders and modules at the top of a tree that are rarely part of its package.
_BESIDE_A_PACKAGE = re.compile(
    r"benchmarks?|bench|build|ci|dist|docs?|examples?|evaluation|scripts|tests?|tools|test_.*"
    r"|(?:conftest|fabfile|noxfile|setup|tasks|test)\.py"
)
_IMPORTABLE = re.compile(r"[A-Za-z_]\w*(?:\.py)?")


class Package(NamedTuple):
    """A package, the root's or a member's.

    Attributes:
        folder: Its folder with a slash at the end, or empty for the root.
        settings: The whole of `pyproject.toml`.
        project: Its `[project]` table; what is written elsewhere (for Poetry, in `setup.py`) is in it, too.
    """

    folder: str
    settings: dict[str, Any]
    project: dict[str, Any]

    @property
    def name(self) -> str | None:
        """The name as it is written."""
        return text(self.project, "name")

    @property
    def scripts(self) -> dict[str, str]:
        """The console scripts, with what they start; empty where that is not written in a form that is understood."""
        return {name: value if isinstance(value, str) else "" for name, value in table(self.project, "scripts").items()}

    @property
    def source_url(self) -> str | None:
        """Where it is published: a well-known label of PEP 753 (https://peps.python.org/pep-0753/)."""
        urls = table(self.settings, "project", "urls")
        known = {re.sub(r"[^a-z]", "", key.lower()): url for key, url in urls.items() if isinstance(url, str)}
        return next((known[key] for key in _SOURCE_LABELS if key in known), None)

    @property
    def backend(self) -> str:
        """The build backend, or an empty text for the default one."""
        return str(table(self.settings, "build-system").get("build-backend", ""))

    @property
    def is_installable(self) -> bool:
        """Whether it has a build backend or a `setup.py`, and nobody says that it is no package."""
        stated = table(self.settings, "tool", "uv").get(
            "package", table(self.settings, "tool", "poetry").get("package-mode")
        )
        return stated is not False and bool(table(self.settings, "build-system") or self.project.get("has-setup"))

    @property
    def version_tool(self) -> VersionTool | None:
        """What takes its version from git, or None if it is written down."""
        requires = " ".join(strings(table(self.settings, "build-system"), "requires"))
        needed = set(re.findall(r"[a-z][a-z0-9-]*", requires.lower().replace("_", "-")))
        tool = table(self.settings, "tool")
        is_dynamic = "version" in strings(table(self.settings, "project"), "dynamic") or not text(
            self.project, "version"
        )
        if self.project.get("uses-scm") or ("setuptools-scm" in needed and is_dynamic):
            return VersionTool.SETUPTOOLS_SCM
        hatch = str(table(tool, "hatch", "version").get("source", ""))
        if hatch == "vcs":
            return VersionTool.HATCH_VCS
        if hatch == "uv-dynamic-versioning" or ("uv-dynamic-versioning" in needed and is_dynamic):
            return VersionTool.UV_DYNAMIC
        if table(tool, "poetry-dynamic-versioning").get("enable") and "poetry-dynamic-versioning" in needed:
            return VersionTool.POETRY_DYNAMIC
        return VersionTool.PDM if table(tool, "pdm", "version").get("source") == "scm" else None


def read_package(source: Path, folder: str = "") -> Package:
    """Return the package in a folder, whose path ends in a slash if it is not the root.

    Raises:
        LocalError: Its `pyproject.toml` cannot be read.
    """
    settings = load_toml(source, f"{folder}pyproject.toml")
    poetry = table(settings, "tool", "poetry")
    has_setup = any((source / f"{folder}{name}").is_file() for name in ("setup.py", "setup.cfg"))
    project = load_setup(source, folder) if has_setup else {}
    project["has-setup"] = (source / f"{folder}setup.py").is_file()
    for key in ("name", "scripts", "dependencies", "version", "readme"):
        if key in poetry:
            project[key] = poetry[key]
    return Package(folder, settings, project | table(settings, "project"))


def find_python(source: Path, dependencies: Dependencies, root: Package) -> str | None:
    """Return the specifier of the Python versions that a project accepts, or None if it does not say."""
    locked = read_locked_python(source) if dependencies.kind is DependencyKind.UV_LOCK else None
    if stated := locked or text(root.project, "requires-python"):
        return stated
    poetry = table(root.settings, "tool", "poetry", "dependencies").get("python")
    return _translate_poetry(poetry) if isinstance(poetry, str) else None


def find_modules(source: Path, package: Package) -> list[str]:
    """Return the top-level packages and modules of a package: where its build backend says, then the usual places."""
    stated = {resolve(f"{package.folder}{path}") for path in _list_stated(package)} - {None, package.folder[:-1]}
    if found := sorted(path for path in stated if path and _is_module(source, path)):
        return found
    name = re.sub(r"[-.]", "_", package.name or "").lower()
    below_src, beside = (sorted(_list_importable(source, f"{package.folder}{root}")) for root in ("src/", ""))
    same = re.compile(rf"(?:.*/)?{'_?'.join(map(re.escape, name.split('_')))}(?:\.py)?", re.IGNORECASE)
    named = [path for path in (*below_src, *beside) if name and same.fullmatch(path)]
    return named or below_src or beside


def list_import_roots(package: Package) -> list[str]:
    """Return the folders that Python finds this package's modules in, each with a slash at the end or empty."""
    where = strings(table(package.settings, "tool", "setuptools", "packages", "find"), "where")
    where += [str(entry["from"]) for entry in tables(package.settings, "tool", "poetry", "packages") if "from" in entry]
    where += strings(table(package.settings, "tool", "uv", "build-backend"), "module-root")
    where += [path.rpartition("/")[0] for path in _list_stated(package)]
    places = [place for path in ("", "src", *where) if (place := resolve(f"{package.folder}{path}")) is not None]
    return list(dict.fromkeys(f"{place}/" if place else "" for place in places))


def _list_stated(package: Package) -> Iterator[str]:
    """Yield the paths of packages and modules that the settings of a build backend name, from the package's folder."""
    tool = table(package.settings, "tool")
    yield from strings(table(tool, "hatch", "build", "targets", "wheel"), "packages")
    uv = table(tool, "uv", "build-backend")
    below = "".join(f"{root}/" for root in strings({"root": uv.get("module-root", "src")}, "root") if root)
    yield from (f"{below}{name.replace('.', '/')}" for name in strings(uv, "module-name"))
    setuptools = table(tool, "setuptools")
    yield from (name.partition(".")[0] for name in strings(setuptools, "packages"))
    yield from (f"{name}.py" for name in strings(setuptools, "py-modules"))
    found = table(setuptools, "packages", "find")
    for where in strings(found, "where") or [""]:
        yield from (f"{where}/{name.partition('.')[0].rstrip('*')}".lstrip("/") for name in strings(found, "include"))
    yield from strings(table(tool, "flit", "module"), "name")
    for entry in tables(tool, "poetry", "packages"):
        include = str(entry.get("include", "")).partition("*")[0].rstrip("/")
        yield f"{entry['from']}/{include}" if "from" in entry else include


def _is_module(source: Path, path: str) -> bool:
    return os.path.isfile(source / path) if path.endswith(".py") else os.path.isdir(source / path)


def _list_importable(source: Path, folder: str) -> Iterable[str]:
    """Return the packages and modules in a folder, without those that are beside a package."""
    try:
        with os.scandir(source / folder) as entries:
            found = [entry for entry in entries if _IMPORTABLE.fullmatch(entry.name)]
    except OSError:
        return []
    modules = [entry.name for entry in found if entry.name.endswith(".py") and entry.is_file()]
    modules += [entry.name for entry in found if entry.is_dir(follow_symlinks=False) and _has_modules(entry.path)]
    return [f"{folder}{name}" for name in modules if not _BESIDE_A_PACKAGE.fullmatch(name)]


def _has_modules(folder: str) -> bool:
    try:
        return any(name.endswith(".py") for name in os.listdir(folder))
    except OSError:
        return False


def _translate_poetry(constraint: str) -> str | None:
    """Return Poetry's constraint as a specifier, or None if it has alternatives."""
    parts = [part.strip() for part in constraint.split(",") if part.strip()]
    translated = []
    for part in parts:
        match = re.fullmatch(r"([~^]|=?)\s*([0-9]{1,9})((?:\.[0-9]{1,9})*)", part)
        if match is None:
            translated.append(part)
            continue
        operator, major, rest = match.groups()
        minor = rest.split(".")[1] if rest else "0"
        above = f"<{major}.{int(minor) + 1}" if operator == "~" and rest else f"<{int(major) + 1}"
        translated += [f">={major}{rest}", above] if operator in {"~", "^"} else [f"=={major}{rest}"]
    return ",".join(translated) if translated and not any(mark in constraint for mark in ("|", "*")) else None
