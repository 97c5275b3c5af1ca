"""Step `verify`: the contract of the image, held against real containers of it."""

from __future__ import annotations

import dataclasses
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit.display import escape_controls
from buildkit.engines.container import inspect_image, start_container
from buildkit.engines.contract import BROKEN, ImageContract, check_config, judge_probe, list_probes
from buildkit.errors import BuildFailed, NotStarted
from buildkit.models import Finding, Verification
from buildkit.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from buildkit.engines.container import Container, ImageConfig
    from buildkit.engines.engine import Engine

    Report = Callable[[str], None]

# Where callers on Kubernetes put the server; any port but the image's own would do.
_OTHER_PORT = 60000
_PROBE_TIMEOUT_S = 180.0
_POLL_INTERVAL_S = 0.2
_STOP_LIMIT_S = 2.0
_HEALTH = "/health"
_FURTHER_ENDPOINTS = ("/alive", "/ready")
_SHOWN_LOG = 400


@dataclass(frozen=True)
class _Served:
    """How one start of the server went."""

    findings: list[Finding]
    health_s: float | None
    stop_s: float | None


def verify_image(
    engine: Engine,
    image: str,
    *,
    target: str,
    server_module: str,
    server_name: str,
    port: int,
    expected_sha: str | None,
    user: str = "openhands",
    health_timeout_s: float = 60.0,
    report: Report,
) -> Verification:
    """Return what was found of the image: every finding, `ok` only where all of them are.

    Its containers have no network but a loopback of their own, so nothing is exposed and no port can be taken.

    Args:
        expected_sha: The commit it should carry; None where it is not known.
        health_timeout_s: Seconds from the start of a container to its answer on `/health`.
        report: Gets a line for each thing begun.

    Raises:
        SettingError: `image` is no image reference.
        NotStarted: The engine cannot run containers, or has no such image.
    """
    if engine.name == "buildah":
        raise NotStarted(
            "buildah builds images and runs none with their entrypoint",
            "set ENGINE=podman, which sees buildah's images (on Debian: `apt-get install podman`), or ENGINE=docker",
        )
    parse_reference(image, "--image")
    contract = ImageContract(target, server_module, server_name, port, user, expected_sha)
    report(f"looking at {image} with {engine}")
    config = inspect_image(engine, image)
    findings = list(check_config(config, contract))
    report("looking inside")
    findings += _probe_inside(engine, image, contract)
    report(f"starting the server on port {port}")
    served = _serve(engine, image, config, port=port, health_timeout_s=health_timeout_s)
    report(f"starting the server on port {_OTHER_PORT}")
    # As docker run -p needs it: every address of the container.
    arguments = ("--host", "0.0.0.0", "--port", str(_OTHER_PORT))  # noqa: S104
    moved = _serve(engine, image, config, port=_OTHER_PORT, arguments=arguments, health_timeout_s=health_timeout_s)
    findings += served.findings + moved.findings
    findings = [dataclasses.replace(finding, detail=escape_controls(finding.detail)) for finding in findings]
    ok = all(finding.ok for finding in findings)
    return Verification(image, engine.name, target, ok, findings, served.health_s, served.stop_s)


def _probe_inside(engine: Engine, image: str, contract: ImageContract) -> Iterator[Finding]:
    """Yield the findings of every probe, in a container that only sleeps."""
    try:
        yield from _enter_probes(engine, image, contract)
    except BuildFailed as refusal:
        yield _found("start of a shell", False, refusal.message, refusal.fix)


def _enter_probes(engine: Engine, image: str, contract: ImageContract) -> Iterator[Finding]:
    with start_container(engine, image, ("-c", "sleep 3600"), entrypoint="/bin/sh") as container:
        for probe in list_probes(contract):
            output = container.enter("/bin/sh", "-c", probe.script, timeout_s=_PROBE_TIMEOUT_S)
            yield judge_probe(probe, stdout=output.stdout, stderr=output.stderr)


def _serve(
    engine: Engine,
    image: str,
    config: ImageConfig,
    *,
    port: int,
    arguments: Sequence[str] = (),
    health_timeout_s: float,
) -> _Served:
    """Return the findings of one start: it answers, tini is its first process, it stops when it is told to."""
    key = secrets.token_urlsafe(32)
    environment = {"SESSION_API_KEY": key, "OH_SESSION_API_KEYS_0": key}
    started = time.monotonic()
    deadline = started + health_timeout_s
    try:
        with start_container(engine, image, arguments, environment=environment) as container:
            answers = {_HEALTH: _await_answer(container, port, _HEALTH, deadline)}
            health_s = round(time.monotonic() - started, 2)
            answers |= {path: _await_answer(container, port, path, deadline) for path in _FURTHER_ENDPOINTS}
            log = _read_end(container, key)
            findings = [_judge_answer(path, port, answer, log) for path, answer in answers.items()]
            findings.append(_check_first_process(container, port))
            findings += _check_health_command(container, config, port)
            stop_s, code = container.stop()
    except BuildFailed as refusal:
        return _Served([_found(f"start on port {port}", False, refusal.message, refusal.fix)], None, None)
    findings.append(_judge_stop(port, stop_s, code))
    return _Served(findings, health_s if findings[0].ok else None, stop_s)


def _judge_answer(path: str, port: int, answer: str, log: str) -> Finding:
    ok = answer == "200"
    return _found(f"{path} on port {port}", ok, answer if ok else f"{answer}; log: {log}", "read the server's log")


def _judge_stop(port: int, stop_s: float, code: int) -> Finding:
    fix = f"end within {_STOP_LIMIT_S:.0f} s of SIGTERM, with exit code 0 or 143"
    return _found(
        f"stop on port {port}", stop_s <= _STOP_LIMIT_S and code in (0, 143), f"{stop_s} s, exit code {code}", fix
    )


def _await_answer(container: Container, port: int, path: str, deadline: float) -> str:
    """Return the HTTP status that the server last gave, `200` as soon as it does; curl's words where it gives none.

    Asked at 127.0.0.2: a server that listens on 127.0.0.1 alone does not answer there, nor would it to `docker run -p`.
    """
    url = f"http://127.0.0.2:{port}{path}"
    command = ("curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url)
    while True:
        output = container.enter(*command)
        answer = output.stdout.rpartition("\n")[2] if output.code == 0 else output.stderr or output.stdout
        if answer == "200" or time.monotonic() > deadline or not container.is_running():
            return answer
        time.sleep(_POLL_INTERVAL_S)


def _check_first_process(container: Container, port: int) -> Finding:
    name = container.enter("cat", "/proc/1/comm").stdout
    return _found(
        f"tini is PID 1 on port {port}", name == "tini", name or "nothing runs", "put tini first in ENTRYPOINT"
    )


def _check_health_command(container: Container, config: ImageConfig, port: int) -> Iterator[Finding]:
    """Yield whether the image's own HEALTHCHECK, where it has one, says that this server is healthy."""
    kind, *words = config.healthcheck or ("NONE",)
    if kind in ("CMD", "CMD-SHELL"):
        output = container.enter(*(words if kind == "CMD" else ("/bin/sh", "-c", *words)))
        said = output.stderr or output.stdout
        detail = f"exit code {output.code}" + (f": {said}" if output.code and said else "")
        yield _found(f"HEALTHCHECK on port {port}", output.code == 0, detail, "let it ask the port that --port gives")


def _read_end(container: Container, key: str) -> str:
    """Return the end of the container's log, without the session key."""
    return " | ".join(container.read_log().replace(key, "***").splitlines())[-_SHOWN_LOG:]


def _found(subject: str, ok: bool, detail: str, fix: str) -> Finding:
    return Finding(subject, ok, detail, "" if ok else fix, BROKEN)
