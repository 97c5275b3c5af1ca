"""The table of settings: name, default, how its text is read, what it means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from buildkit.config import values

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildkit.secret import ApiKey

T = TypeVar("T")


def _setting(default: str, parse: Callable[[str, str], T], meaning: str) -> T:
    """Return a dataclass field; its metadata is what `load_settings`, `--help`, `doctor` and the README test read."""
    described: T = field(metadata={"default": default, "parse": parse, "meaning": meaning})
    return described


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting, checked. The variable is the field's name in capitals."""

    output_dir: str = _setting("./runtime-build", values.parse_text, "where everything is written")
    base_image: str = _setting(
        "nikolaik/python-nodejs:python3.12-nodejs22", values.parse_reference, "image that every stage starts from"
    )
    target: str = _setting("binary", values.parse_one_of(*values.TARGETS), "which image: " + ", ".join(values.TARGETS))
    clean_output: bool = _setting("true", values.parse_flag, "whether `all` clears the output directory first")
    custom_tags: tuple[str, ...] = _setting(
        "python", values.parse_tags, "comma-separated; the first is the primary tag"
    )
    output_name: str | None = _setting("", values.parse_file_name, "name of the archive; generated when empty")
    runtime_api_url: str | None = _setting(
        "", values.parse_url, "base URL; empty: the archive is made and nothing is sent"
    )
    runtime_api_key: ApiKey | None = _setting("", values.parse_key, "sent as X-API-Key")

    source_dir: str = _setting(".", values.parse_text, "the checkout that is packed")
    include: tuple[str, ...] = _setting("", values.parse_words, "gitignore patterns of what is packed besides")
    exclude: tuple[str, ...] = _setting("", values.parse_words, "gitignore patterns of what is left out")
    git_sha: str | None = _setting("", values.parse_sha, "the commit, where git cannot tell it or tells another")
    git_ref: str | None = _setting("", values.parse_line, "OPENHANDS_BUILD_GIT_REF in the image; the commit when empty")
    source_url: str | None = _setting(
        "", values.parse_url, "where the source is published, for a label; the project's own URL when empty"
    )
    allow_dirty: bool = _setting("true", values.parse_flag, "whether files that differ from the commit may be packed")
    source_date_epoch: int | None = _setting(
        "", values.parse_optional_integer, "time of every packed file, instead of the commit's"
    )
    compression: str = _setting(
        "", values.parse_compression, "isal-0 … isal-3 or zlib-1 … zlib-9; the fastest one at hand when empty"
    )
    max_context_bytes: int = _setting(
        "4000000000", values.parse_integer(1, 10**15), "a larger build context is refused"
    )
    warn_context_bytes: int = _setting(
        "100000000", values.parse_integer(1, 10**15), "a larger one names its largest folders"
    )

    template_dir: str | None = _setting("", values.parse_text_or_none, "folder of templates that replace ours by name")
    build_args: dict[str, str] = _setting(
        "", values.parse_build_args, "NAME=value,… baked into the Dockerfile as defaults"
    )
    extra_packages: tuple[str, ...] = _setting("", values.parse_packages, "system packages installed besides")
    features: frozenset[str] = _setting(
        "docker,desktop,vscode", values.parse_features, "extras of the full targets, or none"
    )
    pyinstaller_spec: str | None = _setting(
        "", values.parse_text_or_none, "path of the PyInstaller spec; found by name when empty"
    )
    split_executable: bool = _setting(
        "false", values.parse_flag, "whether the project's own files lie in a small executable beside the large one"
    )
    dockerfile: str | None = _setting(
        "", values.parse_text_or_none, "a Dockerfile of the source to derive from, not our template"
    )
    server_module: str = _setting("openhands.agent_server", values.parse_module, "module that `python -m` starts")
    server_name: str = _setting("openhands-agent-server", values.parse_program_name, "name of the executable")
    server_port: int = _setting("8000", values.parse_integer(1, 65535), "port that the server listens on")

    upload_format: str = _setting("json", values.parse_one_of("json", "multipart"), "form of the upload")
    image_name: str = _setting("agent-server", values.parse_repository, "repository below the registry prefix")
    target_image: str | None = _setting("", values.parse_target_image, "full image reference; generated when empty")
    poll_interval: float = _setting("30", values.parse_number(1, 30), "longest pause between two polls, in seconds")
    build_timeout: float = _setting("1800", values.parse_number(1, 86400), "how long to wait for the image, in seconds")
    stall_timeout: float = _setting(
        "60", values.parse_number(1, 3600), "how long the server may take nothing, in seconds"
    )
    skip_existing: bool = _setting(
        "false", values.parse_flag, "whether a context that this output directory has already had built is left alone"
    )
    force: bool = _setting("false", values.parse_flag, "send though an earlier build may exist")
    allow_http: bool = _setting("false", values.parse_flag, "allow a URL without TLS that is not on this machine")
    allowed_hosts: tuple[str, ...] = _setting("", values.parse_hosts, "further hosts that may be given the key")

    engine: str = _setting(
        "auto", values.parse_one_of(*values.ENGINES), "what `build` and `verify` use: " + ", ".join(values.ENGINES)
    )
    builder: str | None = _setting("", values.parse_text_or_none, "buildx builder; remote and Kubernetes ones too")
    push: bool = _setting("false", values.parse_flag, "whether `build` pushes the image to its registry")
    build_network: str | None = _setting(
        "", values.parse_text_or_none, "network of the engine's RUN steps, such as host"
    )
    health_timeout: float = _setting(
        "60", values.parse_number(1, 3600), "how long `verify` waits for /health, in seconds"
    )

    manifest_name: str = _setting("agent-server", values.parse_text, "name of the Deployment and the Service")
    manifest_port: int = _setting("8000", values.parse_integer(1, 65535), "port of the pods; many callers expect 60000")
    manifest_replicas: int = _setting("1", values.parse_integer(0, 1000), "how many pods")
    manifest_secret_name: str = _setting("agent-server-session", values.parse_text, "the Secret with the session key")
    manifest_secret_key: str = _setting("key", values.parse_text, "which entry of that Secret it is")
