"""Settings: one table of names, defaults, meanings and flags; flag > environment > `.env` > `tasks.py` > default."""

from __future__ import annotations

import difflib
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from buildkit.envfile import InvalidLine, names_any, read_env_file
from buildkit.errors import SettingError, run
from buildkit.models import DEFAULT_FEATURES, TARGETS, UPLOAD_FORMATS, Target
from buildkit.secret import ApiKey
from buildkit.values import (
    optional,
    parse_archive_name,
    parse_build_args,
    parse_command,
    parse_features,
    parse_flag,
    parse_hosts,
    parse_integer,
    parse_key,
    parse_list,
    parse_module,
    parse_number,
    parse_one_of,
    parse_packages,
    parse_program_name,
    parse_reference,
    parse_registry_prefix,
    parse_repository,
    parse_sha,
    parse_stage,
    parse_tags,
    parse_target_image,
    parse_text,
    parse_time,
    parse_url,
    parse_url_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from buildkit.command import StartCommand
    from buildkit.reference import Reference

T = TypeVar("T")

# Settings of one group are flags of the same tasks; those in `everywhere` are flags of all, those in `none` of none.
Group = Literal[
    "everywhere", "none", "naming", "selection", "target", "dockerfile", "server", "templates", "packing",
    "api", "image", "upload", "waiting", "cleaning", "engine", "serve",
]  # fmt: skip
FOR_A_BUILD: tuple[Group, ...] = (
    "naming", "selection", "target", "dockerfile", "server", "templates", "packing",
    "api", "image", "upload", "waiting",
)  # fmt: skip
ENGINES = ("docker", "buildx", "podman", "buildah")
_KEY = "RUNTIME_API_KEY"
_GITHUB = ("GITHUB_SHA", "GITHUB_REF", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")
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
    "PYINSTALLER_SPEC": "set BUILD_ARGS=PYINSTALLER_SPEC=path/of/the.spec",
    "PUSH": f"give `--push` to {run('build')}",
    "SKIP_EXISTING": f"give `--skip-existing` to {run('all')}",
    "SPLIT_EXECUTABLE": "set BUILD_ARGS=SPLIT_EXECUTABLE=true",
    "SOURCE_URL": "remove it: the URL comes from [project.urls] in pyproject.toml",
    "STALL_TIMEOUT": "remove it: an upload that makes no progress for 60 seconds is given up",
    "WARN_CONTEXT_BYTES": f"remove it: {run('context', '--files')} lists the largest files",
}


def _setting(default: str, parse: Callable[[str, str], T], meaning: str, group: Group) -> T:
    """Return a dataclass field; its metadata is what loading, `--help`, `doctor` and the README's test read."""
    metadata = {"default": default, "parse": parse, "meaning": meaning, "group": group}
    described: T = field(default_factory=partial(parse, default, ""), metadata=metadata)
    return described


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting as a typed value; `Settings()` has the defaults. The variable is the field's name in capitals."""

    output_dir: str = _setting("./runtime-build", parse_text, "directory that all output is written to", "everywhere")
    base_image: Reference = _setting(
        "nikolaik/python-nodejs:python3.12-nodejs22",
        parse_reference,
        "image that every stage starts from",
        "dockerfile",
    )
    builder_image: Reference | None = _setting(
        "",
        optional(parse_reference),
        "image that all stages but the image's own start from; BASE_IMAGE if empty",
        "dockerfile",
    )
    target: Target = _setting("binary", parse_one_of(TARGETS), f"image to build: {', '.join(TARGETS)}", "target")
    clean_output: bool = _setting("true", parse_flag, "whether `all` clears the output directory first", "cleaning")
    custom_tags: tuple[str, ...] = _setting(
        "python", parse_tags, "comma-separated tags; the first is the primary tag", "naming"
    )
    output_name: str | None = _setting(
        "", optional(parse_archive_name), "name of the archive; generated if empty", "naming"
    )
    runtime_api_url: str | None = _setting(
        "", optional(parse_url), "base URL; if empty, the archive is created and nothing is sent", "api"
    )
    runtime_api_key: ApiKey | None = _setting("", optional(parse_key), "sent as X-API-Key", "none")

    source_dir: str = _setting(".", parse_text, "checkout to pack", "everywhere")
    include: tuple[str, ...] = _setting("", parse_list, "gitignore patterns of additional files to pack", "selection")
    exclude: tuple[str, ...] = _setting("", parse_list, "gitignore patterns of files to leave out", "selection")
    git_sha: str | None = _setting("", optional(parse_sha), "commit to use instead of the one git reports", "naming")
    allow_dirty: bool = _setting(
        "true", parse_flag, "whether files that differ from the commit may be packed", "naming"
    )
    source_date_epoch: int | None = _setting(
        "", optional(parse_time), "modification time of every packed file, instead of the commit's", "none"
    )
    max_context_bytes: int = _setting(
        "4000000000", parse_integer(1, 10**15), "size limit of the build context, uncompressed", "packing"
    )

    template_dir: str | None = _setting(
        "", optional(parse_text), "folder of templates that override ours by name", "templates"
    )
    build_args: dict[str, str] = _setting(
        "", parse_build_args, "NAME=value,… written into the Dockerfile as defaults", "dockerfile"
    )
    extra_packages: tuple[str, ...] = _setting(
        "", parse_packages, "additional system packages to install", "dockerfile"
    )
    build_packages: tuple[str, ...] = _setting(
        "", parse_packages, "system packages that only the build needs, such as libpq-dev", "dockerfile"
    )
    features: frozenset[str] = _setting(
        ",".join(DEFAULT_FEATURES), parse_features, "features of the full targets, or none", "dockerfile"
    )
    requirements: str | None = _setting(
        "", optional(parse_text), "requirements file to install from, instead of the lock file", "dockerfile"
    )
    dockerfile: str | None = _setting(
        "", optional(parse_text), "Dockerfile in the source to use instead of our template", "dockerfile"
    )
    server_module: str = _setting("openhands.agent_server", parse_module, "module that `python -m` starts", "server")
    server_command: StartCommand | None = _setting(
        "",
        optional(parse_command),
        "command that starts the server instead, such as `uvicorn app.main:app --host 0.0.0.0`",
        "server",
    )
    server_name: str = _setting("openhands-agent-server", parse_program_name, "name of the executable", "server")
    server_port: int = _setting("8000", parse_integer(1, 65535), "port that the server listens on", "server")
    health_path: str = _setting("/health", parse_url_path, "path of the health check; 401 means alive", "server")

    upload_format: str = _setting(
        "json", parse_one_of(UPLOAD_FORMATS), "format of the upload: json or multipart", "upload"
    )
    image_name: Reference = _setting("agent-server", parse_repository, "repository below the registry prefix", "image")
    target_image: Reference | None = _setting(
        "", optional(parse_target_image), "full image reference; generated if empty", "image"
    )
    build_timeout: float = _setting("1800", parse_number(1, 86400), "seconds to wait for the image", "waiting")
    allow_http: bool = _setting("false", parse_flag, "whether a URL without TLS may be on another machine", "none")
    allowed_hosts: tuple[str, ...] = _setting("", parse_hosts, "additional hosts that may receive the API key", "none")

    engine: str = _setting(
        "auto",
        parse_one_of(("auto", *ENGINES)),
        f"local engine of `build`, `verify` and `serve`: auto, {', '.join(ENGINES)}",
        "engine",
    )
    builder: tuple[str, ...] = _setting(
        "", parse_list, "buildx builders, comma-separated; may be remote or on Kubernetes", "engine"
    )

    serve_host: str = _setting("127.0.0.1", parse_text, "address that `serve` listens on", "serve")
    serve_port: int = _setting("8010", parse_integer(0, 65535), "port of `serve`; 0 picks a free one", "serve")
    serve_data: str = _setting("./runtime-server", parse_text, "directory of `serve`: builds, logs and keys", "serve")
    serve_workers: int = _setting("2", parse_integer(1, 1000), "builds at a time on each builder", "serve")
    serve_queue: int = _setting("1000", parse_integer(1, 1_000_000), "how many builds may wait in the queue", "serve")
    registry_prefix: str | None = _setting(
        "", optional(parse_registry_prefix), "where `serve` pushes images; if empty, they stay in the engine", "serve"
    )


class CiEnvironment(NamedTuple):
    """What a GitHub runner tells its jobs; empty elsewhere."""

    sha: str = ""
    ref: str = ""
    output: str = ""
    annotates: bool = False
    summary: str = ""


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
    """Return what `.env` sets, and a note if the file is unusable but is not about us: an application's own.

    Raises:
        SettingError: It is unusable and has one of our names, or cannot be read.
    """
    names = [item.name.upper() for item in fields(Settings)]
    try:
        return read_env_file(path, environment), []
    except InvalidLine as error:
        if names_any(path, [*names, *_REMOVED, rf"{_OUR_PREFIX}\w*"]):
            raise
        return {}, [f"{error.message}; the file is ignored, because it has none of our settings"]


def read_environment() -> dict[str, str]:
    """Return the process's environment: the only place where settings read it."""
    return dict(os.environ)


def make_child_environment() -> dict[str, str]:
    """Return the environment of a child process: without the key, also for library callers, who do not hide it."""
    return {name: text for name, text in os.environ.items() if name != _KEY}


@contextmanager
def hide_from_children(key: ApiKey | None) -> Iterator[None]:
    """Keep the key out of the environment of child processes in the block, whatever its variable is called."""
    hidden = {name: text for name, text in os.environ.items() if key and key.scrub(text) != text}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)  # the next task of a chain reads it again


def read_ci(environment: Mapping[str, str]) -> CiEnvironment:
    """Return what a GitHub runner put into the environment."""
    sha, ref, output, summary = (environment.get(name, "") for name in _GITHUB)
    return CiEnvironment(sha, ref, output, environment.get("GITHUB_ACTIONS") == "true", summary)


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


def _check_builder(settings: Settings) -> None:
    if settings.builder and settings.engine not in {"auto", "buildx"}:
        raise SettingError(f"BUILDER requires ENGINE=buildx, but ENGINE is {settings.engine}", "set ENGINE=buildx")


def _check_api(settings: Settings) -> None:
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
