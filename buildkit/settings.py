"""Settings: one table of names, defaults, meanings and flags; flag > environment > `.env` > `tasks.py` > default."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field, fields
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from buildkit import values
from buildkit.envfile import read_env_file
from buildkit.errors import SettingError, run
from buildkit.models import FEATURES, UPLOAD_FORMATS, Target
from buildkit.secret import ApiKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from buildkit.reference import Reference

T = TypeVar("T")

ENGINES = ("docker", "buildx", "podman", "buildah")
_KEY = "RUNTIME_API_KEY"
_OUR_PREFIX = "RUNTIME_API_"
_CLOSE_ENOUGH = 0.85
_LOOPBACK = re.compile(r"localhost|127(?:\.\d{1,3}){3}|::1")

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
    "PUSH": f"give `--push` to {run('build')}",
    "SKIP_EXISTING": f"give `--skip-existing` to {run('all')}",
    "SOURCE_URL": "remove it: the URL comes from [project.urls] in pyproject.toml",
    "STALL_TIMEOUT": "remove it: an upload that makes no progress for 60 seconds is given up",
    "WARN_CONTEXT_BYTES": f"remove it: {run('context', '--files')} lists the largest files",
}


class Group(Enum):
    """Settings that are flags of the same tasks."""

    EVERYWHERE = auto()
    NAMING = auto()
    SELECTION = auto()
    TARGET = auto()
    DOCKERFILE = auto()
    SERVER = auto()
    TEMPLATES = auto()
    PACKING = auto()
    API = auto()
    IMAGE = auto()
    UPLOAD = auto()
    WAITING = auto()
    CLEANING = auto()
    ENGINE = auto()
    NO_FLAG = auto()


def _setting(default: str, parse: Callable[[str, str], T], meaning: str, group: Group) -> T:
    """Return a dataclass field; its metadata is what loading, `--help`, `doctor` and the README's test read."""
    metadata = {"default": default, "parse": parse, "meaning": meaning, "group": group}
    described: T = field(default_factory=partial(parse, default, ""), metadata=metadata)
    return described


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting as a typed value; `Settings()` has the defaults. The variable is the field's name in capitals."""

    output_dir: str = _setting(
        "./runtime-build", values.parse_text, "directory that all output is written to", Group.EVERYWHERE
    )
    base_image: Reference = _setting(
        "nikolaik/python-nodejs:python3.12-nodejs22",
        values.parse_reference,
        "image that every stage starts from",
        Group.DOCKERFILE,
    )
    target: Target = _setting(
        "binary", values.parse_one_of(Target), f"image to build: {', '.join(Target)}", Group.TARGET
    )
    clean_output: bool = _setting(
        "true", values.parse_flag, "whether `all` clears the output directory first", Group.CLEANING
    )
    custom_tags: tuple[str, ...] = _setting(
        "python", values.parse_tags, "comma-separated tags; the first is the primary tag", Group.NAMING
    )
    output_name: str | None = _setting(
        "", values.optional(values.parse_archive_name), "name of the archive; generated if empty", Group.NAMING
    )
    runtime_api_url: str | None = _setting(
        "",
        values.optional(values.parse_url),
        "base URL; if empty, the archive is created and nothing is sent",
        Group.API,
    )
    runtime_api_key: ApiKey | None = _setting("", values.optional(values.parse_key), "sent as X-API-Key", Group.NO_FLAG)

    source_dir: str = _setting(".", values.parse_text, "checkout to pack", Group.EVERYWHERE)
    include: tuple[str, ...] = _setting(
        "", values.parse_list, "gitignore patterns of additional files to pack", Group.SELECTION
    )
    exclude: tuple[str, ...] = _setting(
        "", values.parse_list, "gitignore patterns of files to leave out", Group.SELECTION
    )
    git_sha: str | None = _setting(
        "", values.optional(values.parse_sha), "commit to use instead of the one git reports", Group.NAMING
    )
    allow_dirty: bool = _setting(
        "true", values.parse_flag, "whether files that differ from the commit may be packed", Group.NAMING
    )
    source_date_epoch: int | None = _setting(
        "",
        values.optional(values.parse_time),
        "modification time of every packed file, instead of the commit's",
        Group.NO_FLAG,
    )
    max_context_bytes: int = _setting(
        "4000000000", values.parse_integer(1, 10**15), "size limit of the build context, uncompressed", Group.PACKING
    )

    template_dir: str | None = _setting(
        "", values.optional(values.parse_text), "folder of templates that override ours by name", Group.TEMPLATES
    )
    build_args: dict[str, str] = _setting(
        "", values.parse_build_args, "NAME=value,… written into the Dockerfile as defaults", Group.DOCKERFILE
    )
    extra_packages: tuple[str, ...] = _setting(
        "", values.parse_packages, "additional system packages to install", Group.DOCKERFILE
    )
    features: frozenset[str] = _setting(
        ",".join(FEATURES), values.parse_features, "features of the full targets, or none", Group.DOCKERFILE
    )
    pyinstaller_spec: str | None = _setting(
        "", values.optional(values.parse_text), "path of the PyInstaller spec; found by name if empty", Group.DOCKERFILE
    )
    split_executable: bool = _setting(
        "false",
        values.parse_flag,
        "whether the project's own files go into a second, smaller executable",
        Group.DOCKERFILE,
    )
    dockerfile: str | None = _setting(
        "",
        values.optional(values.parse_text),
        "Dockerfile in the source to use instead of our template",
        Group.DOCKERFILE,
    )
    server_module: str = _setting(
        "openhands.agent_server", values.parse_module, "module that `python -m` starts", Group.SERVER
    )
    server_name: str = _setting(
        "openhands-agent-server", values.parse_program_name, "name of the executable", Group.SERVER
    )
    server_port: int = _setting("8000", values.parse_integer(1, 65535), "port that the server listens on", Group.SERVER)

    upload_format: str = _setting(
        "json", values.parse_one_of(UPLOAD_FORMATS), "format of the upload: json or multipart", Group.UPLOAD
    )
    image_name: Reference = _setting(
        "agent-server", values.parse_repository, "repository below the registry prefix", Group.IMAGE
    )
    target_image: Reference | None = _setting(
        "", values.optional(values.parse_target_image), "full image reference; generated if empty", Group.IMAGE
    )
    build_timeout: float = _setting(
        "1800", values.parse_number(1, 86400), "seconds to wait for the image", Group.WAITING
    )
    allow_http: bool = _setting(
        "false", values.parse_flag, "whether a URL without TLS may be on another machine", Group.NO_FLAG
    )
    allowed_hosts: tuple[str, ...] = _setting(
        "", values.parse_hosts, "additional hosts that may receive the API key", Group.NO_FLAG
    )

    engine: str = _setting(
        "auto",
        values.parse_one_of(("auto", *ENGINES)),
        f"local engine of `build` and `verify`: auto, {', '.join(ENGINES)}",
        Group.ENGINE,
    )
    builder: tuple[str, ...] = _setting(
        "", values.parse_list, "buildx builders, comma-separated; may be remote or on Kubernetes", Group.ENGINE
    )


class CiEnvironment(NamedTuple):
    """What a GitHub runner tells its jobs; empty elsewhere."""

    sha: str = ""
    ref: str = ""
    output: str = ""


class LoadedSettings(NamedTuple):
    """Settings, the layer that each value came from, and variables that look like misspelt settings."""

    settings: Settings
    origins: dict[str, str]
    warnings: list[str]


def load_settings(
    flags: Mapping[str, str], environment: Mapping[str, str], root: Path, defaults: Mapping[str, Any]
) -> LoadedSettings:
    """Return all settings; one that is set but empty counts as unset.

    Args:
        flags: What was typed, by variable name.
        root: Where `.env` is, and where relative paths start.
        defaults: The project's own, by variable name.

    Raises:
        SettingError: A value is invalid, or two values contradict each other.
    """
    env_file = read_env_file(root / ".env", environment)
    own = _check_defaults(defaults)
    layers = {"flag": flags, "environment": environment, ".env": env_file, "tasks.py": own}
    _refuse_removed(layers)
    parsed, origins = _parse_all(layers)
    settings = Settings(**parsed)
    _check_together(settings)
    _check_layers(origins, [*layers, "default"])
    misspelt = [*_find_misspelt(env_file, ".env"), *_find_misspelt(environment, "the environment")]
    return LoadedSettings(settings, origins, misspelt)


def read_environment() -> dict[str, str]:
    """Return the process's environment: the only place where settings read it."""
    return dict(os.environ)


def read_ci(environment: Mapping[str, str]) -> CiEnvironment:
    """Return what a GitHub runner put into the environment."""
    return CiEnvironment(*(environment.get(name, "") for name in ("GITHUB_SHA", "GITHUB_REF", "GITHUB_OUTPUT")))


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
        found = ((label, layer[name]) for label, layer in layers.items() if layer.get(name))
        origins[name], texts[name] = next(found, ("default", item.metadata["default"]))
        try:
            parsed[item.name] = item.metadata["parse"](texts[name], name)
        except SettingError as error:
            origin = "" if origins[name] == "flag" else f" (from {origins[name]})"  # what was typed is in view
            errors.append(SettingError(f"{error.message}{origin}", error.fix))
    key = ApiKey(texts[_KEY])
    if errors:
        raise SettingError(
            key.scrub("; ".join(error.message for error in errors)),
            key.scrub("; ".join(dict.fromkeys(error.fix for error in errors))),
        )
    _refuse_key_elsewhere(texts, key)
    return parsed, origins


def _refuse_key_elsewhere(texts: Mapping[str, str], key: ApiKey) -> None:
    """Refuse a key that is part of another setting too: those are written to files and sent in the open."""
    others = [name for name, text in texts.items() if name != _KEY and key.is_searchable and key.reveal() in text]
    if others:
        named = ", ".join(others)
        raise SettingError(
            f"the value of {_KEY} is also part of {named}, which is not secret", f"remove it from {named}"
        )


def _refuse_removed(layers: Mapping[str, Mapping[str, str]]) -> None:
    found = {name: label for label, layer in layers.items() for name in _REMOVED if layer.get(name)}
    if found:
        named = ", ".join(f"{name} (from {label})" for name, label in found.items())
        raise SettingError(f"no longer a setting: {named}", "; ".join(_REMOVED[name] for name in found))


def _check_together(settings: Settings) -> None:
    if bool(settings.runtime_api_url) != bool(settings.runtime_api_key):
        missing, given = (_KEY, "RUNTIME_API_URL")
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
        raise SettingError(f"BUILDER requires ENGINE=buildx, but ENGINE is {settings.engine}", "set ENGINE=buildx")


def _check_layers(origins: Mapping[str, str], order: Sequence[str]) -> None:
    """Refuse to send the key where a layer below its own says: a checkout's `.env` must not redirect the user's key."""
    own = order.index(origins[_KEY])
    for name in ("RUNTIME_API_URL", "ALLOWED_HOSTS"):
        if origins[name] != "default" and order.index(origins[name]) > own:
            raise SettingError(
                f"{_KEY} comes from {origins[_KEY]}, but {name} from {origins[name]}, which is less trusted",
                f"set {name} where {_KEY} is set",
            )


def _check_defaults(defaults: Mapping[str, Any]) -> dict[str, str]:
    """Return a project's own defaults as text: `SERVER_PORT=9000` and `CLEAN_OUTPUT=False` mean what they say."""
    names = [item.name.upper() for item in fields(Settings)]
    for name, value in defaults.items():
        if name not in names and name not in _REMOVED:
            near = difflib.get_close_matches(name.upper(), names, 1)
            fix = f"write {near[0]}" if near else "remove it from make_collection(…)"
            raise SettingError(f"tasks.py sets a default for {name}, which is not a setting", fix)
        if not isinstance(value, str | int | float):
            raise SettingError(f"tasks.py sets {name} to a {type(value).__name__}", f'write {name}="…"')
    return {name: str(value) for name, value in defaults.items()}


def _find_misspelt(found: Iterable[str], place: str) -> list[str]:
    """Return warnings. In the environment, which is full of other programs' variables, only our prefix marks ours."""
    names = [item.name.upper() for item in fields(Settings)]
    warnings = []
    for name in found:
        ours = name.upper().startswith(_OUR_PREFIX)
        cutoff = 0.0 if ours else _CLOSE_ENOUGH
        if name not in names and (ours or place == ".env"):
            near = difflib.get_close_matches(name.upper(), names, 1, cutoff)
            warnings += [f"{name} in {place} is not a setting; did you mean {match}?" for match in near]
    return warnings
