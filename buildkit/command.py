"""The command that starts a server: a program of its environment, or a module, and arguments."""

from __future__ import annotations

import shlex
from typing import NamedTuple

SOURCE_FOLDER = "/agent-server"
PROGRAMS_FOLDER = f"{SOURCE_FOLDER}/.venv/bin"


class StartCommand(NamedTuple):
    """A program that is installed with the packages of the image, its arguments, and the folder where it starts."""

    program: str
    arguments: tuple[str, ...] = ()
    folder: str = "/"

    @classmethod
    def of_module(cls, module: str) -> StartCommand:
        """Return the command that runs a module."""
        return cls("python", ("-m", module))

    def __str__(self) -> str:
        change = f"cd {shlex.quote(self.folder)} && " if self.folder != "/" else ""
        return change + shlex.join([self.program, *self.arguments])

    @property
    def module(self) -> str | None:
        """The module that it runs with `python -m`, or None if it runs a program."""
        return self.arguments[1] if self.program == "python" and self.arguments[:1] == ("-m",) else None

    @property
    def options(self) -> tuple[str, ...]:
        """What the module or the program itself is given."""
        return self.arguments[2:] if self.module else self.arguments

    @property
    def words(self) -> tuple[str, ...]:
        """The command as it is started in the image of a source target."""
        return (f"{PROGRAMS_FOLDER}/{self.program}", *self.arguments)
