"""The command that starts a server: a program of its environment, or a module, and arguments."""

from __future__ import annotations

import posixpath
import re
import shlex
from typing import NamedTuple

from buildkit.errors import SettingError
from buildkit.values import match_shape, parse_text

SOURCE_FOLDER = "/agent-server"
_PROGRAMS_FOLDER = f"{SOURCE_FOLDER}/.venv/bin"
_OPERATORS = frozenset({"&", "&&", "|", "||", ";", ">", ">>", "<", "2>&1"})


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
        return (f"{_PROGRAMS_FOLDER}/{self.program}", *self.arguments)


def parse_command(value: str, name: str) -> StartCommand:
    """Return a command as words, as a shell would split it; no shell runs it.

    It may begin with `cd FOLDER &&`; a relative folder is one of the source.
    """
    try:
        words = shlex.split(parse_text(value, name))
    except ValueError as error:
        raise SettingError(f"{name} cannot be split into words: {value!r}: {error}", "close its quotes") from error
    folder = "/"
    if words[:1] == ["cd"] and words[2:3] == ["&&"]:
        meant = f"a command such as `cd {SOURCE_FOLDER} && uvicorn app:app`"
        where = match_shape(r"[A-Za-z0-9_./+@-]+", words[1], name, meant)
        folder, words = posixpath.normpath(posixpath.join(SOURCE_FOLDER, where)), words[3:]
    if shell := next((word for word in words if word in _OPERATORS or "$" in word), None):
        raise SettingError(
            f"{name} contains {shell!r}, which only a shell would understand, and none runs it: {value!r}",
            f"write the values into {name}, or start a script of the project",
        )
    program = (words or [""])[0].removeprefix(f"{_PROGRAMS_FOLDER}/")
    if program == "cd" or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", program):
        raise SettingError(
            f"{name} does not start with the name of a program: {value!r}",
            f"set {name} to a program that the packages install, such as `uvicorn app.main:app`",
        )
    return StartCommand("python" if program == "python3" else program, tuple(words[1:]), folder)
