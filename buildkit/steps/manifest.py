"""Step `manifest`: a Kubernetes Deployment and Service for an image."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from buildkit.errors import SettingError
from buildkit.reference import parse_reference
from buildkit.rendering.template import render_template

if TYPE_CHECKING:
    from pathlib import Path

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_SERVICE_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SECRET_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_SECRET_KEY = re.compile(r"[-._A-Za-z0-9]{1,253}")
_LONGEST_SECRET_NAME = 253
_LAST_PORT = 65535
# Ports below are for a root that the pod does not have.
_FIRST_PORT = 1024
_UID = 10001
# The first is what the server has always read, the second what it reads today.
_SESSION_VARIABLES = ("SESSION_API_KEY", "OH_SESSION_API_KEYS_0")
_MINIMAL_RESOURCES = {"cpu_request": "250m", "memory_request": "512Mi", "memory_limit": "2Gi"}
_FULL_RESOURCES = {"cpu_request": "500m", "memory_request": "1Gi", "memory_limit": "4Gi"}
_TEMPLATE = "manifest.yaml.j2"


def render_manifest(
    image: str,
    *,
    target: str,
    digest: str | None = None,
    name: str = "agent-server",
    port: int = 8000,
    replicas: int = 1,
    secret_name: str = "agent-server-session",  # noqa: S107 - the name of a Secret is none
    secret_key: str = "key",  # noqa: S107
    template_dir: Path | None = None,
) -> str:
    r"""Return the YAML of a Deployment and a Service that start `image`.

    Args:
        target: The full ones get more memory, and shared memory for their browser.
        digest: Of the image in its registry; where it is known the pods run exactly that image.
        port: Where the server listens and the Service is reached. Callers that know the server from elsewhere on
            Kubernetes expect 60000.
        secret_name: Of the Secret with the session key, which is never in the manifest.
        secret_key: Which of the Secret's entries it is.
        template_dir: Where the user's own `manifest.yaml.j2` lies, if there is one.

    Raises:
        SettingError: Kubernetes would refuse one of the values.

    >>> render_manifest("ghcr.io/acme/server:1.0", target="source-minimal").count("\nkind: ")
    2
    """
    reference = parse_reference(f"{image}@{digest}" if digest and "@" not in image else image)
    values = {
        "image": str(reference),
        "desktop": not target.endswith("-minimal"),
        "name": _check(name, _SERVICE_NAME, "MANIFEST_NAME", "at most 63 of a-z 0-9 -, led by a letter"),
        "port": _check_range(port, _FIRST_PORT, _LAST_PORT, "MANIFEST_PORT"),
        "replicas": _check_range(replicas, 0, 1000, "MANIFEST_REPLICAS"),
        "secret_name": _check_secret_name(secret_name),
        "secret_key": _check(secret_key, _SECRET_KEY, "MANIFEST_SECRET_KEY", "at most 253 of A-Z a-z 0-9 - . _"),
        "session_variables": _SESSION_VARIABLES,
        "resources": _MINIMAL_RESOURCES if target.endswith("-minimal") else _FULL_RESOURCES,
        "uid": _UID,
    }
    return render_template(_TEMPLATE, values, template_dir)


def _check(value: str, shape: re.Pattern[str], setting: str, rule: str) -> str:
    if not shape.fullmatch(value):
        raise SettingError(f"{setting}={value[:300]!r} is not a name that Kubernetes takes", f"give {rule}")
    return value


def _check_secret_name(value: str) -> str:
    if len(value) > _LONGEST_SECRET_NAME:
        raise SettingError(f"MANIFEST_SECRET_NAME has {len(value)} characters", f"give at most {_LONGEST_SECRET_NAME}")
    return _check(value, _SECRET_NAME, "MANIFEST_SECRET_NAME", "words of a-z 0-9 - joined by dots")


def _check_range(value: int, lowest: int, highest: int, setting: str) -> int:
    if not lowest <= value <= highest:
        raise SettingError(f"{setting}={value} is out of range", f"give a number from {lowest} to {highest}")
    return value
