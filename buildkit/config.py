"""Settings: flag > environment > `.env` > this project's default > default; each checked before anything is touched."""

from __future__ import annotations

import difflib
import io
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from buildkit.errors import SettingError
from buildkit.reference import check_tag, parse_reference
from buildkit.secret import ApiKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

TARGETS = ("binary", "binary-minimal", "source", "source-minimal")
FEATURES = ("docker", "desktop", "vscode")
ENGINES = ("auto", "docker", "buildx", "podman", "buildah")
_LOOPBACK = re.compile(r"localhost|127(?:\.\d{1,3}){3}|::1")
_CLOSE_ENOUGH = 0.85


def _setting(default: str, parse: Callable[[str, str], T], meaning: str) -> T:
    """Return a dataclass field; its metadata is what `load_settings`, `--help`, `doctor` and the README test read."""
    return field(metadata={"default": default, "parse": parse, "meaning": meaning})  # type: ignore[return-value]


def _text(value: str, name: str) -> str:
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):  # noqa: PLR2004
        raise SettingError(f"{name} holds a control character: {value!r}", f"set {name} to one line of text")
    return value


def _text_or_none(value: str, name: str) -> str | None:
    return _text(value, name) or None


def _one_of(*choices: str) -> Callable[[str, str], str]:
    def parse(value: str, name: str) -> str:
        if value not in choices:
            near = difflib.get_close_matches(value, choices, 1)
            hint = f"{name}={near[0]}" if near else f"{name} to one of {', '.join(choices)}"
            raise SettingError(f"{name} is not one of {', '.join(choices)}: {value!r}", f"set {hint}")
        return value

    return parse


def _flag(value: str, name: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
    if value.lower() not in known:
        raise SettingError(f"{name} is neither true nor false: {value!r}", f"set {name}=true or {name}=false")
    return known[value.lower()]


def _number(low: float, high: float) -> Callable[[str, str], float]:
    def parse(value: str, name: str) -> float:
        if not re.fullmatch(r"[0-9]{1,15}(?:\.[0-9]{1,6})?", value) or not low <= float(value) <= high:
            raise SettingError(f"{name} is not a number: {value!r}", f"set {name} to {low:g} up to {high:g}")
        return float(value)

    return parse


def _integer(low: int, high: int) -> Callable[[str, str], int]:
    def parse(value: str, name: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", value) or not low <= int(value) <= high:
            raise SettingError(f"{name} is not a whole number: {value!r}", f"set {name} to {low} up to {high}")
        return int(value)

    return parse


def _optional_integer(value: str, name: str) -> int | None:
    return _integer(0, 8**11 - 1)(value, name) if value else None


def _words(value: str, name: str) -> tuple[str, ...]:
    """Return the parts of a list that is separated by commas or lines."""
    return tuple(_text(part.strip(), name) for part in re.split(r"[,\n]", value) if part.strip())


def _features(value: str, name: str) -> frozenset[str]:
    chosen = () if value == "none" else _words(value, name)
    return frozenset(_one_of(*FEATURES)(word, name) for word in chosen)


def _tags(value: str, name: str) -> tuple[str, ...]:
    tags = [tag.strip(" \t") for tag in value.split(",")]
    checked = [check_tag(tag, position, name) for position, tag in enumerate(tags, 1) if tag]
    return tuple(dict.fromkeys(checked)) or ("python",)


def _build_args(value: str, name: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in value.split("\n" if "\n" in value else ",") if part.strip()]
    for key, equals, _ in pairs:
        if not equals:
            raise SettingError(f"{name} holds {key.strip()!r}, which is not NAME=value", f"set {name}=NAME=value,…")
    return {key.strip(): text for key, _, text in pairs}


def _reference(value: str, name: str) -> str:
    return str(parse_reference(value, name))


def _reference_or_none(value: str, name: str) -> str | None:
    return _reference(value, name) if value else None


def _file_name(value: str, name: str) -> str | None:
    if not value:
        return None
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}", value) or not value.endswith((".tar.gz", ".tgz")):
        raise SettingError(f"{name} is not the name of a tar.gz: {value!r}", f"set {name}=NAME.tar.gz, without folders")
    return value


def _sha(value: str, name: str) -> str | None:
    if value and not re.fullmatch(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", value):
        raise SettingError(f"{name} is not a full commit: {value!r}", f"set {name} to `git rev-parse HEAD`")
    return value or None


def _url(value: str, name: str) -> str | None:
    if not value:
        return None
    shown = re.sub(r"//[^/]*@", "//***@", value)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"[\x21-\x7e]+", value) or "\\" in value:
        raise SettingError(f"{name} is not an http(s) URL: {shown!r}", f"set {name}=https://host[/path]")
    if parts.username is not None or parts.password is not None:
        raise SettingError(f"{name} holds a user name: {shown!r}", "put the key into RUNTIME_API_KEY, and only there")
    if parts.query or parts.fragment or value.endswith(("?", "#")):
        raise SettingError(f"{name} has a query or a fragment: {shown!r}", f"set {name}=https://host[/path]")
    return value.rstrip("/")


def _key(value: str, name: str) -> ApiKey | None:
    if not value:
        return None
    if not re.fullmatch(r"[\x20-\x7e\xa1-\xff]+", value) or value != value.strip():
        raise SettingError(
            f"{name} holds characters that no HTTP header can carry (line end, control, or beyond latin-1)",
            f"set {name} again, without quotes or line ends",
        )
    return ApiKey(value)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting, checked. The variable is the field's name in capitals."""

    output_dir: str = _setting("./runtime-build", _text, "where everything is written")
    base_image: str = _setting(
        "nikolaik/python-nodejs:python3.12-nodejs22", _reference, "image that every stage starts from"
    )
    target: str = _setting("binary", _one_of(*TARGETS), "which image: " + ", ".join(TARGETS))
    clean_output: bool = _setting("true", _flag, "whether `all` clears the output directory first")
    custom_tags: tuple[str, ...] = _setting("python", _tags, "comma-separated; the first is the primary tag")
    output_name: str | None = _setting("", _file_name, "name of the archive; generated when empty")
    runtime_api_url: str | None = _setting("", _url, "base URL; empty: the archive is made and nothing is sent")
    runtime_api_key: ApiKey | None = _setting("", _key, "sent as X-API-Key")

    source_dir: str = _setting(".", _text, "the checkout that is packed")
    include: tuple[str, ...] = _setting("", _words, "gitignore patterns of what is packed besides")
    exclude: tuple[str, ...] = _setting("", _words, "gitignore patterns of what is left out")
    git_sha: str | None = _setting("", _sha, "the commit, where git cannot tell it or tells another")
    git_ref: str | None = _setting("", _text_or_none, "OPENHANDS_BUILD_GIT_REF in the image; the commit when empty")
    allow_dirty: bool = _setting("true", _flag, "whether files that differ from the commit may be packed")
    source_date_epoch: int | None = _setting("", _optional_integer, "time of every packed file, instead of the commit's")
    compression: str = _setting("", _text, "isal-0 … isal-3 or zlib-1 … zlib-9; the fastest one at hand when empty")
    max_context_bytes: int = _setting("4000000000", _integer(1, 10**15), "a larger build context is refused")
    warn_context_bytes: int = _setting("100000000", _integer(1, 10**15), "a larger one names its largest folders")

    template_dir: str | None = _setting("", _text_or_none, "folder of templates that replace ours by name")
    build_args: dict[str, str] = _setting("", _build_args, "NAME=value,… baked into the Dockerfile as defaults")
    extra_packages: tuple[str, ...] = _setting("", _words, "system packages installed besides")
    features: frozenset[str] = _setting("docker,desktop,vscode", _features, "extras of the full targets, or none")
    pyinstaller_spec: str | None = _setting("", _text_or_none, "path of the PyInstaller spec; found by name when empty")
    dockerfile: str | None = _setting("", _text_or_none, "a Dockerfile of the source to derive from, not our template")
    server_module: str = _setting("openhands.agent_server", _text, "module that `python -m` starts")
    server_name: str = _setting("openhands-agent-server", _text, "name of the executable")
    server_port: int = _setting("8000", _integer(1, 65535), "port that the server listens on")

    upload_format: str = _setting("json", _one_of("json", "multipart"), "form of the upload")
    image_name: str = _setting("agent-server", _reference, "repository below the registry prefix")
    target_image: str | None = _setting("", _reference_or_none, "full image reference; generated when empty")
    poll_interval: float = _setting("30", _number(1, 30), "longest pause between two polls, in seconds")
    build_timeout: float = _setting("1800", _number(1, 86400), "how long to wait for the image, in seconds")
    stall_timeout: float = _setting("60", _number(1, 3600), "how long the server may take nothing, in seconds")
    force: bool = _setting("false", _flag, "send though an earlier build may exist")
    allow_http: bool = _setting("false", _flag, "allow a URL without TLS that is not on this machine")
    allowed_hosts: tuple[str, ...] = _setting("", _words, "further hosts that may be given the key")

    engine: str = _setting("auto", _one_of(*ENGINES), "what `build` and `verify` use: " + ", ".join(ENGINES))
    builder: str | None = _setting("", _text_or_none, "buildx builder; remote and Kubernetes ones too")
    build_network: str | None = _setting("", _text_or_none, "network of the engine's RUN steps, such as host")


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
    values: dict[str, Any] = {}
    origins = {}
    for item in fields(Settings):
        name = item.name.upper()
        origin, text = next(
            ((label, layer[name]) for label, layer in layers if layer.get(name)), ("default", item.metadata["default"])
        )
        values[item.name] = item.metadata["parse"](text, name)
        origins[name] = origin
    settings = Settings(**values)
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
    from dotenv import dotenv_values  # noqa: PLC0415 - only where there is a .env
    from dotenv.parser import parse_stream  # noqa: PLC0415

    text = _decode_env(data)
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            raise SettingError(
                f".env, line {binding.original.line}: not NAME=value", f"mend line {binding.original.line} of .env"
            )
    return {name: value for name, value in dotenv_values(stream=io.StringIO(text)).items() if value}


def find_root(start: Path) -> Path:
    """Return the project that `start` lies in: the nearest folder above with `.git`, or a `pyproject.toml`."""
    for mark in (".git", "pyproject.toml"):
        for folder in (start, *start.parents):
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
