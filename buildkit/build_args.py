"""Build arguments: pairs that are safe to write into a Dockerfile and to keep in an image's history."""

from __future__ import annotations

import re

from buildkit.errors import SettingError

# Separate settings say these; a build argument of the same name would contradict them.
_RESERVED = {
    "BASE_IMAGE": "set BASE_IMAGE instead",
    "BUILDER_IMAGE": "set BUILDER_IMAGE instead",
    "OPENHANDS_BUILD_GIT_SHA": "set GIT_SHA instead",
    "OPENHANDS_BUILD_GIT_REF": "remove it: the ref comes from GITHUB_REF, or else is the commit",
    "TARGET": "set TARGET instead",
}
# The words of Docker's own check SecretsUsedInArgOrEnv.
_SECRET_NAME = re.compile(
    r"(^|_)(api_?key|auth|credentials?|key|pass|password|passwd|passphrase|pword|secret|token)s?(_|$)", re.IGNORECASE
)
_USERINFO = re.compile(r"://[^/\s@]*@")


def parse_build_args(value: str, name: str) -> dict[str, str]:
    """Return NAME=value pairs; separated by newlines if there is more than one line, otherwise by commas."""
    pairs = [part.partition("=") for part in value.split("\n" if "\n" in value else ",") if part.strip()]
    for key, equals, _ in pairs:
        if not equals:
            raise SettingError(f"{name} contains {key.strip()!r}, which is not NAME=value", f"set {name}=NAME=value,…")
    arguments = {key.strip(): text for key, _, text in pairs}
    for key, text in arguments.items():
        _check_argument(key, text, name)
    return arguments


def _check_argument(key: str, text: str, name: str) -> None:
    """Raise SettingError if a build argument would break the Dockerfile or put a secret into the image's history."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
        raise SettingError(
            f"{name} has a name that cannot be used: {key!r}",
            "write NAME=value; a name has A-Z a-z 0-9 _ and does not start with a digit",
        )
    if key in _RESERVED:
        raise SettingError(f"{name} sets {key}, which is a setting of its own", _RESERVED[key])
    if _SECRET_NAME.search(key) or _USERINFO.search(text):
        raise SettingError(
            f"{name}: {key} looks like a secret, and build arguments stay readable in the image",
            "pass secrets to the container when it runs, or rename the argument if it is not a secret",
        )
    if not text.isprintable():
        raise SettingError(f"{name}: {key} contains a control character: {text!r}", "write it in one printable line")
