"""Base images that differ as those of an evaluation do: distributions, bare, with some tools, with everything."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.rebuilds import stop, tell
from tests.engine.buildkits import create_builder, run_buildkit
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
    "node": "nodejs",
    "tools": "ca-certificates curl git less vim-tiny",
    "compiler": "gcc libc6-dev make",
    "complete": COMPLETE,
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
    names = [f"bases/{path.stem}:{variant}" for path in rootfs for variant in _VARIANTS]
    bases = Bases(names, [f"bases/builder:{number}" for number in range(_BUILDERS)])
    files = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in (*rootfs, builder)]
    identity = hashlib.sha256(repr((files, _VARIANTS, _BUILDERS)).encode()).hexdigest()[:16]
    kept = find_cache() / f"bases-{identity}"
    if not kept.exists():
        maker = folder / "maker"
        maker.mkdir()
        _push_all(maker, environment, rootfs, builder)
        shutil.copytree(maker / "registry", kept)
        unmount_below(maker)
        shutil.rmtree(maker)
    subprocess.run(["cp", "-al", kept, folder / "registry"], check=True)  # a registry replaces files, it changes none
    return bases


def _push_all(folder: Path, environment: Mapping[str, str], rootfs: Sequence[Path], builder: Path) -> None:
    create_builder(folder / "engine", dict(environment))
    own = {**environment, "DOCKER_HOST": f"unix://{folder}/engine/d.sock"}
    with run_buildkit(folder / "engine", dict(environment)), run_registry(folder) as registry:
        for path in (*rootfs, builder):
            changes = [f"--change=ENV {name}={value}" for name, value in TRUST_VARIABLES.items()]
            run_docker(own, "import", *changes, str(path), f"localhost/rootfs:{path.stem}")
        for path in rootfs:
            for variant, packages in _VARIANTS.items():
                step = _INSTALL.format(packages) if packages else "true"
                _push(
                    own, f"FROM localhost/rootfs:{path.stem}\nRUN {step}\n", f"{registry}/bases/{path.stem}:{variant}"
                )
        for number in range(_BUILDERS):
            dockerfile = f"FROM localhost/rootfs:{builder.stem}\nRUN echo {number} >/etc/base-number\n"
            _push(own, dockerfile, f"{registry}/bases/builder:{number}")


def _push(environment: Mapping[str, str], dockerfile: str, image: str) -> None:
    run_docker(environment, "build", "--network=host", f"--tag={image}", "-", stdin=dockerfile)
    run_docker(environment, "push", image)
    tell(f"made {image.partition('/')[2]}")


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
