"""The `.env` file, and one for containers: variables, or the line that makes it unusable; nothing is skipped silently.

Applications have a `.env` of their own in the same place, so whether a file means us is a question of its names.
"""

from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING

from buildkit.errors import SettingError
from buildkit.files import read_bounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_MAX_BYTES = 1_000_000
_BLANK = re.compile(r"[^\S\r\n]*(?:#[^\r\n]*)?(?:\r\n|\n|\r|\Z)")
# What python-dotenv reads as an assignment (https://saurabh-kumar.com/python-dotenv/reference/#file-format).
_ASSIGNMENT = re.compile(
    r"""\s*(?:export[^\S\r\n]+)?(?P<name>'[^']+'|[^=\#\s]+)[^\S\r\n]*=[^\S\r\n]*
    (?:(?P<literal>'(?:\\'|[^'])*')|"(?:\\"|[^"])*"|(?!['"])[^\r\n]*)
    [^\S\r\n]*(?:\#[^\r\n]*)?(?:\r\n|\n|\r|\Z)""",
    re.VERBOSE,
)
_VARIABLE = re.compile(r"[^\s=#]+=")
_REFERENCE = re.compile(r"\$\{([^}:]*)(?::-([^}]*))?\}")


class InvalidLine(SettingError):
    """A line that is not an assignment, or bytes that are not text."""


def read_env_file(path: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a `.env` file that are not empty; none if there is no file.

    `${NAME}` stands for an earlier variable or one of `environment`, except between single quotes, as in a shell.

    Raises:
        InvalidLine: It is not UTF-8, contains a NUL, has a line that is not an assignment, or refers to a variable that
            is not set.
        SettingError: It cannot be read, or belongs to another user.
    """
    text = _read_text(path)
    if not text:
        return {}
    from dotenv import dotenv_values

    found: dict[str, str] = {}
    # One assignment at a time: an earlier value of a name that is set twice may be referred to in between.
    for line, statement, literal in _split(text):
        for name, value in dotenv_values(stream=io.StringIO(statement), interpolate=False).items():
            found[name] = (value or "") if literal else _resolve(name, value or "", {**environment, **found}, line)
    return {name: value for name, value in found.items() if value}


def names_any(path: Path, names: Iterable[str]) -> bool:
    """Return whether a line of the file begins with one of these names, in whatever encoding it is.

    Args:
        names: As regular expressions.
    """
    data = read_bounded(path, _MAX_BYTES, follow=True).replace(b"\0", b"")
    line = rf"^[^\w\r\n]*(?:export\s+)?['\"]?(?:{'|'.join(names)})\b"
    return re.search(line.encode(), data, re.MULTILINE) is not None


def read_variables(path: Path) -> dict[str, str]:
    """Return the variables for a container as `docker run --env-file` reads them: quotes belong to a value.

    Raises:
        SettingError: The file cannot be read, or has a line that is not an assignment.
    """
    fix = "name a text file of NAME=value lines"
    try:
        lines = read_bounded(path, _MAX_BYTES, follow=True).decode("utf-8").splitlines()
    except OSError as error:
        raise SettingError(f"--env-file {path} cannot be read: {error.strerror}", fix) from error
    except UnicodeDecodeError as error:
        raise SettingError(f"--env-file {path} is not UTF-8 text", fix) from error
    assigned = {number: line.lstrip() for number, line in enumerate(lines, 1) if not _BLANK.fullmatch(line)}
    if wrong := [number for number, line in assigned.items() if not _VARIABLE.match(line)]:
        raise SettingError(f"--env-file {path}, line {wrong[0]}: not NAME=value", f"correct line {wrong[0]}")
    pairs = (line.partition("=") for line in assigned.values())
    return {name: value for name, _, value in pairs}


def _read_text(path: Path) -> str:
    try:
        owner = path.stat().st_uid
        data = read_bounded(path, _MAX_BYTES + 1, follow=True)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise SettingError(f".env cannot be read: {error.strerror}", "make it a readable file, or remove it") from error
    if owner not in {os.geteuid(), 0}:
        raise SettingError(
            f".env belongs to another user (uid {owner}), who could have the API key sent somewhere else",
            "make it yours with chown, or remove it",
        )
    if len(data) > _MAX_BYTES:
        raise SettingError(f".env is larger than {_MAX_BYTES} bytes", "keep nothing but NAME=value lines in .env")
    if b"\0" in data:
        raise _refuse_line(data[: data.find(b"\0")].count(b"\n") + 1, "a NUL byte", "save .env as UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _refuse_line(line, "not UTF-8 text", "save .env as UTF-8 text") from error


def _split(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield the line of each assignment, its text, and whether its value is between single quotes."""
    position = 0
    while position < len(text):
        if blank := _BLANK.match(text, position):
            position = blank.end()
            continue
        line = text.count("\n", 0, position) + 1
        assignment = _ASSIGNMENT.match(text, position)
        if assignment is None:
            raise _refuse_line(line, "not NAME=value", "write NAME=value or # comment")
        yield line, assignment[0], assignment["literal"] is not None
        position = assignment.end()


def _resolve(name: str, value: str, known: Mapping[str, str], line: int) -> str:
    """Return a value with its references replaced."""

    def replace(match: re.Match[str]) -> str:
        referred, default = match.groups()
        if referred not in known and default is None:
            raise _refuse_line(
                line,
                f"{name} refers to ${{{referred}}}, which is not set",
                f"set {referred}, or write {name}='…', which is taken literally",
            )
        return known.get(referred, default or "")

    return _REFERENCE.sub(replace, value)


def _refuse_line(line: int, reason: str, fix: str) -> InvalidLine:
    return InvalidLine(f".env, line {line}: {reason}", f"in line {line} of .env: {fix}")
