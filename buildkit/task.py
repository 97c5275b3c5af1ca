"""The tasks by name; what every task is given and what it returns: a `Run` in, an `Outcome` out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from buildkit.errors import SettingError
from buildkit.owned import OwnedFolder
from buildkit.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from buildkit.models import StepResult
    from buildkit.precedence import LoadedSettings
    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.runtime_api.retry import Clock
    from buildkit.settings import CiEnvironment, Group
    from buildkit.source.tree import SourceTree
    from buildkit.ui import Ui

    Given = str | bool | None  # what was typed for a flag

# In the order in which `--list` shows them; each is a module of `buildkit.tasks` with a `TASK`.
TASKS = (
    "version",
    "dockerfile",
    "context",
    "upload",
    "wait",
    "all",
    "build",
    "images",
    "verify",
    "manifest",
    "logs",
    "builds",
    "cancel",
    "serve",
    "clean",
    "doctor",
)


class Flag(NamedTuple):
    """A flag of one task: off, or None if it takes a value, unless it is given.

    Attributes:
        parse: Makes a typed value of the flag's text, given the name to use in errors; such a flag takes a value.
        is_optional: Whether its value may be left out; it is then True.
    """

    name: str
    meaning: str
    takes_value: bool = False
    parse: Callable[[str, str], Any] | None = None
    is_optional: bool = False

    @property
    def default(self) -> bool | None:
        """The value of the flag if it is not given."""
        return None if self.takes_value or self.parse else False

    def read(self, given: Given) -> object:
        """Return the typed value of what was given."""
        return self.parse(given, f"--{self.name.replace('_', '-')}") if self.parse and isinstance(given, str) else given


class Outcome(NamedTuple):
    """What a task prints on stdout, what it prints there with `--json`, and its exit code.

    Attributes:
        text: Or lines, printed as they come; the record may contain the same iterator, as a list.
    """

    text: str | Iterator[str]
    record: StepResult | Mapping[str, Any]
    exit_code: int = 0


class Task(NamedTuple):
    """A task as it can be typed; the first line of `run`'s docstring is its help.

    Attributes:
        groups: Settings that are flags of this task, in addition to those that every task has.
        flags: Flags that are not settings.
    """

    name: str
    run: Callable[[Run], Outcome]
    groups: tuple[Group, ...] = ()
    flags: tuple[Flag, ...] = ()


@dataclass
class Run:
    """One run of a task: the settings, and what they name.

    Attributes:
        root: Where `.env` is; relative paths start here, whichever folder the task is run from.
        flags: The task's own flags by name.
    """

    loaded: LoadedSettings
    root: Path
    ci: CiEnvironment
    ui: Ui
    flags: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = self.loaded.settings
        self.source = self.locate(self.settings.source_dir).resolve()
        path = self.locate(self.settings.output_dir)
        self.workspace = Workspace(path.parent.resolve() / path.name)
        self.template_dir = self.locate(self.settings.template_dir) if self.settings.template_dir else None

    @cached_property
    def tree(self) -> SourceTree:
        """The source tree, and the rules by which its files are packed."""
        from buildkit.source.tree import SourceTree

        self.check_folders()
        server = self.locate(self.settings.serve_data)
        folders = (self.workspace, OwnedFolder(server.parent.resolve() / server.name))
        ours = [path for folder in folders for path in (folder.path, folder.lock_path)]
        inside = [path.relative_to(self.source).as_posix() for path in ours if path.is_relative_to(self.source)]
        return SourceTree(self.source, self.settings, self.ci, ours=inside)

    def check_folders(self) -> None:
        """Raise SettingError if a folder that a setting names does not exist, before anything is written."""
        if not self.source.is_dir():
            raise SettingError(f"SOURCE_DIR is not a folder: {self.source}", "set SOURCE_DIR to the checkout to pack")
        if self.template_dir and not self.template_dir.is_dir():
            raise SettingError(f"TEMPLATE_DIR is not a folder: {self.template_dir}", "create it, or unset TEMPLATE_DIR")

    def check_workspace(self) -> None:
        """Raise SettingError if the output directory is not ours to write to."""
        self.workspace.check(*self._protected)

    def writing(self) -> AbstractContextManager[None]:
        """Hold the workspace for this run alone, created if it is missing."""
        return self.workspace.writing(*self._protected)

    @property
    def _protected(self) -> tuple[Path, ...]:
        return (self.source, self.root, Path.cwd())

    def open_api(self, clock: Clock | None = None) -> RuntimeApi:
        """Return a client of the Runtime API that the settings name.

        Args:
            clock: Instead of the real one.
        """
        url, key = self.settings.runtime_api_url, self.settings.runtime_api_key
        if url is None or key is None:
            raise SettingError(
                "RUNTIME_API_URL and RUNTIME_API_KEY are not set", "set both in .env or in the environment"
            )
        from buildkit.runtime_api.client import RuntimeApi
        from buildkit.runtime_api.http import Network
        from buildkit.runtime_api.retry import Clock
        from buildkit.settings import read_environment

        network = Network(environment=read_environment())
        hosts = frozenset(self.settings.allowed_hosts)
        return RuntimeApi(url, key, allowed_hosts=hosts, network=network, clock=clock or Clock())

    def show_path(self, path: Path) -> str:
        """Return a path as somebody in the working directory would type it."""
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)

    def locate(self, path: str) -> Path:
        """Return a path as a shell would: `~` is the home, and relative paths start from the root."""
        return Path(os.path.normpath(self.root / os.path.expanduser(path)))
