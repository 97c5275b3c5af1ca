"""Base images that differ as those of an evaluation do: distributions, bare, with some tools, with everything."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.rebuilds import stop, tell
from tests.engine.buildkits import run_buildkit
from tests.engine.services import TRUST_VARIABLES, find_cache, run_registry, unmount_below

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# What our image needs of a distribution; a base image with all of it lacks nothing.
COMPLETE = "bash ca-certificates curl git procps sudo tar tini tmux xz-utils"
# The packages of each variant of a distribution.
_VARIANTS = {
    "plain": "",
    "python": "python3 python3-venv",
    "tools": "ca-certificates curl git less vim-tiny",
    "shell": "procps sudo tmux xz-utils",
    "complete": COMPLETE,
    "node": "nodejs",
    "compiler": "gcc libc6-dev make",
}
_INSTALL = "apt-get update && apt-get install -y --no-install-recommends {} && rm -rf /var/lib/apt/lists/*"
_BUILDERS = 4


class Bases(NamedTuple):
    """Base images by their names in a registry, without its address.

    Attributes:
        varied: Of every distribution, each variant; the variant is the tag.
        builders: Of the distribution that a server can be built on; they differ in one small layer.
    """

    varied: list[str]
    builders: list[str]


def make_bases(rootfs: Sequence[Path], builder: Path, folder: Path, environment: Mapping[str, str]) -> Bases:
    """Return base images made of root file systems, in the files of a registry below `folder`.

    They are made once, by an engine of their own, and kept between runs.
    """
    varied = {
        f"bases/{path.stem}:{variant}": _format_dockerfile(path, packages)
        for path in rootfs
        for variant, packages in _VARIANTS.items()
    }
    builders = {
        f"bases/builder:{number}": f"FROM localhost/rootfs:{builder.stem}\nRUN echo {number} >/etc/base-number\n"
        for number in range(_BUILDERS)
    }
    files = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in (*rootfs, builder)]
    identity = hashlib.sha256(repr((files, varied, builders)).encode()).hexdigest()[:16]
    kept = find_cache() / f"bases-{identity}"
    kept.mkdir(exist_ok=True)
    if not (kept / "complete").exists():
        _push_all(folder / "maker", kept, environment, (*rootfs, builder), varied | builders)
    subprocess.run(["cp", "-al", kept / "registry", folder], check=True)  # a registry replaces files, it changes none
    return Bases(list(varied), list(builders))


def _format_dockerfile(rootfs: Path, packages: str) -> str:
    return f"FROM localhost/rootfs:{rootfs.stem}\nRUN {_INSTALL.format(packages) if packages else 'true'}\n"


def _push_all(
    folder: Path, kept: Path, environment: Mapping[str, str], rootfs: Sequence[Path], dockerfiles: Mapping[str, str]
) -> None:
    """Make the base images that are not there yet, and keep them."""
    own = {**environment, "DOCKER_HOST": f"unix://{folder}/d.sock"}
    try:
        with run_buildkit(folder, dict(environment)), run_registry(kept) as registry:
            for path in rootfs:
                changes = [f"--change=ENV {name}={value}" for name, value in TRUST_VARIABLES.items()]
                run_docker(own, "import", *changes, str(path), f"localhost/rootfs:{path.stem}")
            for name, dockerfile in dockerfiles.items():
                repository, _, tag = name.partition(":")
                if not (
                    kept / "registry/docker/registry/v2/repositories" / repository / "_manifests/tags" / tag
                ).exists():
                    image = f"{registry}/{name}"
                    run_docker(own, "build", "--network=host", f"--tag={image}", "-", stdin=dockerfile)
                    run_docker(own, "push", image)
                    tell(f"made {name}")
        (kept / "complete").touch()
    finally:
        unmount_below(folder)
        subprocess.run(["rm", "-rf", folder], check=False)


def run_docker(environment: Mapping[str, str], *arguments: str, stdin: str = "") -> str:
    """Return what a command of docker printed.

    Raises:
        SystemExit: It failed.
    """
    done = subprocess.run(
        ["docker", *arguments], env=dict(environment), input=stdin.encode(), capture_output=True, check=False
    )
    if done.returncode:
        stop(f"docker {arguments[0]}: {done.stderr.decode()[-500:]}")
    return done.stdout.decode()
