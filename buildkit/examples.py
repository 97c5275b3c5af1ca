"""Commands that may start the server of a source tree, to be suggested: each can be found in the image."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, NamedTuple

from buildkit.command import SOURCE_FOLDER
from buildkit.source.dependencies import normalize
from buildkit.source.tables import read_code

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from buildkit.models import Project

_APPLICATION = re.compile(
    r"^(\w+)(?:\s*:[^=\n]+)?\s*=\s*(?:\w+\.)*(?:"
    r"(FastAPI|Litestar|ProtocolTypeRouter|Quart|Sanic|Starlette|get_asgi_application)"
    r"|Flask|get_wsgi_application|(?:build|create|get|make)_app(?:lication)?)\(",
    re.MULTILINE,
)
_USUAL_FILES = frozenset({"app.py", "application.py", "asgi.py", "main.py", "server.py", "wsgi.py"})
_USUAL_NAMES = frozenset({"app", "application"})
_RUNS_ITSELF = re.compile(r"""^if __name__ == ["']__main__["']""", re.MULTILINE)
_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_NO_SERVER = re.compile(
    r"(?:^|/)(?:(?:tests?|docs?|examples?)(?:/|\.py$)|test_|[^/]*_test\.py$|conftest\.py$|setup\.py$)"
)
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
# A server for development: a script of the project's own is more likely to be right.
_FLASK = "flask --app"
# With these, an application that a function creates is one for ASGI.
_ASGI_ALONE = frozenset({"fastapi", "litestar", "quart", "starlette"})
_STREAMLIT = "cd {folder} && streamlit run {file} --server.address 0.0.0.0 --server.port {port} --server.headless true"
# Its own health check (https://docs.streamlit.io/deploy/tutorials/docker).
_STREAMLIT_HEALTH = "/_stcore/health"
_USES_STREAMLIT = re.compile(r"^import streamlit|^from streamlit", re.MULTILINE)
# The options of a command line that say where a server listens, in the order in which they are looked for.
_ADDRESS_OPTION = re.compile(r"""["']--(host|address|bind|ip)["'/,]""")
_PORT_OPTION = re.compile(r"""["']--port["'/,]""")
# Folders of an application that are given without the place of the source, so that it must be started there.
_RELATIVE = re.compile(r"""(?:directory|StaticFiles|Jinja2Templates|FileSystemLoader)\s*[=(]\s*["'](?!/)[\w.-]""")
_HAS_HEALTH = re.compile(r"""["']/?health/?["']""")
_OTHER_HEALTH = re.compile(r"""["'](/(?:healthz|health_?check|livez|ping|readyz))(?:/\??)?["']""")
_HAS_ROOT = re.compile(r"""\.(?:api_route|get|route|mount)\(\s*["']/["']""")
_MOST_READ, _MOST_NAMED = 60, 4


class _Way(NamedTuple):
    """A setting that starts a server, and where that server responds if it is known."""

    setting: str
    health: str = ""


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
        return [way.setting for way in self._list_ways()]

    def find_health(self) -> str | None:
        """Return the path that HEALTH_PATH should name, or None if nothing tells that /health is missing."""
        ways = self._list_ways()
        code = "\n".join(read_code(self._source, path) for path in self._files[:_MOST_READ])
        if not ways or _HAS_HEALTH.search(code):
            return None
        other = _OTHER_HEALTH.search(code)
        return ways[0].health or (other[1] if other else "/")

    def _list_ways(self) -> list[_Way]:
        scripts, applications = list(self._list_scripts()), list(self._list_applications())
        found = [way for way in scripts if " " in way.setting]  # those that can be told where to listen
        found += (way for way in applications if _FLASK not in way.setting)
        found += (way for way in [*scripts, *applications, *self._list_streamlit()] if way not in found)
        found += [way for way in self._list_runnable() if not found or "." not in way.setting.partition("=")[2]]
        return found[:_MOST_NAMED] or [*self._list_managers(), *self._list_programs()][:_MOST_NAMED]

    def _list_applications(self) -> Iterator[_Way]:
        """Yield commands for the applications that the source creates, if a server for them is installed."""
        usual = [path for path in self._files if path.rpartition("/")[2] in _USUAL_FILES]
        others = [path for path in self._files if path not in set(usual) and self._is_own(path)]
        for path in [*usual, *others][:_MOST_READ]:
            code = read_code(self._source, path)
            matches = list(_APPLICATION.finditer(code))
            match = next((match for match in matches if match[1] in _USUAL_NAMES), (*matches, None)[0])
            module = self._name_module(path)
            if match is None or module is None:
                continue
            servers = _ASGI if match[2] or _ASGI_ALONE & self._installed else _WSGI
            if server := next((name for name in servers if name in self._installed), None):
                change = f"cd {SOURCE_FOLDER} && " if _RELATIVE.search(code) else ""
                command = servers[server].format(app=f"{module}:{match[1]}", port=self._port)
                # Unless it is told otherwise, FastAPI shows its documentation there.
                health = "/docs" if match[2] == "FastAPI" and not _HAS_ROOT.search(code) else ""
                yield _Way(f"SERVER_COMMAND={shlex.quote(change + command)}", health)

    def _list_scripts(self) -> Iterator[_Way]:
        if self._project.is_package or self._project.members:
            own = normalize(self._project.name or "")
            names = sorted(self._project.scripts, key=lambda name: (normalize(name) != own, "serve" not in name))
            for name in names:
                module = self._project.scripts[name].partition(":")[0]
                package = module.partition(".")[0]
                options = self._find_options(module) or (self._find_options(package) if normalize(name) == own else [])
                yield _Way(f"SERVER_COMMAND={shlex.quote(' '.join([name, *options]))}")

    def _list_runnable(self) -> Iterator[_Way]:
        """Yield the packages that `python -m` can run."""
        folders = (path.removesuffix("/__main__.py") for path in self._files if path.endswith("/__main__.py"))
        for module in filter(None, (self._name_module(f"{folder}/__init__.py") for folder in folders)):
            yield _Way(f"SERVER_MODULE={module}")

    def _list_streamlit(self) -> Iterator[_Way]:
        """Yield commands for the pages of Streamlit that are not below others."""
        if "streamlit" not in self._installed:
            return
        pages = [path for path in self._files[:_MOST_READ] if _USES_STREAMLIT.search(read_code(self._source, path))]
        for path in (path for path in pages if path.count("/") == pages[0].count("/")):
            folder, _, file = f"{SOURCE_FOLDER}/{path}".rpartition("/")
            command = _STREAMLIT.format(folder=shlex.quote(folder), file=shlex.quote(file), port=self._port)
            yield _Way(f"SERVER_COMMAND={shlex.quote(command)}", _STREAMLIT_HEALTH)

    def _list_managers(self) -> Iterator[_Way]:
        """Yield the development server of Django."""
        if "django" in self._installed:
            modules = (self._name_module(path) for path in self._files if path.rpartition("/")[2] == "manage.py")
            for module in filter(None, modules):
                command = f"python -m {module} runserver --noreload 0.0.0.0:{self._port}"
                yield _Way(f"SERVER_COMMAND={shlex.quote(command)}")

    def _list_programs(self) -> Iterator[_Way]:
        """Yield modules that do something when they are run."""
        for path in [path for path in self._files if self._is_own(path)][:_MOST_READ]:
            module = self._name_module(path)
            if module and module != "manage" and _RUNS_ITSELF.search(read_code(self._source, path)):
                yield _Way(f"SERVER_MODULE={module}")

    def _find_options(self, module: str) -> list[str]:
        """Return the options that let a program listen on every address; none if the module or package has none."""
        code = "\n".join(read_code(self._source, path) for path in self._list_modules(module))
        address, port = _ADDRESS_OPTION.search(code), _PORT_OPTION.search(code)
        return [f"--{address[1]}=0.0.0.0", f"--port={self._port}"] if address and port else []

    def _list_modules(self, name: str) -> Iterable[str]:
        """Return the files of a package or module, as far as they are read."""
        path = name.replace(".", "/")
        parts = tuple(f"{root}{path}{end}" for root in self._project.import_roots for end in ("/", ".py"))
        return [path for path in self._files if name and path.startswith(parts)][:_MOST_READ]

    def _name_module(self, path: str) -> str | None:
        """Return the dotted name of a file, or None if it cannot be imported."""
        root = max((root for root in self._project.import_roots if path.startswith(root)), key=len, default="")
        name = path.removeprefix(root).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return name if _MODULE.fullmatch(name) and not name.endswith("__init__") else None

    def _is_own(self, path: str) -> bool:
        return any(path == package or path.startswith(f"{package}/") for package in self._project.packages)
