"""What is measured on one tree: `context` in its ways, and what people would use instead."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.measure import Case

if TYPE_CHECKING:
    from pathlib import Path

_WITHOUT_ISAL = "import sys; sys.modules['isal'] = None; from buildkit.__main__ import main; main()"
_EMPTY = """
from invoke import Collection, Program, task
@task
def nothing(c): pass
Program(namespace=Collection(nothing)).run()
"""
_TAKE_NAMES = """
import json, sys
names = sorted(item["path"] for item in json.load(sys.stdin)["files"])
with open(sys.argv[1], "w", encoding="utf-8") as file:
    file.writelines(name + "\\0" for name in names)
"""
_SETTLED_S = 2.2
RUNTIME_BUILD = [sys.executable, "-m", "buildkit"]


@dataclass(frozen=True)
class Bench:
    """A tree with everything that its cases need beside it."""

    name: str
    tree: Path
    package_root: Path

    @property
    def settings(self) -> dict[str, str]:
        """Environment of our own runs."""
        return {"TARGET": "source", "PYTHONPATH": str(self.package_root)}

    @property
    def beside(self) -> Path:
        """Where peers write, outside the tree."""
        folder = self.tree.parent / f"{self.tree.name}-out"
        folder.mkdir(exist_ok=True)
        return folder

    def prepare(self) -> None:
        """Make version and Dockerfile, and the list of files for the peers: the same ones that we pack."""
        for task in ("version", "dockerfile", "context"):
            self._run(task)
        time.sleep(_SETTLED_S)
        self._run("context", "--no-cache")
        # By another process: the peak memory of what we start later begins with ours (wait4, Linux).
        listed = [*RUNTIME_BUILD, "context", "--files", "--json"]
        with subprocess.Popen(listed, cwd=self.tree, env=self._environment, stdout=subprocess.PIPE) as lister:
            subprocess.run([sys.executable, "-c", _TAKE_NAMES, self.beside / "files"], stdin=lister.stdout, check=True)

    @property
    def archive(self) -> Path:
        """Our archive."""
        return next((self.tree / "runtime-build").glob("*.tar.gz"))

    @property
    def _environment(self) -> dict[str, str]:
        return self.settings | {"PATH": os.environ["PATH"]}

    def _run(self, *arguments: str) -> None:
        command = [*RUNTIME_BUILD, *arguments]
        subprocess.run(command, cwd=self.tree, env=self._environment, stdout=subprocess.DEVNULL, check=True)


def list_ours(bench: Bench) -> list[Case]:
    """Return the ways in which we are run, besides `all`."""
    settings = bench.settings
    context = [*RUNTIME_BUILD, "context"]
    return [
        Case("`context`, first run", [*context, "--no-cache"], settings, output=bench.archive),
        Case("`context`, nothing changed", context, settings, prepare=lambda: None, output=bench.archive),
        Case(
            "first run, standard library only",
            [sys.executable, "-c", _WITHOUT_ISAL, "context", "--no-cache"],
            settings,
            output=bench.archive,
        ),
        Case("`version`", [*RUNTIME_BUILD, "version"], settings),
        Case("`--list`", [*RUNTIME_BUILD, "--list"], settings),
        Case("an empty invoke program", [sys.executable, "-c", _EMPTY, "nothing"], {}, peer=True),
    ]


def list_peers(bench: Bench) -> list[Case]:
    """Return what is at hand of what people would use instead; the first is what everything is held against."""
    out = bench.beside
    files = shlex.quote(str(out / "files"))
    tar = f"tar --null -T {files}"
    cases = [
        Case("`tar -czf`", f"{tar} -czf {_quote(out / 'tar.gz')}", {}, output=out / "tar.gz", peer=True),
        Case("`tar` to a pipe (reading limit)", f"{tar} -cf - | cat > /dev/null", {}, peer=True),
        Case("`git archive`", _archive_by_git(out / "git.tar.gz"), {}, output=out / "git.tar.gz", peer=True),
    ]
    for program, level in (("pigz", "-1"), ("pigz", "-6"), ("igzip", "-1"), ("igzip", "-3"), ("gzip", "-1")):
        if shutil.which(program):
            path = out / f"{program}{level}.tar.gz"
            command = f"{tar} -cf - | {program} {level} > {_quote(path)}"
            cases.append(Case(f"`tar \\| {program} {level}`", command, {}, output=path, peer=True))
    return cases


def _archive_by_git(path: Path) -> list[str]:
    return ["git", "archive", "--format=tar.gz", f"--output={path}", "HEAD"]


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
