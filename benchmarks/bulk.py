"""Many images: `images` next to a shell loop over the single tasks, with two real BuildKit daemons and a registry.

python -m benchmarks.bulk                                 this repository's example on 20 base images
python -m benchmarks.bulk --source ../agent-sdk           a checkout of one's own
python -m benchmarks.bulk --target binary-minimal --bases 6
python -m benchmarks.bulk --only memory                   only what needs no engine

Needs root, git, debootstrap, docker-registry, runc and socat, and the extra `dev`: its tests fetch a recent docker. The
base images are Debian with Python, each with a layer of its own, and any root file systems that `--rootfs` names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rebuilds import PACKAGE_ROOT, clone_checkout, stop, tell
from tests.bulk_api import run_bulk_api
from tests.engine.buildkits import create_builder, make_environment, run_buildkit
from tests.engine.services import TRUST_VARIABLES, make_base_rootfs, run_registry, unmount_below
from tests.runtime_api import KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ACCEPT = {
    "Accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json,"
    " application/vnd.docker.distribution.manifest.v2+json"
}
_PACKAGES = "bash ca-certificates curl git procps sudo tar tini tmux xz-utils"
_REPOSITORY = "out/agent-server"
_LOOPED = 3
_KNOWN = 500


@dataclass(frozen=True)
class Bench:
    """Where commands run.

    Attributes:
        environment: Of every command.
        log: The output of all commands is appended to it.
    """

    folder: Path
    source: Path
    registry: str
    environment: Mapping[str, str]
    log: Path

    def run(self, *arguments: str, **settings: str) -> float:
        """Return the seconds that a task took.

        Raises:
            SystemExit: It failed.
        """
        started = time.monotonic()
        command = [sys.executable, "-m", "buildkit", *arguments]
        environment = {**self.environment, **settings}
        with self.log.open("ab") as log:
            code = subprocess.run(
                command, cwd=self.source, env=environment, stdout=log, stderr=log, check=False
            ).returncode
        if code:
            stop(f"{' '.join(arguments)} ended with exit code {code}; see {self.log}")
        return time.monotonic() - started

    def loop(self, base: str, number: int) -> float:
        """Return the seconds that the single tasks take for one base image, as in a shell loop."""
        own = {"OUTPUT_DIR": str(self.folder / f"loop-{number}"), "BASE_IMAGE": base}
        own["TARGET_IMAGE"] = f"{self.registry}/loop/agent-server:{number}"
        return self.run("all", **own) + self.run("build", "--push", "--network", "host", **own)

    def images(self, bases: Sequence[str], *flags: str) -> float:
        """Return the seconds that `images` takes for these base images."""
        path = self.folder / "bases.txt"
        path.write_text("\n".join(bases), encoding="utf-8")
        return self.run("images", "--bases", str(path), "--push", "--network", "host", *flags)

    def results(self) -> list[dict[str, Any]]:
        """Return what `images.json` says."""
        text = (self.folder / "out/images.json").read_text(encoding="utf-8")
        images: list[dict[str, Any]] = json.loads(text)["images"]
        return images


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for, and print a table."""
    options = _parse(arguments)
    folder = Path(tempfile.mkdtemp(prefix="rb-bulk-"))  # short: the path of a socket has at most 107 characters
    try:
        with ExitStack() as stack:
            print("| measured | figure |\n|---|---:|")
            if options.only != "memory":
                bench = _start(stack, folder, options)
                bases = _make_bases(bench, options)
                _measure_builds(bench, bases, options)
                _measure_queries(bench, bases[0])
            _measure_memory(folder, options)
    finally:
        unmount_below(folder)
        subprocess.run(["rm", "-rf", folder], check=False)


def _start(stack: ExitStack, folder: Path, options: argparse.Namespace) -> Bench:
    """Start two daemons and a registry, and return where commands run."""
    environment = make_environment(folder)
    for name in ("one", "two"):
        create_builder(folder / name, environment)
    for name in ("one", "two"):
        stack.enter_context(run_buildkit(folder / name, environment))
    registry = stack.enter_context(run_registry(_make_folder(folder / "registry")))
    source = clone_checkout(options.source.resolve(), folder / "checkout").source
    settings = {
        "PYTHONPATH": str(PACKAGE_ROOT),
        "DOCKER_HOST": f"unix://{folder}/one/d.sock",
        "BUILDER": "one",
        "TARGET": options.target,
        "IMAGE_NAME": f"{registry}/{_REPOSITORY}",
        "OUTPUT_DIR": str(folder / "out"),
    }
    kept = {name: environment[name] for name in ("PATH", "HOME", "DOCKER_CONFIG")}
    return Bench(folder, source, registry, {**kept, **settings}, options.log)


def _make_bases(bench: Bench, options: argparse.Namespace) -> list[str]:
    """Push the base images, of which the last one has every package, and return their names."""
    rootfs = [make_base_rootfs(), *options.rootfs]
    for number, tarball in enumerate(rootfs):
        changes = [f"--change=ENV {name}={value}" for name, value in TRUST_VARIABLES.items()]
        _run_docker(bench, "import", *changes, str(tarball), f"localhost/rootfs:{number}")
    names = []
    for number in range(options.bases + 1):
        extra = f"RUN apt-get update && apt-get install -y {_PACKAGES}\n" if number == options.bases else ""
        dockerfile = f"FROM localhost/rootfs:{number % len(rootfs)}\nRUN echo {number} >/etc/base-number\n{extra}"
        names.append(f"{bench.registry}/bases/debian:{number}")
        _run_docker(bench, "build", "--network=host", f"--tag={names[-1]}", "-", stdin=dockerfile)
        _run_docker(bench, "push", names[-1])
    return names


def _measure_builds(bench: Bench, bases: Sequence[str], options: argparse.Namespace) -> None:
    """Measure the loop first, and then `images` on other base images, so that it finds nothing of the loop's."""
    looped, others, full = bases[:_LOOPED], bases[_LOOPED:-1], bases[-1]
    loop_s = [bench.loop(base, number) for number, base in enumerate(looped)]
    _row("shell loop, each base image", ", ".join(f"{seconds:.1f} s" for seconds in loop_s))
    cold_s = bench.images(others[:2])
    _row("`images`, two base images, cold", f"{cold_s:.1f} s")
    before = _measure_folder(bench.folder / "registry")
    more_s = bench.images(others[:3])
    after = _measure_folder(bench.folder / "registry")
    _row("one more base image", f"{more_s:.1f} s, {more_s / loop_s[0]:.2f} of the loop's first")
    _row("bytes that the registry received for it", f"{(after - before) / 1e6:.1f} MB")
    full_s = bench.images([*others[:3], full])
    _row("a base image with every package", f"{full_s:.1f} s, {full_s / loop_s[0]:.2f} of the loop's first")
    all_s = bench.images([*others, full], "--workers", "4")
    _row(f"the other {len(others) - 3} base images, 4 workers", f"{all_s:.1f} s")
    layers = [_list_layers(bench, result["reference"]) for result in bench.results()]
    shared = set.intersection(*map(set, layers))
    _row(f"layers that all {len(layers)} images have in common", str(len(shared)))
    _row("nothing changed", f"{bench.images([*others, full]):.1f} s")
    if options.two:
        own = {"BUILDER": "one,two", "OUTPUT_DIR": str(bench.folder / "out")}
        path = str(bench.folder / "bases.txt")
        seconds = bench.run("images", "--bases", path, "--push", "--network", "host", "--force", **own)
        _row("all of them again with two builders, one of them new", f"{seconds:.1f} s")


def _measure_queries(bench: Bench, base: str) -> None:
    """Measure a run that has only to look: every image is there, under the name that it would get."""
    name, _, tag = base.rpartition(":")
    names = [f"{name}:same-{number}" for number in range(_KNOWN)]
    body, kind = _get(f"http://{bench.registry}/v2/bases/debian/manifests/{tag}")
    for number in range(_KNOWN):
        _put(f"http://{bench.registry}/v2/bases/debian/manifests/same-{number}", body, kind)
    bench.images(names, "--dry-run")
    command = [sys.executable, "-m", "buildkit", "images", "--bases", str(bench.folder / "bases.txt")]
    command += ["--push", "--dry-run", "--json"]
    planned = subprocess.run(command, cwd=bench.source, env=dict(bench.environment), capture_output=True, check=True)
    known = bench.results()[0]["reference"].rpartition(":")[2]
    body, kind = _get(f"http://{bench.registry}/v2/{_REPOSITORY}/manifests/{known}")
    for image in json.loads(planned.stdout)["images"]:
        _put(f"http://{bench.registry}/v2/{_REPOSITORY}/manifests/{image['reference'].rpartition(':')[2]}", body, kind)
    _row(f"nothing changed, {_KNOWN} images, two queries each", f"{bench.images(names):.1f} s")


def _measure_memory(folder: Path, options: argparse.Namespace) -> None:
    """Measure our own process while a scripted Runtime API builds few and many images."""
    source = clone_checkout(options.source.resolve(), folder / "small").source
    for count in (20, 2000):
        with run_bulk_api() as api:
            path = folder / "many.txt"
            path.write_text("".join(f"127.0.0.1:1/base:{number}\n" for number in range(count)), encoding="utf-8")
            environment = {
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(PACKAGE_ROOT),
                "RUNTIME_API_URL": api.server.url,
                "RUNTIME_API_KEY": KEY,
                "TARGET": "source-minimal",
                "OUTPUT_DIR": str(folder / f"out-{count}"),
            }
            command = [sys.executable, "-m", "buildkit", "images", "--bases", str(path), "--workers", "8"]
            with options.log.open("ab") as log:
                process = subprocess.Popen(command, cwd=source, env=environment, stdout=log, stderr=log)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                stop(f"images ended with exit code {process.returncode}; see {options.log}")
            _row(f"memory, {count} images built by a Runtime API", f"{usage.ru_maxrss / 1e3:.1f} MB")


def _list_layers(bench: Bench, reference: str) -> list[str]:
    tag = reference.rpartition(":")[2]
    manifest = json.loads(_get(f"http://{bench.registry}/v2/{_REPOSITORY}/manifests/{tag}")[0])
    if "manifests" in manifest:
        digest = manifest["manifests"][0]["digest"]
        manifest = json.loads(_get(f"http://{bench.registry}/v2/{_REPOSITORY}/manifests/{digest}")[0])
    return [layer["digest"] for layer in manifest["layers"] if layer["size"] > 10_000]  # noqa: PLR2004 - not empty ones


def _get(url: str) -> tuple[bytes, str]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=_ACCEPT), timeout=30) as response:
        return response.read(), response.headers["Content-Type"]


def _put(url: str, body: bytes, kind: str) -> None:
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=30):
        pass


def _run_docker(bench: Bench, *arguments: str, stdin: str = "") -> None:
    done = subprocess.run(
        ["docker", *arguments], env=dict(bench.environment), input=stdin.encode(), capture_output=True, check=False
    )
    if done.returncode:
        stop(f"docker {arguments[0]}: {done.stderr.decode()[-500:]}")


def _measure_folder(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def _row(what: str, figure: str) -> None:
    print(f"| {what} | {figure} |", flush=True)
    tell(f"{what}: {figure}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bulk", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=PACKAGE_ROOT / "examples/agent-server", help="a checkout")
    parser.add_argument("--target", default="source-minimal", help="a minimal target")
    parser.add_argument("--bases", type=int, default=20, help="how many base images, at least 6; the loop gets 3")
    parser.add_argument("--rootfs", type=Path, nargs="*", default=[], help="more root file systems, as tarballs")
    parser.add_argument("--two", action="store_true", help="build all once more with a second builder")
    parser.add_argument("--only", choices=["all", "memory"], default="all", help="all, or what needs no engine")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="a file that all output is appended to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
