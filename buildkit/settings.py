"""The settings table: names, defaults, meanings, flags; and the only place that reads the environment."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from buildkit import values
from buildkit.build_args import parse_build_args
from buildkit.command import parse_command
from buildkit.models import DEFAULT_FEATURES, TARGETS, UPLOAD_FORMATS, Target
from buildkit.reference import parse_reference, parse_registry_prefix, parse_repository, parse_tags, parse_target_image
from buildkit.secret import parse_key
from buildkit.values import optional, parse_flag, parse_integer, parse_list, parse_one_of, parse_packages, parse_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from buildkit.command import StartCommand
    from buildkit.reference import Reference
    from buildkit.secret import ApiKey

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
KEY_NAME = "RUNTIME_API_KEY"
_GITHUB = ("GITHUB_SHA", "GITHUB_REF", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")
_LATEST_TIME = 8**11 - 1  # that a tar header can hold


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
        "", optional(values.parse_archive_name), "name of the archive; generated if empty", "naming"
    )
    runtime_api_url: str | None = _setting(
        "",
        optional(values.parse_url),
        "base URL of the Runtime API; if empty, the archive is created and nothing is sent",
        "api",
    )
    runtime_api_key: ApiKey | None = _setting(
        "", optional(parse_key), "key of the Runtime API, sent as X-API-Key", "none"
    )

    source_dir: str = _setting(".", parse_text, "checkout to pack", "everywhere")
    include: tuple[str, ...] = _setting("", parse_list, "gitignore patterns of additional files to pack", "selection")
    exclude: tuple[str, ...] = _setting("", parse_list, "gitignore patterns of files to leave out", "selection")
    git_sha: str | None = _setting(
        "", optional(values.parse_sha), "commit to use instead of the one git reports", "naming"
    )
    allow_dirty: bool = _setting(
        "true", parse_flag, "whether files that differ from the commit may be packed", "naming"
    )
    source_date_epoch: int | None = _setting(
        "",
        optional(parse_integer(0, _LATEST_TIME)),
        "modification time of every packed file, instead of the commit's",
        "none",
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
        ",".join(DEFAULT_FEATURES), values.parse_features, "features of the full targets, or none", "dockerfile"
    )
    requirements: str | None = _setting(
        "", optional(parse_text), "requirements file to install from, instead of the lock file", "dockerfile"
    )
    dockerfile: str | None = _setting(
        "", optional(parse_text), "Dockerfile in the source to use instead of our template", "dockerfile"
    )
    server_module: str = _setting(
        "openhands.agent_server", values.parse_module, "module that `python -m` starts", "server"
    )
    server_command: StartCommand | None = _setting(
        "",
        optional(parse_command),
        "command that starts the server instead, such as `uvicorn app.main:app --host 0.0.0.0`",
        "server",
    )
    server_name: str = _setting("openhands-agent-server", values.parse_program_name, "name of the executable", "server")
    server_port: int = _setting("8000", parse_integer(1, 65535), "port that the server listens on", "server")
    health_path: str = _setting("/health", values.parse_url_path, "path of the health check; 401 means alive", "server")

    upload_format: str = _setting(
        "json", parse_one_of(UPLOAD_FORMATS), "format of the upload: json or multipart", "upload"
    )
    image_name: Reference = _setting("agent-server", parse_repository, "repository below the registry prefix", "image")
    target_image: Reference | None = _setting(
        "", optional(parse_target_image), "full image reference; generated if empty", "image"
    )
    build_timeout: float = _setting("1800", values.parse_number(1, 86400), "seconds to wait for the image", "waiting")
    allow_http: bool = _setting("false", parse_flag, "whether a URL without TLS may be on another machine", "none")
    allowed_hosts: tuple[str, ...] = _setting(
        "", values.parse_hosts, "additional hosts that may receive the API key", "none"
    )

    engine: str = _setting(
        "auto",
        parse_one_of(("auto", *ENGINES)),
        f"local container engine: auto, {', '.join(ENGINES)}",
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


NAMES = tuple(item.name.upper() for item in fields(Settings))


class CiEnvironment(NamedTuple):
    """What a GitHub runner tells its jobs; empty elsewhere."""

    sha: str = ""
    ref: str = ""
    output: str = ""
    annotates: bool = False
    summary: str = ""


def read_environment() -> dict[str, str]:
    """Return the process's environment."""
    return dict(os.environ)


def make_child_environment() -> dict[str, str]:
    """Return the environment of a child process: without the key, also for library callers, who do not hide it."""
    return {name: text for name, text in os.environ.items() if name != KEY_NAME}


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
