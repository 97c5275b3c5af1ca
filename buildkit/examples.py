"""Commands that may start the server of a source tree, to be suggested: each can be found in the image."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from buildkit.source.dependencies import normalize
from buildkit.source.tables import read_code

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from buildkit.models import Project

_APPLICATION = re.compile(
    r"^(\w+)(?:\s*:[^=\n]+)?\s*=\s*(?:\w+\.)*(?:"
    r"(FastAPI|Litestar|ProtocolTypeRouter|Quart|Sanic|Starlette|get_asgi_application)"
    r"|Flask|create_app|get_wsgi_application)\(",
    re.MULTILINE,
)
_USUAL_FILES = frozenset({"app.py", "application.py", "asgi.py", "main.py", "server.py", "wsgi.py"})
_USUAL_NAMES = frozenset({"app", "application"})
_RUNS_ITSELF = re.compile(r"""^if __name__ == ["']__main__["']""", re.MULTILINE)
_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_NO_SERVER = re.compile(r"(?:^|/)(?:(?:tests?|docs?|examples?)(?:/|\.py$)|test_|conftest\.py$|setup\.py$)")
_ASGI = {
    "uvicorn": "uvicorn {app} --host 0.0.0.0 --port {port}",
    "hypercorn": "hypercorn {app} --bind 0.0.0.0:{port}",
    "granian": "granian --interface asgi --host 0.0.0.0 --port {port} {app}",
    "daphne": "daphne -b 0.0.0.0 -p {port} {app}",
}
_WSGI = {
    "gunicorn": "gunicorn {app} --bind 0.0.0.0:{port}",
    "waitress": "waitress-serve --listen=0.0.0.0:{port} {app}",
    "granian": "granian --interface wsgi --host 0.0.0.0 --port {port} {app}",
    "flask": "flask --app {app} run --host 0.0.0.0 --port {port}",
}
# With these, an application that a function creates is one for ASGI.
_ASGI_ALONE = frozenset({"fastapi", "litestar", "quart", "starlette"})
_MOST_READ, _MOST_NAMED = 60, 4


class StartExamples:
    """Finds ways to start a server.

    Args:
        files: What is packed.
        installed: Normalized names of the distributions that are installed.
        port: What the server should listen on.
    """

    def __init__(
        self, source: Path, project: Project, files: Collection[str], installed: frozenset[str], port: int
    ) -> None:
        self._source = source
        self._project = project
        self._installed = installed
        self._port = port
        modules = (path for path in files if path.endswith(".py") and not _NO_SERVER.search(path))
        self._files = sorted(modules, key=lambda path: (path.count("/"), path))

    def find(self) -> list[str]:
        """Return settings that name a way to start the server, the likeliest first; a few at most."""
        found = [*self._list_applications(), *self._list_scripts()]
        found += [f"SERVER_MODULE={name}" for name in self._list_runnable() if not found or "." not in name]
        return found[:_MOST_NAMED] or [*self._list_managers(), *self._list_programs()][:_MOST_NAMED]

    def _list_applications(self) -> Iterator[str]:
        """Yield commands for the applications that the source creates, if a server for them is installed."""
        usual = [path for path in self._files if path.rpartition("/")[2] in _USUAL_FILES]
        others = [path for path in self._files if path not in set(usual) and self._is_own(path)]
        for path in [*usual, *others][:_MOST_READ]:
            matches = list(_APPLICATION.finditer(read_code(self._source, path)))
            match = next((match for match in matches if match[1] in _USUAL_NAMES), (*matches, None)[0])
            module = self._name_module(path)
            if match is None or module is None:
                continue
            servers = _ASGI if match[2] or _ASGI_ALONE & self._installed else _WSGI
            if server := next((name for name in servers if name in self._installed), None):
                command = servers[server].format(app=f"{module}:{match[1]}", port=self._port)
                yield f"SERVER_COMMAND={shlex.quote(command)}"

    def _list_scripts(self) -> Iterator[str]:
        if self._project.is_package or self._project.members:
            own = normalize(self._project.name or "")
            names = sorted(self._project.scripts, key=lambda name: (normalize(name) != own, "serve" not in name))
            yield from (f"SERVER_COMMAND={shlex.quote(name)}" for name in names)

    def _list_runnable(self) -> Iterator[str]:
        """Yield the packages that `python -m` can run."""
        folders = (path.removesuffix("/__main__.py") for path in self._files if path.endswith("/__main__.py"))
        yield from filter(None, (self._name_module(f"{folder}/__init__.py") for folder in folders))

    def _list_managers(self) -> Iterator[str]:
        """Yield the development server of Django."""
        if "django" in self._installed:
            modules = (self._name_module(path) for path in self._files if path.rpartition("/")[2] == "manage.py")
            for module in filter(None, modules):
                command = f"python -m {module} runserver --noreload 0.0.0.0:{self._port}"
                yield f"SERVER_COMMAND={shlex.quote(command)}"

    def _list_programs(self) -> Iterator[str]:
        """Yield modules that do something when they are run."""
        for path in [path for path in self._files if self._is_own(path)][:_MOST_READ]:
            module = self._name_module(path)
            if module and module != "manage" and _RUNS_ITSELF.search(read_code(self._source, path)):
                yield f"SERVER_MODULE={module}"

    def _name_module(self, path: str) -> str | None:
        """Return the dotted name of a file, or None if it cannot be imported."""
        root = max((root for root in self._project.import_roots if path.startswith(root)), key=len, default="")
        name = path.removeprefix(root).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return name if _MODULE.fullmatch(name) and not name.endswith("__init__") else None

    def _is_own(self, path: str) -> bool:
        return any(path == package or path.startswith(f"{package}/") for package in self._project.packages)
