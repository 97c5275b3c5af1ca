"""Task `manifest`: a Kubernetes Deployment and Service for an image."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from buildkit.contract import SESSION_VARIABLES, UID, ImageContract
from buildkit.errors import SettingError, run
from buildkit.models import BuildResult, Dockerfile, LocalBuild, Target
from buildkit.reference import parse_reference
from buildkit.task import Flag, Outcome, Run, Task
from buildkit.values import parse_integer
from buildkit.workspace import MANIFEST

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.workspace import Workspace

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_SERVICE_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SECRET = re.compile(rf"(?=[^/]{{1,253}}/){_LABEL}(?:\.{_LABEL})*/[-._A-Za-z0-9]{{1,253}}")
_parse_port = parse_integer(1024, 65535)  # lower ports need a root that the pod does not have
_parse_replicas = parse_integer(0, 1000)
_NAME, _SESSION_KEY = "agent-server", "agent-server-session/key"
_MINIMAL_RESOURCES = {"cpu_request": "250m", "memory_request": "512Mi", "memory_limit": "2Gi"}
_FULL_RESOURCES = {"cpu_request": "500m", "memory_request": "1Gi", "memory_limit": "4Gi"}


class ManifestRequest(NamedTuple):
    """What is deployed.

    Attributes:
        contract: What the image promises. The full targets get more memory, and shared memory for a browser.
        image: An image reference, or None for the image that the workspace knows.
        port: Where the server listens and the Service is reached, if the server takes `--port`; by default the image's.
            Many callers on Kubernetes expect 60000.
        secret: `NAME/KEY`: the Secret with the session key, and the entry in it. The key is never in the manifest.
        template_dir: May contain a `manifest.yaml.j2` of the project's own.
    """

    contract: ImageContract
    image: str | None = None
    name: str = _NAME
    port: int | None = None
    replicas: int = 1
    secret: str = _SESSION_KEY
    template_dir: Path | None = None


def render_manifest(workspace: Workspace, request: ManifestRequest) -> str:
    """Return the YAML of a Deployment and a Service, saved as `manifest.yaml`.

    Raises:
        SettingError: There is no image, Kubernetes would reject one of the values, or the template is wrong.
    """
    from buildkit.template import render_template

    image = request.image or _find_image(workspace)
    dockerfile = workspace.find(Dockerfile)
    target = Target(dockerfile.target) if dockerfile else request.contract.target
    contract = _move(request.contract, request.port)
    _check("--name", request.name, _SERVICE_NAME, "at most 63 of a-z 0-9 -, starting with a letter")
    _check("--secret", request.secret, _SECRET, "NAME/KEY: a-z 0-9 - and dots, then A-Z a-z 0-9 - . _")
    _parse_port(str(contract.port), "--port")
    _parse_replicas(str(request.replicas), "--replicas")
    secret_name, _, secret_key = request.secret.partition("/")
    values = {
        "image": str(parse_reference(image)),
        "address": list(contract.address),
        "desktop": not target.is_minimal,
        "endpoints": contract.endpoints,
        "name": request.name,
        "port": contract.port,
        "replicas": request.replicas,
        "secret_name": secret_name,
        "secret_key": secret_key,
        "session_variables": SESSION_VARIABLES,
        "resources": _MINIMAL_RESOURCES if target.is_minimal else _FULL_RESOURCES,
        "uid": UID,
    }
    text = render_template("manifest.yaml.j2", values, request.template_dir)
    workspace.write(MANIFEST, text.encode("utf-8"))
    return text


def _move(contract: ImageContract, port: int | None) -> ImageContract:
    """Return the contract of a server that listens on another port."""
    if port not in (None, contract.port) and not contract.takes_address:
        raise SettingError(
            f"--port={port} would have no effect: SERVER_COMMAND decides the port",
            f"write the port into SERVER_COMMAND and SERVER_PORT, or give --port {contract.port}",
        )
    return contract._replace(port=port or contract.port)


def _find_image(workspace: Workspace) -> str:
    """Return the reference of the image that the workspace knows, with its digest if that is known."""
    result = workspace.find(BuildResult)
    if result and result.image:
        return result.image
    built = workspace.find(LocalBuild)
    if built is None:
        raise SettingError(
            "there is no image yet", f"run {run('all')} or {run('build')} first, or give --image REFERENCE"
        )
    return f"{built.image}@{built.digest}" if built.digest and "@" not in built.image else built.image


def _check(flag: str, value: str, shape: re.Pattern[str], rule: str) -> None:
    if not shape.fullmatch(value):
        raise SettingError(f"{flag}={value[:300]!r} is not a name that Kubernetes accepts", f"use {rule}")


def main(this: Run) -> Outcome:
    """Render a Kubernetes Deployment and Service for the image: prints the manifest."""
    contract = ImageContract.from_settings(this.settings, this.settings.target, None)
    request = ManifestRequest(contract, this.flags["image"], template_dir=this.template_dir)
    given = {name: this.flags[name] for name in ("name", "port", "replicas", "secret")}
    request = request._replace(**{name: value for name, value in given.items() if value is not None})
    with this.writing():
        text = render_manifest(this.workspace, request).rstrip()
    return Outcome(text, {"manifest": text})


TASK = Task(
    "manifest",
    main,
    groups=("target", "server", "templates"),
    flags=(
        Flag("image", "image reference to start instead of the image that was built last", takes_value=True),
        Flag("name", f"name of the Deployment and the Service (default: {_NAME})", takes_value=True),
        Flag("port", "port of the pods (default: SERVER_PORT; many callers expect 60000)", parse=_parse_port),
        Flag("replicas", "number of pods (default: 1)", parse=_parse_replicas),
        Flag("secret", f"Secret with the session key, as NAME/KEY (default: {_SESSION_KEY})", takes_value=True),
    ),
)
