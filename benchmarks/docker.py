"""A docker engine and a registry in a temporary folder. Needs root, `docker`, `dockerd` and `docker-registry`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BASE = "localhost/base:1"
_START_S = 60.0
_STOP_S = 20.0
_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
# Package clients in an imported base trust the authorities in it: the machine may be behind a proxy that has its own.
_TRUST = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS")


@dataclass(frozen=True)
class Docker:
    """An engine that has the base image and nothing else, and an empty registry.

    Attributes:
        environment: What leads docker's client to this engine.
        registry: Host and port.
        folder: Gone in the end, like everything else.
    """

    environment: dict[str, str]
    registry: str
    folder: Path

    def run(self, *arguments: str) -> str:
        """Return what a docker command printed, stripped."""
        environment = os.environ | self.environment
        done = subprocess.run(["docker", *arguments], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"error: docker {arguments[0]}: {done.stderr.strip()}")
        return done.stdout.strip()

    def inspect(self, image: str) -> dict[str, Any]:
        """Return the engine's description of an image."""
        inspected: list[dict[str, Any]] = json.loads(self.run("image", "inspect", image))
        return inspected[0]

    @property
    def version(self) -> str:
        """Version of the engine."""
        return self.run("version", "--format", "{{.Server.Version}}")


@contextmanager
def run_docker(base: str) -> Iterator[Docker]:
    """Yield a fresh engine.

    Args:
        base: The base image: a reference to pull, or the path of a root file system as a tarball.

    Raises:
        SystemExit: An engine cannot run here.
    """
    missing = [program for program in ("docker", "dockerd", "docker-registry") if shutil.which(program) is None]
    if missing or os.geteuid():
        sys.exit(f"error: {', '.join(missing) + ' not installed' if missing else 'an engine needs root'}")
    folder = Path(tempfile.mkdtemp(prefix="rb-"))  # short: the path of a socket has at most 107 characters
    try:
        with ExitStack() as stack:
            engine = stack.enter_context(_run_services(folder))
            if Path(base).is_file():
                changes = [f"--change=ENV {name}={_AUTHORITIES}" for name in _TRUST]
                engine.run("import", "--change=ENV UV_SYSTEM_CERTS=1", *changes, base, BASE)
            else:
                engine.run("pull", base)
                engine.run("tag", base, BASE)
            yield engine
    finally:
        _unmount_below(folder)
        shutil.rmtree(folder)


@contextmanager
def _run_services(folder: Path) -> Iterator[Docker]:
    host, config = f"unix://{folder}/docker.sock", folder / "config"
    config.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        registry = f"127.0.0.1:{free.getsockname()[1]}"
    settings = folder / "registry.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: warn}}\nhttp: {{addr: '{registry}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: '{folder}/registry'}}}}\n"
    )
    # Without a bridge, RUN steps use the host's network.
    dockerd = ["dockerd", f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
    dockerd += [f"--host={host}", "--bridge=none", "--iptables=false", "--ip6tables=false"]
    engine = Docker({"DOCKER_HOST": host, "DOCKER_CONFIG": str(config)}, registry, folder)
    with (
        _run_service(dockerd, folder / "dockerd.log", folder / "docker.sock"),
        _run_service(["docker-registry", "serve", str(settings)], folder / "registry.log", registry),
    ):
        yield engine


@contextmanager
def _run_service(command: Sequence[str], log: Path, address: Path | str) -> Iterator[None]:
    """Run a background process from when it listens at the address until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_S
        while not _listens(address):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"error: {command[0]} does not start here: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(address: Path | str) -> bool:
    if isinstance(address, Path):
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(address)) == 0
    host, _, port = address.partition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def _unmount_below(folder: Path) -> None:
    """Unmount what the engine has left mounted, or the folder could not be removed."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)
