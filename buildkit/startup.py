"""Whether the command that starts a server can be found in what is packed, or among what is installed."""

from __future__ import annotations

import re
import sys
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from buildkit.command import SOURCE_FOLDER
from buildkit.contract import HEALTH
from buildkit.examples import StartExamples
from buildkit.models import Problem
from buildkit.source.dependencies import list_named, normalize
from buildkit.source.metadata import read_package
from buildkit.source.tables import read_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from buildkit.settings import Settings
    from buildkit.source.tree import SourceTree

_DEFAULT_MODULE = "openhands.agent_server"
# Their first argument of this form is an application.
_SERVERS = frozenset({"daphne", "flask", "granian", "gunicorn", "hypercorn", "uvicorn", "waitress-serve"})
_APPLICATION = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*(?:\(.*\))?")
_ELSEWHERE = frozenset({"--app-dir", "--chdir", "--working-dir"})
# Requirements that bring uvicorn along, which is often not listed then.
_BRING_UVICORN = re.compile(r"\b(?:fastapi\[[^]]*\b(?:all|standard)\b|(?:fastmcp|gradio|mcp|nicegui)\b)", re.IGNORECASE)
# Programs that come with a distribution of another name.
_PROVIDED_BY = {
    "django-admin": {"django"},
    "fastapi": {"fastapi-cli"},
    "jupyter": {"jupyter-core"},
    "waitress-serve": {"waitress"},
}


class StartChecker:
    """Checks the command that the settings give, as far as the files and the lock tell."""

    def __init__(self, tree: SourceTree, settings: Settings, files: Iterable[str]) -> None:
        self._tree = tree
        self._settings = settings
        self._project = tree.project
        self._files = frozenset(files)

    def check(self) -> Iterator[Problem]:
        """Yield an error if the server cannot be found, and a warning if it may be in a package that is not locked."""
        command = self._settings.server_command
        if command is None:
            problem = self._check_module(self._settings.server_module, "SERVER_MODULE")
        elif command.module:
            problem = self._check_module(command.module, "SERVER_COMMAND")
        elif command.program == "python":
            problem = None  # the build looks for the script
        else:
            problem = self._check_program(command.program)
            problem = problem or (self._check_application(command.arguments) if command.program in _SERVERS else None)
        if problem:
            yield problem

    def _check_module(self, module: str, setting: str) -> Problem | None:
        """Return what is wrong with a module that `python -m` is to run."""
        path = module.replace(".", "/")
        if self._has_file(f"{path}/__main__.py", f"{path}.py") or self._is_module_installed(module):
            return None
        if self._has_file(f"{path}/__init__.py"):
            return self._describe(f"{setting} {module} is a package without __main__.py, which `python -m` cannot run")
        described = f"{setting} {module} is neither packed nor among the packages of {self._described}"
        return self._describe(described, is_sure=module == _DEFAULT_MODULE or self._is_own(module))

    def _check_program(self, program: str) -> Problem | None:
        if program in self._project.scripts or self._is_installed(program):
            return None
        described = f"SERVER_COMMAND starts {program}, which neither the project nor the packages of"
        return self._describe(f"{described} {self._described} have", is_sure=False)

    def _check_application(self, arguments: tuple[str, ...]) -> Problem | None:
        """Return what is wrong with the application that a server is given."""
        module = next((match[1] for match in map(_APPLICATION.fullmatch, arguments) if match), None)
        if module is None or _ELSEWHERE.intersection(arguments) or self._is_module_installed(module):
            return None
        path = module.replace(".", "/")
        folder = self._settings.server_command.folder if self._settings.server_command else ""
        if self._has_file(f"{path}.py", f"{path}/__init__.py") or f"{folder}/{path}.py" in self._places:
            return None
        described = f"SERVER_COMMAND names the application {module}, which is not packed"
        return self._describe(described, is_sure=self._is_own(module))

    def _describe(self, message: str, *, is_sure: bool = True) -> Problem:
        """Return an error if it is certain that the server cannot be found, or else a warning."""
        is_error = is_sure or self._project.dependencies.kind.is_locked
        return Problem("server", message, self._suggest(), is_error=is_error)

    def _is_own(self, module: str) -> bool:
        top = module.partition(".")[0]
        return any(PurePosixPath(path).stem == top for path in self._project.packages)

    def _is_module_installed(self, module: str) -> bool:
        """Return whether the standard library or a distribution whose name the module begins with has it."""
        parts = module.split(".")
        names = ("-".join(parts[:count]) for count in range(1, len(parts) + 1))
        return parts[0] in sys.stdlib_module_names or any(map(self._is_installed, names))

    def _has_file(self, *paths: str) -> bool:
        return any(f"{root}{path}" in self._files for root in self._project.import_roots for path in paths)

    def _is_installed(self, name: str) -> bool:
        wanted = _PROVIDED_BY.get(name, set()) | {normalize(name)}
        return bool(wanted & self._installed)

    @cached_property
    def _installed(self) -> frozenset[str]:
        """Names of the distributions that are installed, without the project's own."""
        path = self._tree.path
        own = [read_package(path, folder) for folder in ("", *(f"{member}/" for member in self._project.members))]
        named = list_named(path, self._project.dependencies, own[0].project)
        named -= {normalize(package.name) for package in own if package.name}
        dependencies = self._project.dependencies
        listed = "" if dependencies.kind.is_locked else "\n".join(read_code(path, file) for file in dependencies.files)
        return named | ({"uvicorn"} if _BRING_UVICORN.search(listed) else frozenset())

    @cached_property
    def _places(self) -> frozenset[str]:
        """Where the packed files are in the image of a source target."""
        return frozenset(f"{SOURCE_FOLDER}/{path}" for path in self._files)

    @property
    def _described(self) -> str:
        return self._project.dependencies.path or "the project"

    def _suggest(self) -> str:
        settings = self._settings
        examples = StartExamples(self._tree.path, self._project, self._files, self._installed, settings.server_port)
        ways = examples.find()
        if not ways:
            return "set SERVER_MODULE to a module that `python -m` can run, or SERVER_COMMAND to a command"
        health = examples.find_health() if settings.health_path == HEALTH else None
        also = f"; also set HEALTH_PATH={health} because no file mentions {HEALTH}" if health else ""
        return f"set what starts the server, on 0.0.0.0:{settings.server_port}: {' or '.join(ways)}{also}"
