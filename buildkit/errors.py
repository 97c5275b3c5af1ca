"""One family of errors: what happened, what to type, and the exit code it becomes."""

from __future__ import annotations

from typing import ClassVar

from buildkit.display import escape_controls


class RuntimeBuildError(Exception):
    """Base of every error a user can meet.

    Args:
        message: What happened, with the value. Never holds a secret. Control characters are escaped here, so that
            remote text and odd file names may be passed as they are.
        fix: What to do about it, best as something to type.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, fix: str) -> None:
        self.message = escape_controls(message)
        self.fix = escape_controls(fix)
        super().__init__(self.message)


class SettingError(RuntimeBuildError):
    """A bad setting or usage: nothing was touched, nothing was sent."""

    exit_code = 2


class LocalError(RuntimeBuildError):
    """Packing, files or state: nothing was sent."""

    exit_code = 3


class FileChanged(LocalError):
    """A file changed while it was read; reading the tree again may succeed."""


class FileVanished(FileChanged):
    """A file was listed and is gone; listing the tree again may succeed."""


class NotStarted(RuntimeBuildError):
    """The server has no build of ours; running again is safe."""

    exit_code = 4


class OutcomeUnknown(RuntimeBuildError):
    """A build may exist; never repeated unless the user says so."""

    exit_code = 5


class BuildFailed(RuntimeBuildError):
    """The build ended without an image."""

    exit_code = 6


class StoppedWatching(RuntimeBuildError):
    """The build may go on; polling again is safe."""

    exit_code = 7
