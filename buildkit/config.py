"""Settings: flag > environment > `.env` > this project's default > default; each checked before anything is touched."""

from __future__ import annotations

import difflib
import io
import os
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from buildkit.errors import SettingError
from buildkit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LOOPBACK = re.compile(r"localhost|127(?:\.\d{1,3}){3}|::1")
_CLOSE_ENOUGH = 0.85


class LoadedSettings(NamedTuple):
    """Settings, where each value came from, and what looked like a misspelt setting."""

    settings: Settings
    origins: dict[str, str]
    warnings: list[str]


def load_settings(
    flags: Mapping[str, str], environment: Mapping[str, str], root: Path, defaults: Mapping[str, str]
) -> LoadedSettings:
    """Return all settings; set but empty is unset.

    Args:
        flags: What was typed, by variable name.
        root: Where `.env` lies and what relative paths start from.
        defaults: This project's own, by variable name.

    Raises:
        SettingError: A value is bad, or two do not go together.
    """
    env_file = read_env_file(root / ".env")
    layers = [("flag", flags), ("environment", environment), (".env", env_file), ("tasks.py", defaults)]
    parsed: dict[str, Any] = {}
    origins = {}
    for item in fields(Settings):
        name = item.name.upper()
        origin, text = next(
            ((label, layer[name]) for label, layer in layers if layer.get(name)), ("default", item.metadata["default"])
        )
        parsed[item.name] = item.metadata["parse"](text, name)
        origins[name] = origin
    settings = Settings(**parsed)
    _check_together(settings)
    return LoadedSettings(settings, origins, _find_misspelt(env_file))


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables of a `.env` file; none where there is no file.

    Raises:
        SettingError: It is not UTF-8, holds a NUL, or has a line that is no assignment.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise SettingError(f".env cannot be read: {error.strerror}", "mend its permissions, or remove it") from error
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    text = _decode_env(data)
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            raise SettingError(
                f".env, line {binding.original.line}: not NAME=value", f"mend line {binding.original.line} of .env"
            )
    return {name: value for name, value in dotenv_values(stream=io.StringIO(text)).items() if value}


def find_root(start: Path) -> Path:
    """Return the project that `start` lies in: the nearest folder above with a `uv.lock`, but none above its checkout.

    The members of a workspace have no lock file of their own, so that a task is the same in all of them.
    """
    folders = [start, *start.parents]
    top = next((number for number, folder in enumerate(folders) if (folder / ".git").exists()), None)
    for mark in ("uv.lock", ".git", "pyproject.toml"):
        for folder in folders if top is None else folders[: top + 1]:
            if (folder / mark).exists():
                return folder
    return start


def read_environment() -> dict[str, str]:
    """Return the process's environment: the only place where it is read."""
    return dict(os.environ)


def _decode_env(data: bytes) -> str:
    line = data[: data.find(b"\0")].count(b"\n") + 1 if b"\0" in data else 0
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        text = ""
    if line:
        raise SettingError(f".env, line {line}: not UTF-8 text", "save .env as UTF-8, without NUL bytes")
    return text


def _check_together(settings: Settings) -> None:
    if bool(settings.runtime_api_url) != bool(settings.runtime_api_key):
        missing, given = ("RUNTIME_API_KEY", "RUNTIME_API_URL")
        if settings.runtime_api_key:
            missing, given = given, missing
        raise SettingError(f"{given} is set, but {missing} is not", f"set {missing} as well, or unset {given}")
    if settings.runtime_api_url:
        parts = urlsplit(settings.runtime_api_url)
        if parts.scheme == "http" and not _LOOPBACK.fullmatch(parts.hostname or "") and not settings.allow_http:
            raise SettingError(
                f"RUNTIME_API_URL would send the key without TLS: {settings.runtime_api_url!r}",
                "use https://, or set ALLOW_HTTP=true",
            )
    if settings.builder and settings.engine not in {"auto", "buildx"}:
        raise SettingError(f"BUILDER goes with ENGINE=buildx, not {settings.engine}", "set ENGINE=buildx")


def _find_misspelt(env_file: Mapping[str, str]) -> list[str]:
    known = [item.name.upper() for item in fields(Settings)]
    warnings = []
    for name in env_file:
        near = difflib.get_close_matches(name, known, 1, _CLOSE_ENOUGH) if name not in known else []
        if near:
            warnings.append(f"{name} in .env is not a setting; did you mean {near[0]}?")
    return warnings
