r"""Image references and tags: parsed, checked, written.

The grammar is that of the distribution project (https://github.com/distribution/reference), anchored at both ends and
in ASCII only: Python's `$` accepts a trailing newline and its `\w` accepts any alphabet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from buildkit.errors import SettingError

MAX_TAG_LENGTH = 128
_MAX_NAME_LENGTH = 255
_SHOWN_LENGTH = 300

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_HOST_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_REGISTRY = re.compile(rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """An image reference in its parts; `str()` joins them again."""

    registry: str | None
    repository: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """The registry and the repository, without tag and digest."""
        return f"{self.registry}/{self.repository}" if self.registry else self.repository

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return self.name + tag + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str, setting: str = "image reference") -> Reference:
    """Return the parts of `registry/repository:tag@digest`; only the repository is required.

    Args:
        setting: The name of the setting that the value came from, for errors.

    Raises:
        SettingError: Docker would reject it.

    >>> parse_reference("registry.example.com/acme/server:1.0").registry
    'registry.example.com'
    """
    name, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _refuse(setting, text, "the digest is not sha256: and 64 of 0-9 a-f")
    registry, path = _split_registry(name)
    path, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _refuse(
            setting,
            text,
            f"the tag {tag[:MAX_TAG_LENGTH]!r} is not 1 to 128 of A-Z a-z 0-9 _ . -, or starts with . or -",
        )
    if registry is not None and not _REGISTRY.fullmatch(registry):
        raise _refuse(setting, text, f"{registry[:_MAX_NAME_LENGTH]!r} is not a registry host[:port]")
    if not _REPOSITORY.fullmatch(path):
        raise _refuse(setting, text, "a repository is lowercase words of a-z 0-9 joined by . _ - and /")
    # Docker counts the `library/` that it puts before an official image, which has neither registry nor namespace.
    if len(path if registry or "/" in path else f"library/{path}") > _MAX_NAME_LENGTH:
        raise _refuse(setting, text, f"the repository is longer than {_MAX_NAME_LENGTH} characters")
    if _IMAGE_ID.fullmatch(text):
        raise _refuse(setting, text, "64 hexadecimal digits are an image ID, not a repository")
    return Reference(registry, path, tag or None, digest or None)


def parse_target_image(value: str, name: str) -> Reference:
    """Return the reference that an image will be pushed as."""
    parsed = parse_reference(value, name)
    if parsed.digest:
        raise SettingError(
            f"{name} has a digest, which only the build determines: {value!r}", f"set {name} to name[:tag]"
        )
    return parsed


def parse_repository(value: str, name: str) -> Reference:
    """Return a repository without a tag and a digest: those are appended."""
    parsed = parse_reference(value, name)
    if parsed.tag or parsed.digest:
        raise SettingError(
            f"{name} has a tag or a digest: {value!r}", f"set {name} to the repository, and tags in CUSTOM_TAGS"
        )
    return parsed


def parse_registry_prefix(value: str, name: str) -> str:
    """Return what the names of pushed images start with: a registry, perhaps with the beginning of a repository."""
    prefix = value.rstrip("/")
    try:
        sample = parse_reference(f"{prefix}/image", name)
    except SettingError as error:
        raise SettingError(f"{name} is not a registry: {value!r}", f"set {name}=registry.example.com/team") from error
    if sample.registry is None:
        raise SettingError(f"{name} does not start with a registry: {value!r}", f"set {name}=docker.io/{prefix}")
    return prefix


def check_tag(tag: str, position: int = 1, setting: str = "CUSTOM_TAGS") -> str:
    """Return `tag` unchanged if a registry would accept it.

    Args:
        position: Of the tag in its list, from 1; named in the error.
    """
    if _TAG.fullmatch(tag):
        return tag
    if len(tag) > MAX_TAG_LENGTH:
        raise SettingError(
            f"{setting}: tag {position} has {len(tag)} characters: {tag[:40]!r}…",
            f"use at most {MAX_TAG_LENGTH} characters",
        )
    raise SettingError(
        f"{setting}: tag {position} is not a tag: {tag!r}",
        "use only A-Z a-z 0-9 _ . -, and start with a letter, a digit or _",
    )


def parse_tags(value: str, name: str) -> tuple[str, ...]:
    """Return the tags in their order, each once; by default `python`."""
    tags = [tag.strip(" \t") for tag in value.split(",")]
    checked = [check_tag(tag, position, name) for position, tag in enumerate(tags, 1) if tag]
    return tuple(dict.fromkeys(checked)) or ("python",)


def _split_registry(name: str) -> tuple[str | None, str]:
    """Return the registry and the rest, separated as in Docker: a registry has a dot or a colon, or is localhost."""
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return None, name


def _refuse(setting: str, text: str, reason: str) -> SettingError:
    shown = text if len(text) <= _SHOWN_LENGTH else text[:_SHOWN_LENGTH] + "…"
    return SettingError(f"{setting} is not an image reference: {shown!r}: {reason}", f"set {setting} to name[:tag]")


def name_local_image(server_name: str) -> Reference:
    """Return the name of an image that is built by hand from an archive: the server's, as a valid repository."""
    words = re.findall("[a-z0-9]+", server_name.lower())
    return Reference(None, "-".join(words) or "agent-server", None, None)
