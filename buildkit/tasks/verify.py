"""Task `verify`: an image checked against its contract, in real containers."""

from __future__ import annotations

import dataclasses
import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

from buildkit.contract import SESSION_VARIABLES, ImageContract
from buildkit.display import escape_controls
from buildkit.errors import BuildFailed, LocalError, NotStarted, run
from buildkit.models import BuildResult, Dockerfile, LocalBuild, Target, Verification, Version
from buildkit.reference import parse_reference
from buildkit.task import Flag, Outcome, Run, Task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.engines.container import Container, ImageConfig
    from buildkit.engines.engine import Engine
    from buildkit.models import Finding
    from buildkit.settings import Settings
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace

HEALTH_TIMEOUT_S = 60.0
# Where callers on Kubernetes put the server; any port other than the image's own would do.
_OTHER_PORT = 60000
_PROBE_TIMEOUT_S = 180.0
_POLL_INTERVAL_S = 0.2
_STOP_LIMIT_S = 2.0
# A server behind a key is alive if it asks for the key.
_ALIVE = {"200", "401", "403"}
_SHOWN_LOG = 400


class VerifyRequest(NamedTuple):
    """Which image is checked: the given one, or the one that the workspace's last build made."""

    settings: Settings
    image: str | None = None
    health_timeout_s: float = HEALTH_TIMEOUT_S


class _Candidate(NamedTuple):
    """An image to check, and where it may be found."""

    engine: Engine
    image: str
    contract: ImageContract
    config: ImageConfig
    health_timeout_s: float


class _Served(NamedTuple):
    """How one start of the server went."""

    findings: list[Finding]
    health_s: float | None = None
    stop_s: float | None = None


def verify(workspace: Workspace, engine: Engine, request: VerifyRequest, ui: Ui) -> Verification:
    """Return every finding about the image; `ok` only if all of them are. The result is saved.

    Its containers have no network other than a loopback of their own, so nothing is exposed and no port is taken.

    Raises:
        SettingError: The image is not an image reference.
        NotStarted: The engine cannot run containers, or does not have the image.
    """
    from buildkit.engines.container import inspect_image

    if not engine.runs_containers:
        raise NotStarted(
            f"{engine.name} builds images, but does not run them with their entrypoint",
            "set ENGINE=podman, which sees buildah's images (on Debian: `apt-get install podman`), or ENGINE=docker",
        )
    built, contract = _find_contract(workspace, request)
    image = _pin(built) if built else str(parse_reference(request.image or "", "--image"))
    ui.report(f"inspecting {image} with {engine}")
    candidate = _Candidate(engine, image, contract, inspect_image(engine, image), request.health_timeout_s)
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


def _check(candidate: _Candidate, ui: Ui) -> tuple[_Served, list[Finding]]:
    """Return how the server's first start went, and all findings."""
    from buildkit.engines.checks import check_config

    findings = list(check_config(candidate.config, candidate.contract))
    ui.report("running checks inside")
    findings += _probe_inside(candidate)
    contract = candidate.contract
    ui.report(f"starting the server on port {contract.port}")
    served = _serve(candidate, contract.port)
    findings += served.findings
    if contract.takes_address:
        ui.report(f"starting the server on port {_OTHER_PORT}")
        findings += _serve(candidate, _OTHER_PORT, *contract._replace(port=_OTHER_PORT).address).findings
    return served, findings


def _probe_inside(candidate: _Candidate) -> Iterator[Finding]:
    """Yield the findings of every probe, in a container that only sleeps."""
    from buildkit.engines.checks import judge_probe, list_probes, report
    from buildkit.engines.container import start_container

    sleeping = start_container(candidate.engine, candidate.image, ("-c", "sleep 3600"), entrypoint="/bin/sh")
    try:
        with sleeping as container:
            for probe in list_probes(candidate.contract):
                output = container.enter("/bin/sh", "-c", probe.script, timeout_s=_PROBE_TIMEOUT_S)
                yield judge_probe(probe, stdout=output.stdout, stderr=output.stderr)
    except BuildFailed as refusal:
        yield report("start of a shell", False, refusal.message, refusal.fix)


def _serve(candidate: _Candidate, port: int, *arguments: str) -> _Served:
    """Return the findings of one start: the server responds, tini is its first process, it stops when it is told to."""
    from buildkit.engines.checks import report
    from buildkit.engines.container import start_container

    key = secrets.token_urlsafe(32)
    environment = dict.fromkeys(SESSION_VARIABLES, key)
    started = time.monotonic()
    deadline = started + candidate.health_timeout_s
    try:
        with start_container(candidate.engine, candidate.image, arguments, environment=environment) as container:
            health, *others = candidate.contract.endpoints
            statuses = {health: _await_status(container, port, health, deadline)}
            health_s = round(time.monotonic() - started, 2)
            statuses |= {path: _await_status(container, port, path, deadline) for path in others}
            log = " | ".join(container.read_log().replace(key, "***").splitlines())[-_SHOWN_LOG:]
            findings = [_judge_status(path, port, status, log) for path, status in statuses.items()]
            findings.append(_check_first_process(container, port))
            findings += _check_health_command(container, candidate.config, port)
            stop_s, code = container.stop()
    except BuildFailed as refusal:
        return _Served([report(f"start on port {port}", False, refusal.message, refusal.fix)])
    fix = f"exit within {_STOP_LIMIT_S:.0f} s of SIGTERM, with exit code 0 or 143"
    stopped = stop_s <= _STOP_LIMIT_S and code in (0, 143)
    findings.append(report(f"stop on port {port}", stopped, f"{stop_s} s, exit code {code}", fix))
    return _Served(findings, health_s if findings[0].ok else None, stop_s)


def _await_status(container: Container, port: int, path: str, deadline: float) -> str:
    """Return the HTTP status of the server's last response, a good one as soon as it comes, or curl's error message.

    The address is 127.0.0.2: a server that listens only on 127.0.0.1 does not respond there, nor to `docker run -p`.
    """
    url = f"http://127.0.0.2:{port}{path}"
    command = ("curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url)
    while True:
        output = container.enter(*command)
        status = output.stdout.rpartition("\n")[2] if output.code == 0 else output.stderr or output.stdout
        if status in _ALIVE or time.monotonic() > deadline or not container.is_running():
            return status
        time.sleep(_POLL_INTERVAL_S)


def _judge_status(path: str, port: int, status: str, log: str) -> Finding:
    from buildkit.engines.checks import report

    ok = status in _ALIVE
    return report(f"{path} on port {port}", ok, status if ok else f"{status}; log: {log}", "read the server's log")


def _check_first_process(container: Container, port: int) -> Finding:
    from buildkit.engines.checks import report

    name = container.enter("cat", "/proc/1/comm").stdout
    fix = "put tini first in ENTRYPOINT"
    return report(f"tini is PID 1 on port {port}", name == "tini", name or "nothing is running", fix)


def _check_health_command(container: Container, config: ImageConfig, port: int) -> Iterator[Finding]:
    """Yield whether the image's own HEALTHCHECK, if it has one, reports that this server is healthy."""
    from buildkit.engines.checks import report

    kind, *words = config.healthcheck or ("NONE",)
    if kind in ("CMD", "CMD-SHELL"):
        output = container.enter(*(words if kind == "CMD" else ("/bin/sh", "-c", *words)))
        said = output.stderr or output.stdout
        detail = f"exit code {output.code}" + (f": {said}" if output.code and said else "")
        yield report(f"HEALTHCHECK on port {port}", output.code == 0, detail, "let it check the port that --port gives")


def main(this: Run) -> Outcome:
    """Check an image against the contract, in a real container: prints the image reference."""
    from buildkit.engines import find_engine

    with this.writing():
        engine = find_engine(this.settings.engine, this.settings.builder)
        result = verify(this.workspace, engine, VerifyRequest(this.settings, this.flags["image"]), this.ui)
    this.ui.show_findings(result.findings)
    return Outcome(result.image, result, 0 if result.ok else BuildFailed.exit_code)


TASK = Task(
    "verify",
    main,
    groups=("target", "engine", "server"),
    flags=(Flag("image", "image reference to check instead of the image that was built last", takes_value=True),),
)
