"""One family of errors: what happened, what to type, and the exit code."""

from __future__ import annotations

import shlex
from typing import ClassVar

from buildkit.display import escape_controls

PROGRAM = "runtime-build"


def run(task: str, *arguments: str) -> str:
    """Return a command of ours as messages quote it; the CLI spells it the way the user started the tool.

    >>> run("wait", "--build-id", "abc123")
    '`runtime-build wait --build-id abc123`'
    """
    return f"`{PROGRAM} {shlex.join([*task.split(), *arguments])}`"


class RuntimeBuildError(Exception):
    """Base of every error that a user can meet.

    Args:
        message: What happened, with the value. Never contains a secret. Control characters are escaped here, so remote
            text and odd file names can be passed as they are.
        fix: What to do about it, preferably something to type; commands of ours come from `run`.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, fix: str) -> None:
        self.message = escape_controls(message)
        self.fix = escape_controls(fix)
        super().__init__(self.message)


class SettingError(RuntimeBuildError):
    """Invalid setting or usage: nothing was touched and nothing was sent."""

    exit_code = 2


class LocalError(RuntimeBuildError):
    """Packing, files or state: nothing was sent."""

    exit_code = 3


class FileChanged(LocalError):
    """A file changed while it was read; reading the tree again may succeed."""


class FileVanished(FileChanged):
    """A listed file no longer exists; listing the tree again may succeed."""


class NotStarted(RuntimeBuildError):
    """No build was started; it is safe to retry."""

    exit_code = 4


class OutcomeUnknown(RuntimeBuildError):
    """A build may exist; never repeated unless the user says so."""

    exit_code = 5


class BuildFailed(RuntimeBuildError):
    """The build ended without an image."""

    exit_code = 6


class StoppedWatching(RuntimeBuildError):
    """The build may still be running; polling again is safe."""

    exit_code = 7
