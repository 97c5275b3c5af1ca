"""Task `verify`: an image checked against its contract, in real containers."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from buildkit.contract import ImageContract
from buildkit.display import escape_controls
from buildkit.errors import BuildFailed, LocalError, NotStarted, run
from buildkit.models import BuildResult, Dockerfile, LocalBuild, Target, Verification, Version
from buildkit.reference import parse_reference
from buildkit.task import Flag, Outcome, Run, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from buildkit.engines.engine import Engine
    from buildkit.engines.serving import Candidate, Served
    from buildkit.models import Finding
    from buildkit.settings import Settings
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

HEALTH_TIMEOUT_S = 60.0
# Where callers on Kubernetes put the server; any port other than the image's own would do.
_OTHER_PORT = 60000
_PROBE_TIMEOUT_S = 180.0


class VerifyRequest(NamedTuple):
    """Which image is checked: the given one, or the one that the workspace's last build made.

    Attributes:
        environment: Variables that its containers get, such as the application's own configuration.
    """

    settings: Settings
    image: str | None = None
    health_timeout_s: float = HEALTH_TIMEOUT_S
    environment: Mapping[str, str] = MappingProxyType({})


def verify(workspace: Workspace, engine: Engine, request: VerifyRequest, ui: Ui) -> Verification:
    """Return every finding about the image; `ok` only if all of them are. The result is saved.

    Its containers have no network other than a loopback of their own, so nothing is exposed and no port is taken.

    Raises:
        SettingError: The image is not an image reference.
        NotStarted: The engine cannot run containers, or does not have the image.
    """
    from buildkit.engines.container import inspect_image
    from buildkit.engines.serving import Candidate

    if not engine.runs_containers:
        raise NotStarted(
            f"{engine.name} builds images, but does not run them with their entrypoint",
            "set ENGINE=podman, which sees buildah's images (on Debian: `apt-get install podman`), or ENGINE=docker",
        )
    built, contract = _find_contract(workspace, request)
    image = _pin(built) if built else str(parse_reference(request.image or "", "--image"))
    ui.report(f"inspecting {image} with {engine}")
    config = inspect_image(engine, image)
    candidate = Candidate(engine, image, contract, config, request.health_timeout_s, request.environment)
    served, findings = _check(candidate, ui)
    findings = [dataclasses.replace(finding, detail=escape_controls(finding.detail)) for finding in findings]
    result = Verification(
        image=(built and built.image) or image,
        engine=engine.name,
        target=str(contract.target),
        ok=all(finding.ok for finding in findings),
        findings=findings,
        health_s=served.health_s,
        stop_s=served.stop_s,
        made_from=workspace.digests(f"{built.step}.json") if built else {},
    )
    workspace.save(result)
    return result


def _find_contract(
    workspace: Workspace, request: VerifyRequest
) -> tuple[LocalBuild | BuildResult | None, ImageContract]:
    """Return the workspace's own build, unless another image is given, and what is promised about the image."""
    settings = request.settings
    if request.image:
        return None, ImageContract.from_settings(settings, settings.target, settings.git_sha)
    built = workspace.find(LocalBuild) or workspace.find(BuildResult)
    if built is None or built.image is None:
        raise LocalError(
            "there is no image yet", f"run {run('all')} or {run('build')} first, or give --image REFERENCE"
        )
    target = Target(workspace.load(Dockerfile).target)
    return built, ImageContract.from_settings(settings, target, workspace.load(Version).sha)


def _pin(built: LocalBuild | BuildResult) -> str:
    """Return the reference of exactly this image, as far as it is known; a remote builder's is only in the registry."""
    if isinstance(built, BuildResult):
        return built.image or ""
    return f"{built.image}@{built.digest}" if built.engine == "buildx" and built.digest else built.image_id


def _check(candidate: Candidate, ui: Ui) -> tuple[Served, list[Finding]]:
    """Return how the server's first start went, and all findings."""
    from buildkit.engines.checks import check_config
    from buildkit.engines.serving import serve

    findings = list(check_config(candidate.config, candidate.contract))
    ui.report("running checks inside")
    findings += _probe_inside(candidate)
    contract = candidate.contract
    ui.report(f"starting the server on port {contract.port}")
    served = serve(candidate, contract.port)
    findings += served.findings
    if contract.takes_address:
        ui.report(f"starting the server on port {_OTHER_PORT}")
        findings += serve(candidate, _OTHER_PORT, *contract._replace(port=_OTHER_PORT).address).findings
    return served, findings


def _probe_inside(candidate: Candidate) -> Iterator[Finding]:
    """Yield the findings of every probe, in a container that only sleeps."""
    from buildkit.engines.checks import judge_probe, list_probes, report
    from buildkit.engines.container import start_container

    words, variables = ("-c", "sleep 3600"), candidate.environment
    sleeping = start_container(candidate.engine, candidate.image, words, entrypoint="/bin/sh", environment=variables)
    try:
        with sleeping as container:
            for probe in list_probes(candidate.contract):
                output = container.enter("/bin/sh", "-c", probe.script, timeout_s=_PROBE_TIMEOUT_S)
                yield judge_probe(probe, stdout=output.stdout, stderr=output.stderr)
    except BuildFailed as refusal:
        yield report("start of a shell", False, refusal.message, refusal.fix)


def main(this: Run) -> Outcome:
    """Check an image against the contract, in a real container: prints the image reference."""
    from buildkit.engines import find_engine
    from buildkit.envfile import read_variables

    file = this.flags["env_file"]
    request = VerifyRequest(
        this.settings, this.flags["image"], environment=read_variables(this.locate(file)) if file else {}
    )
    with this.writing():
        engine = find_engine(this.settings.engine, this.settings.builder)
        result = verify(this.workspace, engine, request, this.ui)
    this.ui.show_findings(result.findings)
    return Outcome(result.image, result, 0 if result.ok else BuildFailed.exit_code)


TASK = Task(
    "verify",
    main,
    groups=("target", "engine", "server"),
    flags=(
        Flag("image", "image reference to check instead of the image that was built last", takes_value=True),
        Flag("env_file", "file of NAME=value lines for the server, such as its own configuration", takes_value=True),
    ),
)
