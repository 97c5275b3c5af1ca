"""The contract of the image: what those who start it rely on, and an image's own words held against it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from buildkit.engines.leak import find_leaks
from buildkit.models import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.engines.container import ImageConfig

UID = 10001
BROKEN = 6
_LABEL_PREFIX = "org.opencontainers.image."
_LABELS = ("revision", "version", "base.name")
# A checkout without a remote has no source, one without a commit no time.
_LABELS_IF_KNOWN = ("source", "created")
_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")


@dataclass(frozen=True)
class ImageContract:
    """What is promised of an image.

    Attributes:
        server_module: Such as `openhands.agent_server`; what the source targets run.
        server_name: Such as `openhands-agent-server`; what the binary targets run.
        sha: The commit it was made from; None where it is not known.
    """

    target: str
    server_module: str
    server_name: str
    port: int
    user: str
    sha: str | None

    @property
    def server(self) -> tuple[str, ...]:
        """Return the command that tini starts."""
        if self.target.startswith("binary"):
            return (f"/usr/local/bin/{self.server_name}",)
        return ("/agent-server/.venv/bin/python", "-m", self.server_module)


@dataclass(frozen=True)
class Probe:
    """A shell command that is run inside as the image's user, and what it must print."""

    subject: str
    script: str
    expected: str
    fix: str


def check_config(image: ImageConfig, contract: ImageContract) -> Iterator[Finding]:
    """Yield what the image's configuration says, held against the contract."""
    tini, *rest = image.entrypoint or ("",)
    entrypoint_ok = PurePosixPath(tini).name == "tini" and tuple(rest) == ("--", *contract.server)
    yield _judge("entrypoint", entrypoint_ok, " ".join(image.entrypoint), f"tini -- {' '.join(contract.server)}")
    command = ("--host", "0.0.0.0", "--port", str(contract.port))  # noqa: S104 - what `docker run -p` needs
    yield _compare("command", " ".join(image.command), " ".join(command))
    yield _compare("working directory", image.workdir, "/")
    yield _judge("port", f"{contract.port}/tcp" in image.ports, ", ".join(sorted(image.ports)), f"{contract.port}/tcp")
    for name in ("LANG", "LC_ALL"):
        yield _compare(name, image.environment.get(name, ""), "C.UTF-8")
    yield from _check_origin(image, contract)
    leaks = find_leaks(image)
    yield _judge("no secret", not leaks, "; ".join(leaks) or "none in environment, labels and history", "none")


def list_probes(contract: ImageContract) -> Iterator[Probe]:
    """Yield what is to be tried inside."""
    ids = f"{UID}:{UID}"
    yield Probe("user", "id -un", contract.user, f"end the image with USER {contract.user}")
    yield Probe("uid and gid", 'echo "$(id -u):$(id -g)"', ids, f"create the user with uid and gid {UID}")
    yield Probe("sudo without a password", "sudo -n id -u", "0", "install sudo and a file in /etc/sudoers.d")
    yield Probe("/workspace/project", "stat -c %u:%g /workspace/project", ids, f"chown it to {ids}")
    for tool in ("tini", "tmux", "git", "curl"):
        script = f"command -v {tool} >/dev/null && echo present || echo missing"
        yield Probe(tool, script, "present", f"install {tool} in the base stage")
    authorities = " || ".join(f"test -s {path}" for path in _AUTHORITIES)
    yield Probe("ca-certificates", f"{{ {authorities}; }} && echo present", "present", "install ca-certificates")
    if contract.target.startswith("binary"):
        script = f"{contract.server[0]} --help >/dev/null && echo answers"
        yield Probe(f"{contract.server_name} --help", script, "answers", "run it in the image and read what it says")
    else:
        script = f"{contract.server[0]} -c 'import {contract.server_module}' && echo imported"
        yield Probe(f"import {contract.server_module}", script, "imported", "run the import in the image and read why")


def judge_probe(probe: Probe, *, stdout: str, stderr: str) -> Finding:
    """Return whether the probe printed what it must; otherwise the last thing that it said."""
    ok = stdout == probe.expected
    said = stdout if ok else (stderr or stdout or "nothing").rpartition("\n")[2]
    return Finding(probe.subject, ok, said, "" if ok else probe.fix, BROKEN)


def _check_origin(image: ImageConfig, contract: ImageContract) -> Iterator[Finding]:
    """Yield whether environment and labels say which commit this is."""
    sha = image.environment.get("OPENHANDS_BUILD_GIT_SHA", "")
    yield _judge("OPENHANDS_BUILD_GIT_SHA", bool(sha) and contract.sha in (None, sha), sha, contract.sha or "a commit")
    ref = image.environment.get("OPENHANDS_BUILD_GIT_REF", "")
    yield _judge("OPENHANDS_BUILD_GIT_REF", bool(ref), ref, "a branch or tag")
    missing = [name for name in (*_LABELS, *_LABELS_IF_KNOWN) if not image.labels.get(_LABEL_PREFIX + name)]
    detail = f"without {', '.join(missing)}" if missing else "complete"
    yield _judge("labels", not set(missing) & set(_LABELS), detail, ", ".join(_LABELS))
    if contract.sha:
        yield _compare("revision label", image.labels.get(f"{_LABEL_PREFIX}revision", ""), contract.sha)


def _compare(subject: str, found: str, expected: str) -> Finding:
    return _judge(subject, found == expected, found, expected)


def _judge(subject: str, ok: bool, found: str, expected: str) -> Finding:
    return Finding(subject, ok, found or "not set", "" if ok else f"the Dockerfile must give {expected}", BROKEN)
