"""A container engine, a registry and base images of the tests' own: made here, started here, stopped here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol
from urllib.error import URLError

import pytest

from buildkit.engines.options import BuildOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from buildkit.engines.engine import Engine
    from buildkit.engines.options import BuiltImage

SUITE = "trixie"
# PyInstaller wants binutils and the shared library, which public Python images have.
PACKAGES = "binutils,ca-certificates,libpython3.13,python3,python3-venv"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
# Package clients inside the base trust the machine's authorities, too: it may stand behind a proxy that has its own.
TRUST_VARIABLES = {
    "SSL_CERT_FILE": str(AUTHORITIES),
    "REQUESTS_CA_BUNDLE": str(AUTHORITIES),
    "PIP_CERT": str(AUTHORITIES),
    "NODE_EXTRA_CA_CERTS": str(AUTHORITIES),
    "UV_SYSTEM_CERTS": "1",
}


class MakeArchive(Protocol):
    """Packs file contents by name into a `.tar.gz`."""

    def __call__(self, files: Mapping[str, str]) -> Path: ...


def build_image(
    engine: Engine, archive: Path, image: str, options: BuildOptions | None = None, log: list[str] | None = None
) -> BuiltImage:
    """Return the image that an engine builds from an archive; its log goes to `log`."""
    with archive.open("rb") as file:
        return engine.build(
            file.fileno(), [image], options or BuildOptions(), (list[str]() if log is None else log).append
        )


def try_inside(engine: Engine, image: str, script: str) -> bool:
    command = ("run", "--rm", "--network=none", "--entrypoint=/bin/sh", image, "-c", script)
    return engine.run(*command).code == 0


def require(*programs: str) -> None:
    """Skip the test, naming the reason, where the machine cannot run it; in CI that is a failure."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        refuse(f"{', '.join(missing)} not installed; `bash tests/install.sh` brings what is needed")
    if os.geteuid():
        refuse("an engine of the tests' own needs root")


def refuse(reason: str) -> NoReturn:
    if os.environ.get("RUNTIME_BUILD_REQUIRE_ENGINE") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def run_service(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a background process, stopped by its own pid at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def run_dockerd(folder: Path) -> Iterator[str]:
    """Yield DOCKER_HOST of an engine that lives in `folder` and has no bridge: builds need the host's network."""
    require("dockerd")
    host = f"unix://{folder}/docker.sock"
    command = ["dockerd", f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
    command += [f"--host={host}", "--bridge=none", "--iptables=false", "--ip6tables=false"]
    log = folder / "log"
    with run_service(command, log) as process:
        if not wait_until(lambda: answers_socket(folder / "docker.sock"), process):
            refuse(f"dockerd does not start here: {log.read_text(errors='replace')[-500:]}")
        yield host
    unmount_below(folder)


@contextlib.contextmanager
def run_registry(folder: Path) -> Iterator[str]:
    """Yield `127.0.0.1:port` of an empty registry."""
    require("docker-registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: warn}}\nhttp: {{addr: '{address}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: '{folder}/registry'}}}}\n"
    )
    log = folder / "registry.log"
    with run_service(["docker-registry", "serve", str(config)], log) as process:
        if not wait_until(lambda: answers_http(f"http://{address}/v2/"), process):
            refuse(f"docker-registry does not start here: {log.read_text(errors='replace')[-500:]}")
        yield address


def wait_until(is_ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> bool:
    """Return whether `is_ready()` came true before the process ended or its time was up."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if is_ready():
            return True
        time.sleep(0.1)
    return False


def answers_socket(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def answers_http(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def unmount_below(folder: Path) -> None:
    """Unmount what an engine has left mounted in its own folder, or the folder could not be removed."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)


def make_tiny_rootfs(folder: Path) -> Path:
    """Return a tarball of a root file system that holds one static shell: images from it take no time."""
    require("busybox")
    root = folder / "tiny"
    (root / "bin").mkdir(parents=True)
    (root / "tmp").mkdir()
    shutil.copy(os.path.realpath(shutil.which("busybox") or "busybox"), root / "bin/busybox")
    for applet in ("sh", "cat", "echo", "env", "id", "sleep", "true", "false", "touch"):
        (root / "bin" / applet).symlink_to("busybox")
    tarball = folder / "tiny.tar"
    subprocess.run(["tar", "-C", root, "-cf", tarball, "."], check=True)
    return tarball


def make_base_rootfs() -> Path:
    """Return a tarball of a Debian with Python, from the machine's own mirror; kept in the user's cache folder."""
    cache = find_cache()
    recipe = hashlib.sha256(f"{SUITE} {PACKAGES}".encode() + AUTHORITIES.read_bytes()).hexdigest()[:16]
    tarball = cache / f"base-{SUITE}-{recipe}.tar"
    if tarball.exists():
        return tarball
    require("debootstrap")
    root = cache / f"root-{os.getpid()}"
    partial = cache / f"base-{os.getpid()}.partial"
    try:
        run = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root), find_mirror()]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        if done.returncode:
            refuse(f"debootstrap cannot make a base image here: {done.stdout[-500:]}{done.stderr[-500:]}")
        add_authorities(root)
        subprocess.run(["tar", "-C", root, "--exclude=./var/cache/apt/archives/*.deb", "-cf", partial, "."], check=True)
        partial.rename(tarball)
    finally:
        unmount_below(root)
        shutil.rmtree(root, ignore_errors=True)
        partial.unlink(missing_ok=True)
    return tarball


def import_image(engine: Engine, rootfs: Path, image: str, environment: Mapping[str, str]) -> str:
    """Return `image`, made of a root file system and what its configuration says besides."""
    changes = [f"--change=ENV {name}={value}" for name, value in environment.items()]
    output = engine.run("import", *changes, str(rootfs), image, timeout_s=300)
    assert output.code == 0, output.stderr
    return image


@contextlib.contextmanager
def install_buildx(engine: Engine, base: str, config: Path) -> Iterator[None]:
    """Have the buildx plugin in a docker configuration for as long as the block lasts."""
    plugin = config / "cli-plugins/docker-buildx"
    plugin.parent.mkdir(exist_ok=True)
    shutil.copy(fetch_buildx(engine, base), plugin)
    plugin.chmod(0o755)
    try:
        yield
    finally:
        plugin.unlink()


def fetch_buildx(engine: Engine, base: str) -> Path:
    """Return Debian's buildx plugin, taken out of its package inside a container of that Debian."""
    plugin = find_cache() / f"docker-buildx-{SUITE}"
    if plugin.exists():
        return plugin
    path = "/usr/libexec/docker/cli-plugins/docker-buildx"
    unpack = "cd /tmp && apt-get update -qq && apt-get download -qq docker-buildx && dpkg-deb -x docker-buildx_*.deb /"
    made = engine.run(
        "run", "--detach", "--network=host", base, "sh", "-c", f"{unpack} && test -x {path}", timeout_s=300
    )
    container = made.stdout
    try:
        waited = engine.run("wait", container, timeout_s=300)
        if waited.stdout != "0":
            refuse(f"the buildx plugin cannot be had: {engine.run('logs', container).stderr[-500:]}")
        partial = plugin.with_suffix(f".{os.getpid()}")
        engine.run("cp", f"{container}:{path}", str(partial))
        partial.rename(plugin)
    finally:
        engine.run("rm", "--force", container)
    return plugin


def find_cache() -> Path:
    """Return the folder where what takes long to make is kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runtime-build-tests"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def add_authorities(root: Path) -> None:
    """Give the machine's own certificate authorities to the root file system."""
    own = Path("/usr/local/share/ca-certificates")
    shutil.copytree(own, root / "usr/local/share/ca-certificates", dirs_exist_ok=True)
    subprocess.run(["chroot", root, "update-ca-certificates"], check=True, capture_output=True)


def find_mirror() -> str:
    """Return the Debian mirror that this machine's apt is set to; its lists of packages need not be here."""
    listed = subprocess.run(["apt-get", "update", "--print-uris"], capture_output=True, text=True, check=True).stdout
    # A suite of letters alone is the distribution itself; updates and security have a hyphen or a slash behind it.
    mirror = re.search(r"'(\S+?)/?/dists/[a-z]+/InRelease'", listed)
    if mirror is None:
        refuse("apt knows no Debian mirror; look into /etc/apt/sources.list.d")
    return mirror[1]
