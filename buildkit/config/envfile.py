"""The `.env` file: its variables, or the line that makes it unusable; nothing in it is passed over in silence."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from buildkit.errors import SettingError
from buildkit.regular import read_regular

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dotenv.parser import Binding

_MAX_BYTES = 1_000_000
_SINGLE_QUOTED = re.compile(r"[^=]*=[^\S\r\n]*'")


def read_env_file(path: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a `.env` file that are not empty; none where there is no file.

    `${NAME}` stands for an earlier variable or one of `environment`, except between single quotes, as in a shell.

    Raises:
        SettingError: It is not UTF-8, holds a NUL, has a line that is no assignment, or refers to what is not set.
    """
    from dotenv.parser import parse_stream

    found: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(_read_text(path))):
        if binding.error or (binding.key is not None and binding.value is None):
            raise _refuse_line(_find_line(binding), "not NAME=value", "write NAME=value or # comment")
        if binding.key is not None:
            found[binding.key] = _resolve(binding, {**environment, **found})
    return {name: value for name, value in found.items() if value}


def _read_text(path: Path) -> str:
    try:
        data = read_regular(path, _MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise SettingError(f".env cannot be read: {error.strerror}", "mend its permissions, or remove it") from error
    if len(data) > _MAX_BYTES:
        raise SettingError(f".env is larger than {_MAX_BYTES} bytes", "keep nothing but NAME=value lines in .env")
    if b"\0" in data:
        raise _refuse_line(_count_lines(data[: data.find(b"\0")]), "a NUL byte", "save .env as UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _count_lines(data[: error.start])
        raise _refuse_line(line, "not UTF-8 text", "save .env as UTF-8 text") from error


def _resolve(binding: Binding, known: Mapping[str, str]) -> str:
    """Return the value of an assignment, with what it refers to put in."""
    from dotenv.variables import Variable, parse_variables

    value = binding.value or ""
    if _SINGLE_QUOTED.match(binding.original.string):
        return value
    atoms = list(parse_variables(value))
    for atom in atoms:
        if isinstance(atom, Variable) and atom.default is None and atom.name not in known:
            raise _refuse_line(
                _find_line(binding),
                f"{binding.key} refers to ${{{atom.name}}}, which is not set",
                f"set {atom.name}, or write {binding.key}='…', which is taken as it stands",
            )
    return "".join(atom.resolve(known) for atom in atoms)


def _find_line(binding: Binding) -> int:
    """Return the line of what is written there; to the parser, the empty lines before it belong to it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _count_lines(data: bytes) -> int:
    return data.count(b"\n") + 1


def _refuse_line(line: int, reason: str, fix: str) -> SettingError:
    return SettingError(f".env, line {line}: {reason}", f"in line {line} of .env: {fix}")
