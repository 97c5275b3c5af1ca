"""Settings: flag > environment > `.env` > this project's default > default; each checked before anything is touched."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from buildkit.config.envfile import read_env_file
from buildkit.config.settings import Settings
from buildkit.errors import SettingError
from buildkit.secret import SHORTEST_SEARCHED, ApiKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_LOOPBACK = re.compile(r"localhost|127(?:\.\d{1,3}){3}|::1")
_CLOSE_ENOUGH = 0.85
_KEY = "RUNTIME_API_KEY"
_OUR_PREFIX = "RUNTIME_API_"
_NAMES = tuple(item.name.upper() for item in fields(Settings))


class LoadedSettings(NamedTuple):
    """Settings, where each value came from, and what looked like a misspelt setting."""

    settings: Settings
    origins: dict[str, str]
    warnings: list[str]


def load_settings(
    flags: Mapping[str, str], environment: Mapping[str, str], root: Path, defaults: Mapping[str, Any]
) -> LoadedSettings:
    """Return all settings; set but empty is unset.

    Args:
        flags: What was typed, by variable name.
        root: Where `.env` lies and what relative paths start from.
        defaults: This project's own, by variable name.

    Raises:
        SettingError: A value is bad, or two do not go together.
    """
    env_file = read_env_file(root / ".env", environment)
    own = _check_defaults(defaults)
    layers = (("flag", flags), ("environment", environment), (".env", env_file), ("tasks.py", own))
    parsed, origins = _parse_all(layers)
    settings = Settings(**parsed)
    _check_together(settings)
    misspelt = [*_find_misspelt(env_file, ".env"), *_find_misspelt(environment, "the environment")]
    return LoadedSettings(settings, origins, misspelt)


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


def _parse_all(layers: Sequence[tuple[str, Mapping[str, str]]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return value and origin of every setting; all that are bad are told of at once, and without the key."""
    parsed: dict[str, Any] = {}
    origins: dict[str, str] = {}
    texts: dict[str, str] = {}
    errors = []
    for item in fields(Settings):
        name = item.name.upper()
        found = ((label, layer[name]) for label, layer in layers if layer.get(name))
        origins[name], texts[name] = next(found, ("default", item.metadata["default"]))
        try:
            parsed[item.name] = item.metadata["parse"](texts[name], name)
        except SettingError as error:
            origin = "" if origins[name] == "flag" else f" (from {origins[name]})"  # what was typed is in view
            errors.append(SettingError(f"{error.message}{origin}", error.fix))
    key = texts[_KEY]
    if errors:
        raise _join(errors, ApiKey(key))
    _refuse_key_elsewhere(texts, key)
    return parsed, origins


def _join(errors: Sequence[SettingError], key: ApiKey) -> SettingError:
    return SettingError(
        key.scrub("; ".join(error.message for error in errors)),
        key.scrub("; ".join(dict.fromkeys(error.fix for error in errors))),
    )


def _refuse_key_elsewhere(texts: Mapping[str, str], key: str) -> None:
    """Refuse a key that stands in another setting too: those are written to files and sent in the open."""
    found = [name for name, text in texts.items() if name != _KEY and len(key) >= SHORTEST_SEARCHED and key in text]
    if found:
        raise SettingError(
            f"the value of {_KEY} stands in {', '.join(found)} too, which is no secret",
            f"take it out of {', '.join(found)}",
        )


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


def _check_defaults(defaults: Mapping[str, Any]) -> dict[str, str]:
    """Return a project's own defaults as text: `SERVER_PORT=9000` and `CLEAN_OUTPUT=False` are what they look like."""
    for name, value in defaults.items():
        if name not in _NAMES:
            near = difflib.get_close_matches(name.upper(), _NAMES, 1)
            fix = f"write {near[0]}" if near else "take it out of make_collection(…)"
            raise SettingError(f"tasks.py gives a default for {name}, which is not a setting", fix)
        if not isinstance(value, str | int | float):
            raise SettingError(f"tasks.py gives {name} a {type(value).__name__}", f'write {name}="…"')
    return {name: str(value) for name, value in defaults.items()}


def _find_misspelt(names: Iterable[str], place: str) -> list[str]:
    """Return warnings. In the environment, which is full of other programs' variables, only our prefix tells ours."""
    warnings = []
    for name in names:
        ours = name.upper().startswith(_OUR_PREFIX)
        cutoff = 0.0 if ours else _CLOSE_ENOUGH
        if name not in _NAMES and (ours or place == ".env"):
            near = difflib.get_close_matches(name.upper(), _NAMES, 1, cutoff)
            warnings += [f"{name} in {place} is not a setting; did you mean {match}?" for match in near]
    return warnings
