"""From text to settings: flag > environment > `.env` > `tasks.py` > default."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from buildkit.envfile import InvalidLine, names_any, read_env_file
from buildkit.errors import SettingError, run
from buildkit.secret import ApiKey
from buildkit.settings import KEY_NAME, NAMES, Settings
from buildkit.values import is_loopback, parse_stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_OUR_PREFIX = "RUNTIME_API_"
_CLOSE_ENOUGH = 0.85

# Settings of earlier releases, and what takes their place.
_REMOVED = {
    "BUILD_NETWORK": f"give `--network` to {run('build')}",
    "COMPRESSION": "remove it: the fastest compressor is used",
    "FORCE": f"give `--force` to {run('upload')}, {run('all')} or {run('clean')}",
    "GIT_REF": "remove it: the ref comes from GITHUB_REF, or else is the commit",
    "HEALTH_TIMEOUT": "remove it: the server has 60 seconds to answer",
    "MANIFEST_NAME": f"give `--name` to {run('manifest')}",
    "MANIFEST_PORT": f"give `--port` to {run('manifest')}",
    "MANIFEST_REPLICAS": f"give `--replicas` to {run('manifest')}",
    "MANIFEST_SECRET_KEY": f"give `--secret NAME/KEY` to {run('manifest')}",
    "MANIFEST_SECRET_NAME": f"give `--secret NAME/KEY` to {run('manifest')}",
    "POLL_INTERVAL": "remove it: the interval grows with the build's age, up to 30 seconds",
    "PYINSTALLER_SPEC": "set BUILD_ARGS=PYINSTALLER_SPEC=path/of/the.spec",
    "PUSH": f"give `--push` to {run('build')}",
    "SKIP_EXISTING": f"give `--skip-existing` to {run('all')}",
    "SPLIT_EXECUTABLE": "set BUILD_ARGS=SPLIT_EXECUTABLE=true",
    "SOURCE_URL": "remove it: the URL comes from [project.urls] in pyproject.toml",
    "STALL_TIMEOUT": "remove it: an upload that makes no progress for 60 seconds is given up",
    "WARN_CONTEXT_BYTES": f"remove it: {run('context', '--files')} lists the largest files",
}


class LoadedSettings(NamedTuple):
    """Settings, the layer that each value came from, and warnings: what looks like a misspelt setting, for example."""

    settings: Settings
    origins: dict[str, str]
    warnings: list[str]


def load_settings(
    flags: Mapping[str, str],
    environment: Mapping[str, str],
    root: Path,
    defaults: Mapping[str, Any],
    *,
    is_server: bool = False,
) -> LoadedSettings:
    """Return all settings; one that is set but empty counts as unset.

    Args:
        flags: What was typed, by variable name.
        root: Where `.env` is, and where relative paths start.
        defaults: The project's own, by variable name.
        is_server: Whether the key is one that a server accepts, so that it needs no URL and is sent nowhere.

    Raises:
        SettingError: A value is invalid, or two values contradict each other.
    """
    env_file, notes = _read_env_file(root / ".env", environment)
    own = _check_defaults(defaults)
    layers = {"flag": flags, "environment": environment, ".env": env_file, "tasks.py": own}
    _refuse_removed(layers)
    parsed, origins = _parse_all(layers)
    settings = Settings(**parsed)
    _check_builder(settings)
    if not is_server:
        _check_api(settings)
        _check_layers(origins, [*layers, "default"])
    notes += [*_find_misspelt(env_file, ".env"), *_find_misspelt(environment, "the environment")]
    return LoadedSettings(settings, origins, notes)


def _read_env_file(path: Path, environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return what `.env` sets, and a note if the file is unusable but is not about us: an application's own."""
    try:
        return read_env_file(path, environment), []
    except InvalidLine as error:
        if names_any(path, [*NAMES, *_REMOVED, rf"{_OUR_PREFIX}\w*"]):
            raise
        return {}, [f"{error.message}; the file is ignored, because it has none of our settings"]


def find_root(start: Path) -> Path:
    """Return the project that contains `start`: the nearest folder above with a `uv.lock`, within its checkout.

    The members of a workspace have no lock file of their own, so a task does the same in all of them.
    """
    folders = [start, *start.parents]
    top = next((number for number, folder in enumerate(folders) if (folder / ".git").exists()), None)
    for mark in ("uv.lock", ".git", "pyproject.toml"):
        for folder in folders if top is None else folders[: top + 1]:
            if (folder / mark).exists():
                return folder
    return start


def _parse_all(layers: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the value and origin of every setting; all invalid ones are reported at once, without the key."""
    parsed: dict[str, Any] = {}
    origins: dict[str, str] = {}
    texts: dict[str, str] = {}
    errors = []
    for item in fields(Settings):
        name = item.name.upper()
        parse, default = item.metadata["parse"], item.metadata["default"]
        if name == "TARGET" and any(layer.get("DOCKERFILE") for layer in layers.values()):
            parse, default = parse_stage, ""
        found = ((label, layer[name]) for label, layer in layers.items() if layer.get(name))
        origins[name], texts[name] = next(found, ("default", default))
        try:
            parsed[item.name] = parse(texts[name], name)
        except SettingError as error:
            origin = "" if origins[name] == "flag" else f" (from {origins[name]})"  # what was typed is in view
            errors.append(SettingError(f"{error.message}{origin}", error.fix))
    key = ApiKey(texts[KEY_NAME])
    if errors:
        raise SettingError(
            key.scrub("; ".join(error.message for error in errors)),
            key.scrub("; ".join(dict.fromkeys(error.fix for error in errors))),
        )
    _refuse_key_elsewhere(texts, key)
    return parsed, origins


def _refuse_key_elsewhere(texts: Mapping[str, str], key: ApiKey) -> None:
    """Refuse a key that is part of another setting too: those are written to files and sent in the open."""
    others = [name for name, text in texts.items() if name != KEY_NAME and key.is_searchable and key.reveal() in text]
    if others:
        named = ", ".join(others)
        raise SettingError(
            f"the value of {KEY_NAME} is also part of {named}, which is not secret", f"remove it from {named}"
        )


def _refuse_removed(layers: Mapping[str, Mapping[str, str]]) -> None:
    found = {name: label for label, layer in layers.items() for name in _REMOVED if layer.get(name)}
    if found:
        named = ", ".join(f"{name} (from {label})" for name, label in found.items())
        raise SettingError(f"no longer a setting: {named}", "; ".join(_REMOVED[name] for name in found))


def _check_builder(settings: Settings) -> None:
    if settings.builder and settings.engine not in {"auto", "buildx"}:
        raise SettingError(f"BUILDER requires ENGINE=buildx, but ENGINE is {settings.engine}", "set ENGINE=buildx")


def _check_api(settings: Settings) -> None:
    if bool(settings.runtime_api_url) != bool(settings.runtime_api_key):
        missing, given = (KEY_NAME, "RUNTIME_API_URL")
        if settings.runtime_api_key:
            missing, given = given, missing
        raise SettingError(f"{given} is set, but {missing} is not", f"set {missing} as well, or unset {given}")
    if settings.runtime_api_url:
        parts = urlsplit(settings.runtime_api_url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or "") and not settings.allow_http:
            raise SettingError(
                f"RUNTIME_API_URL would send the key without TLS: {settings.runtime_api_url!r}",
                "use https://, or set ALLOW_HTTP=true",
            )


def _check_layers(origins: Mapping[str, str], order: Sequence[str]) -> None:
    """Refuse to send the key where a layer below its own says: a checkout's `.env` must not redirect the user's key."""
    own = order.index(origins[KEY_NAME])
    for name in ("RUNTIME_API_URL", "ALLOWED_HOSTS"):
        if origins[name] != "default" and order.index(origins[name]) > own:
            raise SettingError(
                f"{KEY_NAME} comes from {origins[KEY_NAME]}, but {name} from {origins[name]}, which is less trusted",
                f"set {name} where {KEY_NAME} is set",
            )


def _check_defaults(defaults: Mapping[str, Any]) -> dict[str, str]:
    """Return a project's own defaults as text: `SERVER_PORT=9000` and `CLEAN_OUTPUT=False` mean what they say."""
    for name, value in defaults.items():
        if name not in NAMES and name not in _REMOVED:
            near = difflib.get_close_matches(name.upper(), NAMES, 1)
            fix = f"write {near[0]}" if near else "remove it from make_collection(…)"
            raise SettingError(f"tasks.py sets a default for {name}, which is not a setting", fix)
        if not isinstance(value, str | int | float):
            raise SettingError(f"tasks.py sets {name} to a {type(value).__name__}", f'write {name}="…"')
    return {name: str(value) for name, value in defaults.items()}


def _find_misspelt(found: Iterable[str], place: str) -> list[str]:
    """Return warnings. In the environment, which is full of other programs' variables, only our prefix marks ours."""
    warnings = []
    for name in found:
        ours = name.upper().startswith(_OUR_PREFIX)
        cutoff = 0.0 if ours else _CLOSE_ENOUGH
        if name not in NAMES and (ours or place == ".env"):
            near = difflib.get_close_matches(name.upper(), NAMES, 1, cutoff)
            warnings += [f"{name} in {place} is not a setting; did you mean {match}?" for match in near]
    return warnings
