"""Many images: `images` next to a shell loop over the single tasks, with two real BuildKit daemons and a registry.

python -m benchmarks.bulk                                 this repository's example on Debian
python -m benchmarks.bulk --source ../agent-sdk --builder builder.tar --rootfs bookworm.tar trixie.tar forky.tar
python -m benchmarks.bulk --target binary-minimal --most 3
python -m benchmarks.bulk --only memory                   only what needs no engine

Needs root, git, debootstrap, docker-registry, runc and socat, and the extra `dev`: its tests fetch a recent docker. The
base images are the variants of `benchmarks/bases.py` of each root file system. The server is built on another
one, which has the oldest C library of all and a Python that the server accepts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bases import Bases, make_bases, run_docker
from benchmarks.rebuilds import PACKAGE_ROOT, clone_checkout, stop, tell
from tests.bulk_api import run_bulk_api
from tests.engine.buildkits import create_builder, make_environment, run_buildkit
from tests.engine.services import make_base_rootfs, run_registry, unmount_below
from tests.runtime_api import KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ACCEPT = {
    "Accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json,"
    " application/vnd.docker.distribution.manifest.v2+json"
}
_REPOSITORY = "out/agent-server"
_KNOWN = 500
# A step of our Dockerfiles that installs packages of the server, or makes its executable.
_BUILDING = re.compile(r"^#(\d+) \[(?:deps|builder|analysis|binary-builder) [^]]+\] RUN ", re.MULTILINE)


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
        own = {"OUTPUT_DIR": str(self.folder / f"loop-{number}"), "BASE_IMAGE": base, "BUILDER": "one"}
        own["TARGET_IMAGE"] = f"{self.registry}/loop/agent-server:{number}"
        return self.run("all", **own) + self.run("build", "--push", "--network", "host", **own)

    def images(self, bases: Sequence[str], *flags: str, **settings: str) -> float:
        """Return the seconds that `images` takes to build and push images on these base images."""
        return self.load(bases, "--push", *flags, **settings)

    def load(self, bases: Sequence[str], *flags: str, **settings: str) -> float:
        """Return the seconds that `images` takes to build images and leave them in the engine."""
        path = self.folder / "bases.txt"
        path.write_text("\n".join(bases), encoding="utf-8")
        return self.run("images", "--bases", str(path), "--network", "host", *flags, **settings)

    def results(self, output: str = "out") -> list[dict[str, Any]]:
        """Return what `images.json` says."""
        text = (self.folder / output / "images.json").read_text(encoding="utf-8")
        images: list[dict[str, Any]] = json.loads(text)["images"]
        return images


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for, and print a table."""
    options = _parse(arguments)
    folder = Path(tempfile.mkdtemp(prefix="rb-bulk-"))  # short: the path of a socket has at most 107 characters
    try:
        with ExitStack() as stack:
            print("| measured | limit | figure |\n|---|---:|---:|")
            if options.only != "memory":
                bench, bases = _start(stack, folder, options)
                if options.only != "queries":
                    _measure_builds(bench, bases, options)
                if options.only != "builds":
                    _measure_queries(bench, bases.builders[0])
            if options.only in {"all", "memory"}:
                _measure_memory(folder, options)
    finally:
        unmount_below(folder)
        subprocess.run(["rm", "-rf", folder], check=False)


def _start(stack: ExitStack, folder: Path, options: argparse.Namespace) -> tuple[Bench, Bases]:
    """Start two daemons and a registry that has the base images, and return where commands run."""
    environment = make_environment(folder)
    rootfs = options.rootfs or [make_base_rootfs()]
    bases = make_bases(rootfs, options.builder or rootfs[0], folder, environment)
    for name in ("one", "two"):
        create_builder(folder / name, environment)
    for name in ("one", "two"):
        stack.enter_context(run_buildkit(folder / name, environment))
    registry = stack.enter_context(run_registry(folder))
    source = clone_checkout(options.source.resolve(), folder / "checkout").source
    settings = {
        "PYTHONPATH": str(PACKAGE_ROOT),
        "DOCKER_HOST": f"unix://{folder}/one/d.sock",
        "TARGET": options.target,
        "IMAGE_NAME": f"{registry}/{_REPOSITORY}",
        "OUTPUT_DIR": str(folder / "out"),
    }
    kept = {name: environment[name] for name in ("PATH", "HOME", "DOCKER_CONFIG")}
    placed = [[f"{registry}/{name}" for name in names] for names in bases]
    return Bench(folder, source, registry, {**kept, **settings}, options.log), Bases(*placed)


def _measure_builds(bench: Bench, bases: Bases, options: argparse.Namespace) -> None:
    """Measure the loop first, and then `images` with a builder that has forgotten it, on other base images."""
    loop_s = _measure_loop(bench, bases.builders[1 : 1 + options.loop]) if options.loop else None
    own = {"BUILDER_IMAGE": bases.builders[0], "BUILDER": "one"}
    varied = _interleave(bases.varied)[: options.most]
    complete = next(base for base in bases.varied if base.endswith(":complete"))
    plain = [base for base in varied if base.endswith(":plain")] or varied
    rest = [base for base in varied if base not in {complete, *plain[:2]}]
    first_s = bench.images(plain[:1], **own)
    cold_s = loop_s or first_s
    _row("`images`, one base image, cold", "", _format_ratio(first_s, cold_s))
    limit = 0.05 if options.target.startswith("binary") else 0.12
    _row(
        "one more base image, which lacks every package",
        f"{limit}",
        _format_ratio(bench.images(plain[:2], **own), cold_s),
    )
    pushed = bench.results()[-1]["bytes_pushed"]
    _row("bytes that the registry received for it", "its packages", f"{pushed / 1e6:.1f} MB")
    full_s = bench.images([*plain[:2], complete], **own)
    _row("a base image that has every package", "0.03", _format_ratio(full_s, cold_s))
    _row("bytes that the registry received for it", "", f"{bench.results()[-1]['bytes_pushed'] / 1e6:.1f} MB")
    if rest:
        chosen = [*plain[:2], complete, *rest]
        seconds = bench.images(chosen, "--workers", "4", **own)
        _row(f"the other {len(rest)} base images, 4 workers", "", f"{seconds:.1f} s, {seconds / len(rest):.1f} s each")
        _row("nothing changed", "", f"{bench.images(chosen, **own):.1f} s")
    _describe_layers(bench, pushed)
    _measure_loaded(bench, rest[:2] or plain, bases, cold_s)
    if options.two:
        own["BUILDER"] = "one,two"
        seconds = bench.images([*plain[:2], complete, *rest[:3]], "--workers", "4", "--force", **own)
        _row("six of them again with two builders, one of them new", "", f"{seconds:.1f} s")


def _measure_loop(bench: Bench, bases: Sequence[str]) -> float:
    """Return the seconds that the loop takes for the first base image, when nothing is in the cache."""
    loop_s = [bench.loop(base, number) for number, base in enumerate(bases)]
    _row("shell loop, each base image", "", ", ".join(f"{seconds:.1f} s" for seconds in loop_s))
    run_docker(bench.environment, "buildx", "prune", "--builder=one", "--all", "--force")
    return loop_s[0]


def _measure_loaded(bench: Bench, bases: Sequence[str], built: Bases, cold_s: float) -> None:
    """Measure one more base image whose image is unpacked in an engine that has the server's layers already."""
    own = {"BUILDER_IMAGE": built.builders[0], "ENGINE": "docker", "OUTPUT_DIR": str(bench.folder / "loaded")}
    bench.load(bases[:1], **own)
    seconds = bench.load(bases[:2], **own)
    _row("one more base image, loaded into the engine", "0.25", _format_ratio(seconds, cold_s))


def _describe_layers(bench: Bench, packages_bytes: int) -> None:
    """Tell how often the server was built for all images, and which of its layers they have in common."""
    results = bench.results()
    logs = [(bench.folder / "out/images" / result["name"] / "build.log").read_text("utf-8") for result in results]
    _row(f"steps that build the server, run for {len(logs)} images", "once each", _count_runs(logs))
    layers = [set(_list_layers(bench, result["reference"])) for result in results]
    shared = set.intersection(*layers)
    _row(f"layers that all {len(layers)} images have in common", "the server's", str(len(shared)))
    most = max(result["bytes_pushed"] or 0 for result in results[1:])
    _row("most bytes received for an image but the first", "its packages", f"{max(most, packages_bytes) / 1e6:.1f} MB")


def _count_runs(logs: Sequence[str]) -> str:
    """Return how many times the steps were run and not taken from the cache, next to how many steps there are."""
    runs, titles = 0, set()
    for log in logs:
        for number, title in ((match[1], match[0].partition(" ")[2]) for match in _BUILDING.finditer(log)):
            titles.add(log[log.index(title) :].partition("\n")[0])
            runs += f"\n#{number} CACHED" not in log
    return f"{runs} runs of {len(titles)} steps"


def _interleave(names: Sequence[str]) -> list[str]:
    """Return base images in an order in which the first ones are of different distributions."""
    variants = list(dict.fromkeys(name.rpartition(":")[2] for name in names))
    return sorted(names, key=lambda name: variants.index(name.rpartition(":")[2]))


def _measure_queries(bench: Bench, base: str) -> None:
    """Measure a run that has only to look: every image is there, and the journal knows that it was built."""
    own = {"BUILDER_IMAGE": base, "ENGINE": "docker", "OUTPUT_DIR": str(bench.folder / "known")}
    name, _, tag = base.rpartition(":")
    names = [f"{name}:same-{number}" for number in range(_KNOWN)]
    body, kind = _get(f"http://{bench.registry}/v2/{name.partition('/')[2]}/manifests/{tag}")
    for number in range(_KNOWN):
        _put(f"http://{bench.registry}/v2/{name.partition('/')[2]}/manifests/same-{number}", body, kind)
    bench.images(names, "--dry-run", **own)
    bench.images(names[:1], **own)
    done = bench.results("known")[0]
    body, kind = _get(f"http://{bench.registry}/v2/{_REPOSITORY}/manifests/{done['reference'].rpartition(':')[2]}")
    command = [sys.executable, "-m", "buildkit", "images", "--bases", str(bench.folder / "bases.txt")]
    (bench.folder / "bases.txt").write_text("\n".join(names), encoding="utf-8")
    planned = subprocess.run(
        [*command, "--push", "--dry-run", "--json"],
        cwd=bench.source,
        env={**bench.environment, **own},
        capture_output=True,
        check=True,
    )
    with (bench.folder / "known/images.jsonl").open("a", encoding="utf-8") as journal:
        for image in json.loads(planned.stdout)["images"]:
            _put(
                f"http://{bench.registry}/v2/{_REPOSITORY}/manifests/{image['reference'].rpartition(':')[2]}",
                body,
                kind,
            )
            event = {"schema": 1, "event": "built", "image": image["name"], "at": "2026-01-01T00:00:00Z"}
            event |= {"reference": image["reference"], "seconds": 9.0, "digest": done["digest"]}
            journal.write(f"{json.dumps(event)}\n")
    seconds = min(bench.images(names, **own) for _ in range(3))
    _row(f"nothing changed, {_KNOWN} images", "2 s", f"{seconds:.1f} s")


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
            _row(f"memory, {count} images built by a Runtime API", "40 MB apart", f"{usage.ru_maxrss / 1e3:.1f} MB")


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


def _format_ratio(seconds: float, cold_s: float) -> str:
    return f"{seconds:.1f} s, {seconds / cold_s:.2f} of a cold build"


def _row(what: str, limit: str, figure: str) -> None:
    print(f"| {what} | {limit} | {figure} |", flush=True)
    tell(f"{what}: {figure}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bulk", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=PACKAGE_ROOT / "examples/agent-server", help="a checkout")
    parser.add_argument("--target", default="source-minimal", help="a minimal target")
    parser.add_argument("--rootfs", type=Path, nargs="*", default=[], help="root file systems of Debian, as tarballs")
    parser.add_argument("--builder", type=Path, help="the one to build the server on; the first one if not given")
    parser.add_argument("--most", type=int, help="build at most as many images")
    parser.add_argument("--loop", type=int, default=3, help="base images of the shell loop, 0 to 3")
    parser.add_argument("--two", action="store_true", help="build some once more with a second builder")
    parser.add_argument("--only", choices=["builds", "queries", "memory"], default="all", help="only this part")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="a file that all output is appended to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
