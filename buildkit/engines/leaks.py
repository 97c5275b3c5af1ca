"""Secrets that an image reveals to everybody who can pull it: in its environment, its labels, its history."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from buildkit.engines.container import ImageConfig

_SECRET_NAME = re.compile(r"(?i)(?:^|[_.-])(?:api_?key|key|token|secret|passwd|password|passphrase|credentials?|auth)$")
# Official Python images publish the fingerprint of their release manager's key.
_PUBLIC_NAMES = frozenset({"GPG_KEY"})
_TOKEN_SHAPES = (
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    ("an AWS access key", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,})")),
    ("a GitLab token", re.compile(r"\bglpat-[A-Za-z0-9_-]{20}")),
    ("an API key", re.compile(r"\bsk-[A-Za-z0-9_-]{20,}")),
    ("a Slack token", re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}")),
    ("a JSON web token", re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.")),
    ("a password in a URL", re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@$]+:[^\s/@$]+@")),
)
# `RUN |2 NAME=value OTHER=value /bin/sh -c …` is how both of Docker's builders record build arguments.
_BUILD_ARGUMENTS = re.compile(r"^(?:RUN )?\|\d+ (.*?) ?/bin/sh -c ")
_ASSIGNMENT = re.compile(r"(?:^|\s)([A-Za-z_][A-Za-z0-9_]*)=(\S*)")
# Random base64 has nearly 6 bits per character, hexadecimal digests at most 4, words and paths less than 4.
_RANDOM = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,2}")
_RANDOM_BITS = 4.4


def find_leaks(image: ImageConfig) -> list[str]:
    """Return where something looks like a secret, and which kind; never the value itself."""
    leaks = [f"{place}: {kind}" for place, name, value in _list_values(image) for kind in _judge(name, value)]
    for position, line in enumerate(image.history, start=1):
        leaks += [f"history, layer {position} from the top: {kind}" for kind in _match_shapes(line)]
    return sorted(set(leaks))


def _list_values(image: ImageConfig) -> Iterator[tuple[str, str, str]]:
    """Yield the place, name and value of everything in the image that has a name."""
    for name, value in image.environment.items():
        yield f"environment, {name}", name, value
    for name, value in image.labels.items():
        yield f"label, {name}", name, value
    for line in image.history:
        arguments = _BUILD_ARGUMENTS.match(line)
        for name, value in _ASSIGNMENT.findall(arguments.group(1) if arguments else ""):
            yield f"build argument, {name}", name, value


def _judge(name: str, value: str) -> Iterator[str]:
    if not value or name in _PUBLIC_NAMES:
        return
    is_path = value.startswith("/")
    if _SECRET_NAME.search(name) and not is_path:
        yield "a name that suggests a secret, with a value"
    yield from _match_shapes(value)
    if not is_path and "://" not in value and any(_is_random(word) for word in _RANDOM.findall(value)):
        yield "a value that looks random"


def _match_shapes(text: str) -> Iterable[str]:
    return [kind for kind, shape in _TOKEN_SHAPES if shape.search(text)]


def _is_random(word: str) -> bool:
    """Return whether `word` mixes all kinds of characters and has more bits per character than words or digests."""
    counts = Counter(word).values()
    bits = -sum(count / len(word) * math.log2(count / len(word)) for count in counts)
    mixed = all(re.search(kind, word) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    return mixed and bits > _RANDOM_BITS
