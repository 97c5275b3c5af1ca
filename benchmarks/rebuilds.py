"""One target of a source tree, built, verified, built again and pushed by the real commands, with what it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.docker import Docker

PACKAGE_ROOT = Path(__file__).resolve().parent.parent
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_SHOWN_CHARACTERS = 3000


@dataclass(frozen=True)
class Figures:
    """What was measured of one target; a build is `all` and `build` together, as somebody waits for them."""

    target: str
    size_bytes: int
    cold_s: float
    unchanged_s: float
    touched_s: float
    pushed_bytes: int
    commit_s: float
    layers: int
    layers_reused: int
    health_s: float
    stop_s: float


@dataclass(frozen=True)
class Checkout:
    """A clone that may be changed; `source` is the folder in it that is built."""

    folder: Path
    source: Path

    def touch(self, module: str) -> None:
        """Add a line of code to a file of the server; a comment alone leaves an executable as it is.

        Raises:
            SystemExit: There is no such module, or it is no package that can be started.
        """
        suffix = f"{module.replace('.', '/')}/__main__.py"
        listed = self.git("ls-files", "-z", "--", f"*{suffix}").split("\0")
        if not listed[0]:
            stop(f"the source has no {suffix}")
        with (self.source / listed[0]).open("a", encoding="utf-8") as file:
            file.write("\nTOUCHED = True\n")

    def commit_nothing(self) -> None:
        """Take changes back and make a commit without any."""
        self.git("checkout", "--quiet", "--", ".")
        identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
        self.git(*identity, "commit", "--quiet", "--allow-empty", "--message", "nothing changed")

    def git(self, *arguments: str) -> str:
        """Return what git printed, run in the source."""
        return run_git(self.source, *arguments)


@dataclass(frozen=True)
class Bench:
    """A fresh engine, and a checkout to build one target of.

    Attributes:
        settings: In addition to those that say what is built and where.
        log: The output of all commands is appended to it.
    """

    target: str
    checkout: Checkout
    engine: Docker
    settings: Mapping[str, str]
    log: Path

    def measure(self, module: str) -> Figures:
        """Return the figures; the engine must not have built anything before."""
        cold_s = self.build("cold")
        first = self.engine.inspect(self.image)
        self.run("verify")
        verified = json.loads((self.output / "verify.json").read_bytes())
        unchanged_s = self.build("nothing changed")
        pushed = self.push("first")
        self.checkout.touch(module)
        touched_s = self.build("one file touched")
        touched = self.push("second")
        self.checkout.commit_nothing()
        commit_s = self.build("new commit only")
        before, after = first["RootFS"]["Layers"], self.engine.inspect(self.image)["RootFS"]["Layers"]
        return Figures(
            self.target,
            first["Size"],
            cold_s,
            unchanged_s,
            touched_s,
            count_new_bytes(pushed, touched),
            commit_s,
            len(after),
            len(set(before) & set(after)),
            verified["health_s"],
            verified["stop_s"],
        )

    @property
    def image(self) -> str:
        """The name of the image that was built last."""
        return f"localhost/bench:{self.target}"

    @property
    def output(self) -> Path:
        """The output directory."""
        return self.engine.folder / "out"

    def build(self, what: str) -> float:
        """Return the seconds that the archive and its image took together."""
        started = time.monotonic()
        self.run("all")
        self.run("build", "--network", "host")
        seconds = time.monotonic() - started
        tell(f"{self.target}, {what}: {seconds:.1f} s")
        return seconds

    def push(self, tag: str) -> dict[str, int]:
        """Return what the registry holds of the image that was built last: digest to bytes on the wire."""
        registry = self.engine.registry
        self.run("build", "--network", "host", "--push", TARGET_IMAGE=f"{registry}/bench:{tag}")
        request = urllib.request.Request(f"http://{registry}/v2/bench/manifests/{tag}", headers={"Accept": _MANIFEST})
        with urllib.request.urlopen(request, timeout=30) as answer:
            manifest = json.loads(answer.read())
        return {blob["digest"]: blob["size"] for blob in (manifest["config"], *manifest["layers"])}

    def run(self, task: str, *flags: str, **settings: str) -> None:
        """Run a task as users do, with no other settings than these.

        Raises:
            SystemExit: It failed; the message ends with what it said.
        """
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        environment |= self.engine.environment | {
            "PYTHONPATH": str(PACKAGE_ROOT),
            "SOURCE_DIR": str(self.checkout.source),
            "OUTPUT_DIR": str(self.output),
            "TARGET": self.target,
            "TARGET_IMAGE": self.image,
            **self.settings,
            **settings,
        }
        done = subprocess.run(
            [sys.executable, "-m", "buildkit", task, *flags],
            cwd=self.engine.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"## {task}\n{done.stdout}{done.stderr}\n")
        if done.returncode:
            said = f"{done.stdout}{done.stderr}"[-_SHOWN_CHARACTERS:]
            stop(f"{self.target}: `{task}` ended with exit code {done.returncode}:\n{said}")
        if task == "verify":
            tell(done.stderr)


def clone_checkout(source: Path, folder: Path) -> Checkout:
    """Return a clone in `folder` of the checkout that `source` lies in: nothing ignored or uncommitted comes along."""
    top = run_git(source, "rev-parse", "--show-toplevel")
    within = run_git(source, "rev-parse", "--show-prefix")
    run_git(source, "clone", "--quiet", "--no-hardlinks", top, str(folder))
    return Checkout(folder, folder / within)


def count_new_bytes(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Return the bytes of the blobs that only the later image has: what its push sends."""
    return sum(size for digest, size in after.items() if digest not in before)


def run_git(folder: Path, *arguments: str) -> str:
    """Return what git printed, stripped.

    Raises:
        SystemExit: It failed.
    """
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        stop(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def tell(line: str) -> None:
    """Show how far the benchmark is."""
    print(line, file=sys.stderr, flush=True)


def stop(reason: str) -> NoReturn:
    """End the benchmark with a reason."""
    sys.exit(f"error: {reason}")
