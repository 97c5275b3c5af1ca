"""Text to value, for each kind of setting; every refusal names the setting, the value and what to type."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from buildkit import reference
from buildkit.errors import SettingError
from buildkit.output.directory import is_archive_name
from buildkit.rendering.arguments import check_argument, check_text
from buildkit.secret import ApiKey

if TYPE_CHECKING:
    from collections.abc import Callable

TARGETS = ("binary", "binary-minimal", "source", "source-minimal")
FEATURES = ("docker", "desktop", "vscode")
ENGINES = ("auto", "docker", "buildx", "podman", "buildah")


def parse_text(value: str, name: str) -> str:
    """Return a line of text."""
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):  # noqa: PLR2004
        raise SettingError(f"{name} holds a control character: {value!r}", f"set {name} to one line of text")
    return value


def parse_text_or_none(value: str, name: str) -> str | None:
    """Return a line of text, None where it is empty."""
    return parse_text(value, name) or None


def parse_one_of(*choices: str) -> Callable[[str, str], str]:
    """Return a reader of one of `choices`."""

    def parse(value: str, name: str) -> str:
        if value not in choices:
            near = difflib.get_close_matches(value, choices, 1)
            hint = f"{name}={near[0]}" if near else f"{name} to one of {', '.join(choices)}"
            raise SettingError(f"{name} is not one of {', '.join(choices)}: {value!r}", f"set {hint}")
        return value

    return parse


def parse_flag(value: str, name: str) -> bool:
    """Return what true, yes, on, 1 and their opposites mean."""
    known = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
    if value.lower() not in known:
        raise SettingError(f"{name} is neither true nor false: {value!r}", f"set {name}=true or {name}=false")
    return known[value.lower()]


def parse_number(low: float, high: float) -> Callable[[str, str], float]:
    """Return a reader of a number from `low` to `high`."""

    def parse(value: str, name: str) -> float:
        if not re.fullmatch(r"[0-9]{1,15}(?:\.[0-9]{1,6})?", value) or not low <= float(value) <= high:
            raise SettingError(f"{name} is not a number from {low:g} to {high:g}: {value!r}", f"set {name}={low:g}")
        return float(value)

    return parse


def parse_integer(low: int, high: int) -> Callable[[str, str], int]:
    """Return a reader of a whole number from `low` to `high`."""

    def parse(value: str, name: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", value) or not low <= int(value) <= high:
            raise SettingError(f"{name} is not a whole number from {low} to {high}: {value!r}", f"set {name}={low}")
        return int(value)

    return parse


def parse_optional_integer(value: str, name: str) -> int | None:
    """Return a time in seconds that a tar header can hold, None where it is empty."""
    return parse_integer(0, 8**11 - 1)(value, name) if value else None


def parse_words(value: str, name: str) -> tuple[str, ...]:
    """Return the parts of a list that is separated by commas or lines."""
    return tuple(parse_text(part.strip(), name) for part in re.split(r"[,\n]", value) if part.strip())


def parse_hosts(value: str, name: str) -> tuple[str, ...]:
    """Return host names in lowercase, each with its port where one was given."""
    shape = r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
    hosts = [_match(shape, word, name, "host[:port],… without https://") for word in parse_words(value, name)]
    return tuple(host.lower().translate({ord("["): None, ord("]"): None}) for host in hosts)  # as urlsplit gives them


def parse_packages(value: str, name: str) -> tuple[str, ...]:
    """Return names of packages, separated by commas, spaces or lines."""
    words = tuple(re.split(r"[,\s]+", value.strip(", \t\n"))) if value.strip(", \t\n") else ()
    return tuple(_match(r"[A-Za-z0-9][A-Za-z0-9+._:=~-]*", word, name, "names of packages") for word in words)


def parse_features(value: str, name: str) -> frozenset[str]:
    """Return the chosen extras; `none` chooses none."""
    chosen = () if value == "none" else parse_words(value, name)
    return frozenset(parse_one_of(*FEATURES)(word, name) for word in chosen)


def parse_tags(value: str, name: str) -> tuple[str, ...]:
    """Return the tags in their order, each once; `python` where there is none."""
    tags = [tag.strip(" \t") for tag in value.split(",")]
    checked = [reference.check_tag(tag, position, name) for position, tag in enumerate(tags, 1) if tag]
    return tuple(dict.fromkeys(checked)) or ("python",)


def parse_build_args(value: str, name: str) -> dict[str, str]:
    """Return NAME=value pairs; separated by lines where there is more than one line, else by commas."""
    pairs = [part.partition("=") for part in value.split("\n" if "\n" in value else ",") if part.strip()]
    for key, equals, _ in pairs:
        if not equals:
            raise SettingError(f"{name} holds {key.strip()!r}, which is not NAME=value", f"set {name}=NAME=value,…")
    arguments = {key.strip(): text for key, _, text in pairs}
    for key, text in arguments.items():
        check_argument(key, text)
    return arguments


def parse_reference(value: str, name: str) -> str:
    """Return an image reference that Docker takes."""
    return str(reference.parse_reference(value, name))


def parse_target_image(value: str, name: str) -> str | None:
    """Return the reference that an image will be pushed under, None where it is empty."""
    if value and reference.parse_reference(value, name).digest:
        raise SettingError(
            f"{name} has a digest, which only the build can tell: {value!r}", f"set {name} to name[:tag]"
        )
    return value or None


def parse_repository(value: str, name: str) -> str:
    """Return a repository, without tag and digest: we write these behind it."""
    parsed = reference.parse_reference(value, name)
    if parsed.tag or parsed.digest:
        raise SettingError(
            f"{name} has a tag or a digest: {value!r}", f"set {name} to the repository; CUSTOM_TAGS tags"
        )
    return value


def parse_line(value: str, name: str) -> str | None:
    """Return text that can stand in a line of a Dockerfile, None where it is empty."""
    check_text(name, value)
    return value or None


def parse_module(value: str, name: str) -> str:
    """Return the dotted name of a module."""
    word = "[A-Za-z_][A-Za-z0-9_]*"
    return _match(rf"{word}(?:\.{word})*", value, name, "a dotted name such as package.module")


def parse_program_name(value: str, name: str) -> str:
    """Return the name of an executable."""
    return _match(r"[A-Za-z0-9][A-Za-z0-9._-]*", value, name, "a name of A-Z a-z 0-9 . _ - that begins with no sign")


def parse_compression(value: str, name: str) -> str:
    """Return a compressor with its level; empty where we may choose."""
    return _match(r"(?:isal-[0-3]|zlib-[1-9])?", value, name, "isal-0 … isal-3 or zlib-1 … zlib-9")


def parse_file_name(value: str, name: str) -> str | None:
    """Return the name of a tar.gz, without folders; None where it is empty."""
    if not value:
        return None
    if not is_archive_name(value):
        raise SettingError(f"{name} is not the name of a tar.gz: {value!r}", f"set {name}=NAME.tar.gz, without folders")
    return value


def parse_sha(value: str, name: str) -> str | None:
    """Return a full commit, None where it is empty."""
    if value and not re.fullmatch(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", value):
        raise SettingError(f"{name} is not a full commit: {value!r}", f"set {name} to `git rev-parse HEAD`")
    return value or None


def parse_url(value: str, name: str) -> str | None:
    """Return a base URL without a slash at its end, None where it is empty."""
    if not value:
        return None
    shown = re.sub(r"//.*@", "//***@", value, flags=re.DOTALL)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool((parts.hostname or "").strip(".")) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"[\x21-\x7e]+", value) or "\\" in value:
        raise SettingError(f"{name} is not an http(s) URL: {shown!r}", f"set {name}=https://host[/path]")
    if parts.username is not None or parts.password is not None:
        raise SettingError(f"{name} holds a user name: {shown!r}", "put the key into RUNTIME_API_KEY, and only there")
    if parts.query or parts.fragment or value.endswith(("?", "#")):
        raise SettingError(f"{name} has a query or a fragment: {shown!r}", f"set {name}=https://host[/path]")
    return value.rstrip("/")


def parse_key(value: str, name: str) -> ApiKey | None:
    """Return the key, None where it is empty; no refusal shows it."""
    if not value:
        return None
    if not re.fullmatch(r"[\x20-\x7e\xa1-\xff]+", value) or value != value.strip():
        raise SettingError(
            f"{name} holds characters that no HTTP header can carry (line end, control, or beyond latin-1)",
            f"set {name} again, without quotes or line ends",
        )
    return ApiKey(value)


def _match(shape: str, value: str, name: str, meant: str) -> str:
    if not re.fullmatch(shape, value):
        raise SettingError(f"{name} has a value that cannot be used: {value!r}", f"set {name} to {meant}")
    return value
