"""Build arguments and other values as they come to stand in a Dockerfile: what must not be there is refused."""

from __future__ import annotations

import re

from buildkit.errors import SettingError

# Settings of their own say these; a build argument of the same name would contradict them.
_RESERVED = {
    "BASE_IMAGE": "set BASE_IMAGE instead",
    "OPENHANDS_BUILD_GIT_SHA": "set GIT_SHA instead",
    "OPENHANDS_BUILD_GIT_REF": "set GIT_REF instead",
    "TARGET": "set TARGET instead",
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The words of Docker's own check SecretsUsedInArgOrEnv.
_SECRET_NAME = re.compile(
    r"(^|_)(api_?key|auth|credentials?|key|pass|password|passwd|passphrase|pword|secret|token)s?(_|$)", re.IGNORECASE
)
_USERINFO = re.compile(r"://[^/\s@]*@")


def check_argument(name: str, value: str) -> None:
    """Return nothing when a build argument neither breaks the Dockerfile nor puts a secret into the image's history.

    Raises:
        SettingError: It would.
    """
    if not _NAME.fullmatch(name):
        raise SettingError(
            f"BUILD_ARGS has a value that cannot be used: {name!r}",
            "write NAME=VALUE; a name has A-Z a-z 0-9 _ and no digit first",
        )
    if name in _RESERVED:
        raise SettingError(f"BUILD_ARGS sets {name}, which is a setting of its own", _RESERVED[name])
    if _SECRET_NAME.search(name) or _USERINFO.search(value):
        raise SettingError(
            f"BUILD_ARGS: {name} looks like a secret, and build arguments stay readable in the image",
            "give secrets to the container when it runs, or rename the argument if it is none",
        )
    check_text(f"BUILD_ARGS: {name}", value)


def check_text(setting: str, value: str) -> None:
    """Return nothing when a value neither ends the line of the Dockerfile that it stands in nor hides in it.

    Raises:
        SettingError: It would, or it holds a user name or password.
    """
    if not value.isprintable():
        raise SettingError(f"{setting} holds a control character: {value!r}", "write it in one printable line")
    if _USERINFO.search(value):
        raise SettingError(f"{setting} holds a user name or password", "leave out what stands before the @")
