"""One run of a task: settings, folders, lock and signals, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit.config.load import LoadedSettings, find_root, load_settings, read_environment
from buildkit.console import Console
from buildkit.errors import LocalError, RuntimeBuildError, SettingError
from buildkit.output.directory import check_output_dir, lock_output_dir, make_output_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

    from buildkit.config.settings import Settings
    from buildkit.models import Project
    from buildkit.source.selection import Selection

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked us to end; not an `Exception`, so that nothing takes it for a failure of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Session:
    """What a task works with.

    Attributes:
        root: Where `.env` lies; relative paths start here, from whichever folder the task is run.
        source: The checkout that is packed.
        directory: The output directory.
    """

    def __init__(self, loaded: LoadedSettings, root: Path, environment: Mapping[str, str]) -> None:
        self.loaded = loaded
        self.settings: Settings = loaded.settings
        self.environment = environment
        self.root = root
        self.source = self._locate(self.settings.source_dir).resolve()
        directory = self._locate(self.settings.output_dir)
        self.directory = directory.parent.resolve() / directory.name
        self.console = Console(environment.get("GITHUB_OUTPUT", ""), self.settings.runtime_api_key)
        self.on_interrupt = "run it again"

    @cached_property
    def project(self) -> Project:
        """What the source's project file says."""
        from buildkit.source.project import read_project

        self.check_folders()
        return read_project(self.source)

    @cached_property
    def selection(self) -> Selection:
        """The rules by which files are packed."""
        from buildkit.source.selection import Selection

        settings = self.settings
        lock = self.directory.with_name(f".{self.directory.name}.lock")
        ours = [path.relative_to(self.source).as_posix() for path in (self.directory, lock) if self._is_inside(path)]
        return Selection(self.source, self.project, include=settings.include, exclude=settings.exclude, ours=ours)

    @property
    def template_dir(self) -> Path | None:
        """Where this project's own templates lie, if it has any."""
        return self._locate(self.settings.template_dir) if self.settings.template_dir else None

    def check_folders(self) -> None:
        """Refuse folders that are not there, before anything is written.

        Raises:
            SettingError: One is missing; it is named.
        """
        if not self.source.is_dir():
            raise SettingError(f"SOURCE_DIR is no folder: {self.source}", "set SOURCE_DIR to the checkout to pack")
        if self.template_dir and not self.template_dir.is_dir():
            raise SettingError(f"TEMPLATE_DIR is no folder: {self.template_dir}", "make it, or unset TEMPLATE_DIR")

    def show_path(self, path: Path) -> str:
        """Return a path as somebody in the working directory would type it."""
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)

    def check_output(self) -> None:
        """Refuse an output directory that is not ours to write into.

        Raises:
            SettingError: It is not.
        """
        check_output_dir(self.directory, self.source, self.root, Path.cwd())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the output directory for this run alone.

        Raises:
            SettingError: It is not a folder for our output.
            LocalError: Another run holds it.
        """
        self.check_output()
        with lock_output_dir(self.directory):
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the output directory for this run alone, made where it is missing."""
        with self.locked():
            make_output_dir(self.directory)
            yield

    def _locate(self, path: str) -> Path:
        """Return a path as a shell would: `~` is the home, and what is relative starts from the root."""
        return Path(os.path.normpath(self.root / os.path.expanduser(path)))

    def _is_inside(self, path: Path) -> bool:
        return path.is_relative_to(self.source)


def open_session(flags: Mapping[str, str], root: Path | None, defaults: Mapping[str, str]) -> Session:
    """Return a session with every setting checked.

    Raises:
        SettingError: One is bad.
    """
    environment = read_environment()
    folder = root or find_root(Path.cwd())
    session = Session(load_settings(flags, environment, folder, defaults), folder, environment)
    for warning in session.loaded.warnings:
        session.console.warn(warning)
    return session


@contextmanager
def ending_well(*, as_json: bool) -> Iterator[list[Session]]:
    """Turn every way to end badly into two lines and an exit code; give a list to put the session into.

    Raises:
        SystemExit: With the exit code of the error or the signal.
    """
    sessions: list[Session] = []
    code = 0
    try:
        with _raising_signals():
            yield sessions
    except RuntimeBuildError as error:
        _find_console(sessions).fail(error, as_json=as_json)
        code = error.exit_code
    except OSError as error:
        _find_console(sessions).fail(
            LocalError(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), "mend it and run again"),
            as_json=as_json,
        )
        code = LocalError.exit_code
    except Interrupted as interrupt:
        code = 128 + interrupt.number
        stopped = RuntimeBuildError("interrupted", sessions[0].on_interrupt if sessions else "run it again")
        stopped.exit_code = code  # type: ignore[misc]  # the only error whose code is not its class's
        _find_console(sessions).fail(stopped, as_json=as_json)
    if code:
        raise SystemExit(code)


@contextmanager
def _raising_signals() -> Iterator[None]:
    """Let the first signal unwind, so that temporary files go and a build ID is shown; a second one ends us at once."""
    # What our caller ignores stays ignored: `nohup` means a run that outlives its terminal.
    numbers = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]

    def interrupt(number: int, _: FrameType | None) -> None:
        for heard in numbers:
            signal.signal(heard, signal.SIG_DFL)
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in numbers}
    interrupted = False
    try:
        yield
    except Interrupted:
        interrupted = True
        raise
    finally:
        for number, handler in before.items():
            # After the first signal nothing is restored: a traceback of Ctrl-C helps nobody who pressed it twice.
            signal.signal(number, signal.SIG_DFL if interrupted else handler)


def _find_console(sessions: Sequence[Session]) -> Console:
    return sessions[0].console if sessions else Console()
