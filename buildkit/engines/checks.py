"""Checks of an image against its contract: its configuration, and commands run inside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from buildkit.contract import GIT_REF, GIT_SHA, UID, USER, WORKSPACE
from buildkit.engines.leaks import find_leaks
from buildkit.errors import BuildFailed
from buildkit.models import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.contract import ImageContract
    from buildkit.engines.container import ImageConfig

_LABEL_PREFIX = "org.opencontainers.image."
_LABELS = ("revision", "version", "base.name")
# A checkout without a remote has no source, one without a commit no time.
_LABELS_IF_KNOWN = ("source", "created")
_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")


@dataclass(frozen=True)
class Probe:
    """A shell command that runs inside as the image's user, and what it must print."""

    subject: str
    script: str
    expected: str
    fix: str


def check_config(image: ImageConfig, contract: ImageContract) -> Iterator[Finding]:
    """Yield what the image's configuration says, compared with the contract."""
    tini, *rest = image.entrypoint or ("",)
    entrypoint_ok = PurePosixPath(tini).name == "tini" and tuple(rest) == ("--", *contract.server)
    yield _judge("entrypoint", entrypoint_ok, " ".join(image.entrypoint), f"tini -- {' '.join(contract.server)}")
    yield _compare("command", " ".join(image.command), " ".join(contract.address))
    yield _compare("working directory", image.workdir, contract.start.folder)
    yield _judge("port", f"{contract.port}/tcp" in image.ports, ", ".join(sorted(image.ports)), f"{contract.port}/tcp")
    for name in ("LANG", "LC_ALL"):
        yield _compare(name, image.environment.get(name, ""), "C.UTF-8")
    yield from _check_origin(image, contract)
    leaks = find_leaks(image)
    yield _judge("no secret", not leaks, "; ".join(leaks) or "none in environment, labels and history", "none")


def list_probes(contract: ImageContract) -> Iterator[Probe]:
    """Yield the commands to run inside."""
    ids = f"{UID}:{UID}"
    yield Probe("user", "id -un", USER, f"end the image with USER {USER}")
    yield Probe("uid and gid", 'echo "$(id -u):$(id -g)"', ids, f"create the user with uid and gid {UID}")
    yield Probe("sudo without a password", "sudo -n id -u", "0", "install sudo and a file in /etc/sudoers.d")
    yield Probe(WORKSPACE, f"stat -c %u:%g {WORKSPACE}", ids, f"chown it to {ids}")
    for tool in ("tini", "tmux", "git", "curl"):
        script = f"command -v {tool} >/dev/null && echo present || echo missing"
        yield Probe(tool, script, "present", f"install {tool} in the base stage")
    authorities = " || ".join(f"test -s {path}" for path in _AUTHORITIES)
    yield Probe("ca-certificates", f"{{ {authorities}; }} && echo present", "present", "install ca-certificates")
    yield _probe_server(contract)


def _probe_server(contract: ImageContract) -> Probe:
    """Return the probe that shows, without starting the server, whether it can be started."""
    program, module = contract.server[0], contract.start.module
    if contract.target.is_binary and contract.takes_address:
        script = f"{program} --help >/dev/null && echo starts"
        return Probe(f"{contract.server_name} --help", script, "starts", "run it in the image and read its output")
    if contract.target.is_binary or module is None:
        script = f"test -x {program} && echo present || echo missing"
        return Probe(PurePosixPath(program).name, script, "present", "set SERVER_COMMAND to a program that exists")
    script = f"{program} -c 'import {module}' && echo imported"
    return Probe(f"import {module}", script, "imported", "run the import in the image and read why")


def judge_probe(probe: Probe, *, stdout: str, stderr: str) -> Finding:
    """Return whether the probe printed what it must; if not, the last line that it printed."""
    ok = stdout == probe.expected
    said = stdout if ok else (stderr or stdout or "nothing").rpartition("\n")[2]
    return report(probe.subject, ok, said, probe.fix)


def report(subject: str, ok: bool, detail: str, fix: str) -> Finding:
    """Return a finding about an image; a broken contract counts as a failed build."""
    return Finding(subject, ok, detail, "" if ok else fix, BuildFailed.exit_code)


def _check_origin(image: ImageConfig, contract: ImageContract) -> Iterator[Finding]:
    """Yield whether the environment and the labels name the commit."""
    sha = image.environment.get(GIT_SHA, "")
    yield _judge(GIT_SHA, bool(sha) and contract.sha in (None, sha), sha, contract.sha or "a commit")
    ref = image.environment.get(GIT_REF, "")
    yield _judge(GIT_REF, bool(ref), ref, "a branch, a tag or the commit")
    missing = [name for name in (*_LABELS, *_LABELS_IF_KNOWN) if not image.labels.get(_LABEL_PREFIX + name)]
    detail = f"without {', '.join(missing)}" if missing else "complete"
    yield _judge("labels", not set(missing) & set(_LABELS), detail, ", ".join(_LABELS))
    if contract.sha:
        yield _compare("revision label", image.labels.get(f"{_LABEL_PREFIX}revision", ""), contract.sha)


def _compare(subject: str, found: str, expected: str) -> Finding:
    return _judge(subject, found == expected, found, expected)


def _judge(subject: str, ok: bool, found: str, expected: str) -> Finding:
    return report(subject, ok, found or "not set", f"the Dockerfile must give {expected}")
