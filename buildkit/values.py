"""Text to typed value, for each kind of setting; every refusal names the setting, the value and what to type."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from buildkit.errors import SettingError
from buildkit.models import FEATURES, Target, is_archive_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")
Text = TypeVar("Text", bound=str)

_LOOPBACK = re.compile(r"localhost|127(?:\.\d{1,3}){3}|\[?::1\]?", re.ASCII)


def optional(parse: Callable[[str, str], T]) -> Callable[[str, str], T | None]:
    """Return a parser that returns None if the text is empty."""
    return lambda value, name: parse(value, name) if value else None


def parse_text(value: str, name: str) -> str:
    """Return a line of text."""
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise SettingError(f"{name} contains a control character: {value!r}", f"set {name} to one line of text")
    return value


def parse_one_of(choices: Iterable[Text]) -> Callable[[str, str], Text]:
    """Return a parser of one of `choices`."""
    known = {str(choice): choice for choice in choices}

    def parse(value: str, name: str) -> Text:
        if value not in known:
            near = difflib.get_close_matches(value, known, 1)
            hint = f"{name}={near[0]}" if near else f"{name} to one of {', '.join(known)}"
            raise SettingError(f"{name} is not one of {', '.join(known)}: {value!r}", f"set {hint}")
        return known[value]

    return parse


def parse_flag(value: str, name: str) -> bool:
    """Return the meaning of true, yes, on, 1 and their opposites."""
    known = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
    if value.lower() not in known:
        raise SettingError(f"{name} is neither true nor false: {value!r}", f"set {name}=true or {name}=false")
    return known[value.lower()]


def parse_number(low: float, high: float) -> Callable[[str, str], float]:
    """Return a parser of a number from `low` to `high`."""

    def parse(value: str, name: str) -> float:
        if not re.fullmatch(r"[0-9]{1,15}(?:\.[0-9]{1,6})?", value) or not low <= float(value) <= high:
            meant = f"a number from {low:.15g} to {high:.15g}"
            raise SettingError(f"{name} is not {meant}: {value!r}", f"set {name} to {meant}")
        return float(value)

    return parse


def parse_integer(low: int, high: int) -> Callable[[str, str], int]:
    """Return a parser of a whole number from `low` to `high`."""

    def parse(value: str, name: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", value) or not low <= int(value) <= high:
            meant = f"a whole number from {low} to {high}"
            raise SettingError(f"{name} is not {meant}: {value!r}", f"set {name} to {meant}")
        return int(value)

    return parse


def parse_size(value: str, name: str) -> int:
    """Return a number of bytes, such as 75GB.

    >>> parse_size("1.5GB", "--keep-free")
    1500000000
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?([kMGT]?)B?", value)
    if match is None:
        raise SettingError(f"{name} is not a size: {value!r}", f"set {name} to a size such as 75GB")
    return int(float(match[1]) * 1000 ** " kMGT".index(match[2] or " "))


def parse_list(value: str, name: str) -> tuple[str, ...]:
    """Return the parts of a list that is separated by commas or newlines."""
    return tuple(parse_text(part.strip(), name) for part in re.split(r"[,\n]", value) if part.strip())


def parse_hosts(value: str, name: str) -> tuple[str, ...]:
    """Return host names in lower case, each with its port if one was given."""
    shape = r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
    hosts = [match_shape(shape, word, name, "host[:port],… without https://") for word in parse_list(value, name)]
    return tuple(host.lower().translate({ord("["): None, ord("]"): None}) for host in hosts)  # as urlsplit gives them


def parse_packages(value: str, name: str) -> tuple[str, ...]:
    """Return package names, separated by commas, spaces or newlines."""
    words = tuple(re.split(r"[,\s]+", value.strip(", \t\n"))) if value.strip(", \t\n") else ()
    return tuple(match_shape(r"[A-Za-z0-9][A-Za-z0-9+._:=~-]*", word, name, "package names") for word in words)


def parse_features(value: str, name: str) -> frozenset[str]:
    """Return the chosen features; `none` chooses none."""
    chosen = () if value == "none" else parse_list(value, name)
    return frozenset(parse_one_of(FEATURES)(word, name) for word in chosen)


def parse_stage(value: str, name: str) -> Target:
    """Return a stage of a Dockerfile of the source's own; empty for the last one."""
    return Target(match_shape(r"(?:[A-Za-z][A-Za-z0-9_.-]*)?", value, name, "the name of a stage in DOCKERFILE"))


def parse_url_path(value: str, name: str) -> str:
    """Return the path of a URL, perhaps with a query."""
    return match_shape(r"/[A-Za-z0-9/._~%!&()*+,;=:@?-]*", value, name, "a path such as /health")


def parse_module(value: str, name: str) -> str:
    """Return the dotted name of a module."""
    word = "[A-Za-z_][A-Za-z0-9_]*"
    return match_shape(rf"{word}(?:\.{word})*", value, name, "a dotted name such as package.module")


def parse_program_name(value: str, name: str) -> str:
    """Return the name of an executable."""
    return match_shape(r"[A-Za-z0-9][A-Za-z0-9._-]*", value, name, "A-Z a-z 0-9 . _ -, starting with a letter or digit")


def parse_archive_name(value: str, name: str) -> str:
    """Return the name of a tar.gz, without folders."""
    if not is_archive_name(value):
        raise SettingError(f"{name} is not the name of a tar.gz: {value!r}", f"set {name}=NAME.tar.gz, without folders")
    return value


def parse_sha(value: str, name: str) -> str:
    """Return a full commit."""
    if not re.fullmatch(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", value):
        raise SettingError(f"{name} is not a full commit: {value!r}", f"set {name} to `git rev-parse HEAD`")
    return value


def parse_url(value: str, name: str) -> str:
    """Return a base URL without a trailing slash."""
    shown = re.sub(r"//.*@", "//***@", value, flags=re.DOTALL)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool((parts.hostname or "").strip(".")) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"[\x21-\x7e]+", value) or "\\" in value:
        raise SettingError(f"{name} is not an http(s) URL: {shown!r}", f"set {name}=https://host[/path]")
    if parts.username is not None or parts.password is not None:
        raise SettingError(
            f"{name} contains a user name: {shown!r}", "put the key into RUNTIME_API_KEY, and only there"
        )
    if parts.query or parts.fragment or value.endswith(("?", "#")):
        raise SettingError(f"{name} has a query or a fragment: {shown!r}", f"set {name}=https://host[/path]")
    return value.rstrip("/")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its name or address alone."""
    return _LOOPBACK.fullmatch(host) is not None


def match_shape(shape: str, value: str, name: str, meant: str) -> str:
    """Return a value that the regular expression `shape` matches as a whole; `meant` says what to set instead."""
    if not re.fullmatch(shape, value):
        raise SettingError(f"{name} has a value that cannot be used: {value!r}", f"set {name} to {meant}")
    return value
