"""BuildKit daemons of a recent docker, and buildx builders that reach them; nothing of it is installed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from tests.engine.services import (
    answers_socket,
    find_cache,
    find_mirror,
    refuse,
    require,
    run_service,
    unmount_below,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The packages of Debian's next release run on the current one, but would not install there.
SUITE = "forky"
PACKAGES = ("docker.io", "docker-cli", "containerd", "docker-buildx")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_APT = """\
Dir::State "{folder}/state"; Dir::State::Lists "{folder}/lists"; Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache"; Dir::Etc::SourceList "{folder}/sources.list"; Dir::Etc::SourceParts "/dev/null";
Acquire::Languages "none"; APT::Sandbox::User "root";
"""


class Buildkit(NamedTuple):
    """A daemon, and the socket on which a builder with `--driver remote` reaches it."""

    daemon: subprocess.Popen[bytes]
    socket: Path


def fetch_docker() -> Path:
    """Return the root folder of unpacked packages, which are kept between runs."""
    root = find_cache() / f"docker-{SUITE}"
    if root.exists():
        return root
    partial = find_cache() / f"docker-{SUITE}-{os.getpid()}"
    try:
        _unpack_packages(partial / "apt", partial / "root")
        (partial / "root").rename(root)
    finally:
        shutil.rmtree(partial)
    return root


def _unpack_packages(apt: Path, root: Path) -> None:
    """Unpack the packages with a configuration that leaves the machine's own packages alone."""
    for folder in ("lists/partial", "cache/archives/partial", "state"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "apt.conf").write_text(_APT.format(folder=apt))
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {find_mirror()} {SUITE} main\n")
    environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
    for command in (["update", "-qq"], ["download", "-qq", *PACKAGES]):
        done = subprocess.run(["apt-get", *command], cwd=apt, env=environment, capture_output=True, check=False)
        if done.returncode:
            refuse(f"docker of {SUITE} cannot be had: {done.stderr.decode()[-500:]}")
    for package in apt.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, root], check=True)


def make_environment(folder: Path) -> dict[str, str]:
    """Return the environment in which the recent docker and its buildx are found, configured in `folder`."""
    root = fetch_docker()
    plugins = folder / "config/cli-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    plugin = plugins / "docker-buildx"
    plugin.unlink(missing_ok=True)
    plugin.symlink_to(root / "usr/libexec/docker/cli-plugins/docker-buildx")
    inherited = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
    path = os.pathsep.join([str(root / "usr/bin"), str(root / "usr/sbin"), os.environ["PATH"]])
    return {**inherited, "PATH": path, "DOCKER_CONFIG": str(folder / "config")}


@contextlib.contextmanager
def run_buildkit(folder: Path, environment: dict[str, str], bridge: str = "none") -> Iterator[Buildkit]:
    """Yield the BuildKit of a dockerd that lives in `folder`.

    Without a bridge, it has no network: RUN steps need `--network none`.
    """
    require("runc", "socat")
    folder.mkdir()
    (folder / "daemon.json").write_text(json.dumps({"features": {"containerd-snapshotter": True}}))
    host, bridged, log = folder / "d.sock", folder / "bk.sock", folder / "log"
    command = ["dockerd", f"--config-file={folder}/daemon.json", f"--data-root={folder}/data", f"--host=unix://{host}"]
    command += [f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
    command += [f"--bridge={bridge}", "--iptables=false", "--ip6tables=false"]
    own = {**environment, "DOCKER_HOST": f"unix://{host}"}
    relay = ["socat", f"UNIX-LISTEN:{bridged},fork", "EXEC:docker buildx --builder default dial-stdio"]
    try:
        with run_service(command, log, environment) as daemon:
            if not wait_until(lambda: answers_socket(host), daemon):
                refuse(f"dockerd of {SUITE} does not start here: {log.read_text(errors='replace')[-500:]}")
            with run_service(relay, folder / "bridge.log", own) as process:
                assert wait_until(bridged.exists, process)
                yield Buildkit(daemon, bridged)
    finally:
        unmount_below(folder)


@contextlib.contextmanager
def create_bridge() -> Iterator[str]:
    """Yield the name of a bridge that leads nowhere: enough for steps that expect a network and need none."""
    require("ip")
    name = f"rb{os.getpid()}"
    if subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True, check=False).returncode:
        refuse("a bridge cannot be created here")
    try:
        subprocess.run(["ip", "addr", "add", "198.18.77.1/24", "dev", name], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


def create_builder(folder: Path, environment: dict[str, str]) -> None:
    """Create a buildx builder that has the folder's name, for the daemon that is going to run there.

    Once something listens on the socket, this takes 20 s.
    """
    command = ["docker", "buildx", "create", f"--name={folder.name}", "--driver=remote", f"unix://{folder}/bk.sock"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
