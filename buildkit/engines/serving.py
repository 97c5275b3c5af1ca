"""One start of a server in a container: whether it responds and stops, and if not, why and what to do about it."""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

from buildkit.advice import advise_start
from buildkit.contract import SESSION_VARIABLES
from buildkit.engines.checks import report
from buildkit.engines.container import start_container
from buildkit.errors import BuildFailed, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from buildkit.contract import ImageContract
    from buildkit.engines.container import Container, ImageConfig
    from buildkit.engines.engine import Engine
    from buildkit.models import Finding

_POLL_INTERVAL_S = 0.2
_STOP_LIMIT_S = 2.0
# A server behind a key is alive if it asks for the key; as in programs/health.sh.
_ALIVE = re.compile(r"[23]\d\d|401|403")
_STATUS = re.compile(r"[1-5]\d\d")
_SHOWN_LOG = 600
_SHORTEST_SECRET = 8
# The local address of a socket in state 0A (https://docs.kernel.org/networking/proc_net_tcp.html).
_LISTENING = re.compile(r"^ *\d+: ([0-9A-F]+):([0-9A-F]+) [0-9A-F:]+ 0A ", re.MULTILINE)
_LOOPBACK = {"0100007F": "127.0.0.1", "00000000000000000000000001000000": "[::1]"}


class Candidate(NamedTuple):
    """An image to check, where it may be found, and the variables that its containers get."""

    engine: Engine
    image: str
    contract: ImageContract
    config: ImageConfig
    health_timeout_s: float
    environment: Mapping[str, str]


class Served(NamedTuple):
    """How one start of the server went."""

    findings: list[Finding]
    health_s: float | None = None
    stop_s: float | None = None


def serve(candidate: Candidate, port: int, *arguments: str) -> Served:
    """Return the findings of one start: the server responds, tini is its first process, it stops when it is told to."""
    key = secrets.token_urlsafe(32)
    environment = {**candidate.environment, **dict.fromkeys(SESSION_VARIABLES, key)}
    started = time.monotonic()
    deadline = started + candidate.health_timeout_s
    try:
        with start_container(candidate.engine, candidate.image, arguments, environment=environment) as container:
            health, *others = candidate.contract.endpoints
            statuses = {health: _await_status(container, port, health, deadline)}
            health_s = round(time.monotonic() - started, 2)
            statuses |= {path: _await_status(container, port, path, deadline) for path in others}
            log = _mask(container.read_log(), environment.values())
            findings = [_judge(container, (port, path), status, log) for path, status in statuses.items()]
            if not container.is_running():
                return Served(findings)  # there is nothing else to ask
            findings.append(_check_first_process(container, port))
            fix = findings[0].fix or "let it check the port that --port gives"
            findings += _check_health_command(container, candidate.config, port, fix)
            stop_s, code = container.stop()
    except BuildFailed as refusal:
        return Served([report(f"start on port {port}", False, refusal.message, refusal.fix)])
    fix = f"exit within {_STOP_LIMIT_S:.0f} s of SIGTERM, with exit code 0 or 143"
    stopped = stop_s <= _STOP_LIMIT_S and code in (0, 143)
    findings.append(report(f"stop on port {port}", stopped, f"{stop_s} s, exit code {code}", fix))
    return Served(findings, health_s if findings[0].ok else None, stop_s)


def _await_status(container: Container, port: int, path: str, deadline: float) -> str:
    """Return the HTTP status of the server's last response, a good one as soon as it comes, or curl's error message."""
    while True:
        status = _ask(container, port, path)
        if _ALIVE.fullmatch(status) or time.monotonic() > deadline or not container.is_running():
            return status
        time.sleep(_POLL_INTERVAL_S)


def _ask(container: Container, port: int, path: str) -> str:
    """Return the HTTP status of one response, or curl's error message.

    The address is 127.0.0.2: a server that listens only on 127.0.0.1 does not respond there, nor to `docker run -p`.
    Servers that respond to a few host names only are asked for the one that the image's own health check has.
    """
    url = f"http://127.0.0.2:{port}{path}"
    command = ("curl", "-sS", "-m", "5", "-H", f"Host: 127.0.0.1:{port}", "-o", "/dev/null", "-w", "%{http_code}", url)
    output = container.enter(*command)
    return output.stdout.rpartition("\n")[2] if output.code == 0 else output.stderr or output.stdout


def _judge(container: Container, place: tuple[int, str], status: str, log: str) -> Finding:
    """Return whether the server is alive at a port and path; if not, what its own log says."""
    port, path = place
    subject = f"{path} on port {port}"
    if _ALIVE.fullmatch(status):
        return report(subject, True, status, "")
    if _STATUS.fullmatch(status):
        reason, fix = f"HTTP {status}", _explain_response(container, port, status, log)
    elif container.is_running():
        addresses = _list_addresses(container)
        reason = f"{status}; the server listens on {', '.join(addresses) or 'no port'}"
        fix = _explain_silence(addresses, port, log)
    else:
        reason, fix = f"the server has ended with exit code {container.read_exit_code()}", _explain_end(log)
    shown = " | ".join(log.splitlines())[-_SHOWN_LOG:]
    return report(subject, False, f"{reason}; log: {shown or 'empty'}", fix)


def _explain_response(container: Container, port: int, status: str, log: str) -> str:
    """Return what to do about a server that responds, but not as it should."""
    if status.startswith("5"):
        return _explain_end(log)
    if status == "400":
        path = "set HEALTH_PATH to a path that it responds to"
        return f"{path} or, if it has a list of allowed hosts, add 127.0.0.1 to it; {_configure()}"
    if _ALIVE.fullmatch(found := _ask(container, port, "/")):
        return f"the server responds to / with {found}: set HEALTH_PATH=/, or another path that it has"
    return "the server is up: set HEALTH_PATH to a path that it responds to"


def _explain_silence(addresses: list[str], port: int, log: str) -> str:
    """Return what to do about a server that runs, but cannot be reached."""
    ports = {address.rpartition(":")[2] for address in addresses}
    other = next(iter(ports)) if len(ports) == 1 and str(port) not in ports else None
    if other and not any(address.startswith(("127.", "[::1]")) for address in addresses):
        return f"set SERVER_PORT={other} and SERVER_COMMAND, not SERVER_MODULE, or add the option for port {port} to it"
    if addresses:
        return f"add the options for address 0.0.0.0 and port {port} to SERVER_COMMAND"
    return _explain_end(log)


def _explain_end(log: str) -> str:
    """Return what to do about what the log says."""
    return advise_start(log) or f"read the log; {_configure()}"


def _configure() -> str:
    command = run("verify", "--env-file", "FILE")
    return f"if the server needs its own configuration, write NAME=value lines to a file and give it with {command}"


def _list_addresses(container: Container) -> list[str]:
    """Return what the processes in a container listen on, such as `127.0.0.1:5232` or `*:8000`."""
    found = set()
    sockets = container.enter("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout
    for host, port in _LISTENING.findall(sockets):
        found.add(f"{_LOOPBACK.get(host, '*')}:{int(port, 16)}")
    return sorted(found)


def _mask(log: str, values: Iterable[str]) -> str:
    """Return a log without the values of variables, which may be secrets; short ones are no secrets."""
    for value in sorted(values, key=len, reverse=True):
        log = log.replace(value, "***") if len(value) >= _SHORTEST_SECRET else log
    return log


def _check_first_process(container: Container, port: int) -> Finding:
    name = container.enter("cat", "/proc/1/comm").stdout
    fix = "put tini first in ENTRYPOINT"
    return report(f"tini is PID 1 on port {port}", name == "tini", name or "nothing is running", fix)


def _check_health_command(container: Container, config: ImageConfig, port: int, fix: str) -> Iterator[Finding]:
    """Yield whether the image's own HEALTHCHECK, if it has one, reports that this server is healthy."""
    kind, *words = config.healthcheck or ("NONE",)
    if kind in ("CMD", "CMD-SHELL"):
        output = container.enter(*(words if kind == "CMD" else ("/bin/sh", "-c", *words)))
        said = output.stderr or output.stdout
        detail = f"exit code {output.code}" + (f": {said}" if output.code and said else "")
        yield report(f"HEALTHCHECK on port {port}", output.code == 0, detail, fix)
