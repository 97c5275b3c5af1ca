"""The real command in a process of its own, in an environment that holds nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import buildkit
from tests.checkouts import run_git
from tests.runtime_api import KEY

if TYPE_CHECKING:
    from tests.runtime_api import RuntimeApiServer

# The target that every small tree can be packed for.
SOURCE = {"TARGET": "source-minimal"}
PACKAGE_ROOT = Path(buildkit.__file__).parent.parent


class Ended(NamedTuple):
    """A command that has ended: exit code, and what stood on the two streams."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> str:
        """The one line on stdout."""
        (line,) = self.out.splitlines()
        return line

    @property
    def record(self) -> dict[str, Any]:
        """The JSON object on stdout."""
        record: dict[str, Any] = json.loads(self.out)
        return record

    def succeed(self) -> Ended:
        """Assert that it did."""
        assert self.code == 0, self.err
        return self

    def fail(self, code: int, *texts: str) -> Ended:
        """Assert the exit code, the two lines at the end of stderr, and texts in them."""
        assert self.code == code, f"exit {self.code}, not {code}: {self.err}{self.out}"
        assert "Traceback" not in self.err
        *_, error, fix = self.err.splitlines()
        assert error.startswith("error: "), self.err
        assert fix.startswith("fix:   "), self.err
        for text in texts:
            assert text in f"{error}\n{fix}", self.err
        return self


@dataclass
class Command:
    """`runtime-build` in a checkout.

    Attributes:
        environment: Of every run; nothing else is there.
        program: What is run: the package of this checkout, or something else that has the same tasks.
    """

    checkout: Path
    environment: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = (sys.executable, "-m", "buildkit")

    def __post_init__(self) -> None:
        home = self.checkout.parent / "home"
        home.mkdir(exist_ok=True)
        python_path = str(PACKAGE_ROOT)
        base = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "PYTHONPATH": python_path}
        self.environment = base | self.environment

    @property
    def output(self) -> Path:
        """The output directory, where no setting names another."""
        return self.checkout / "runtime-build"

    @property
    def short_sha(self) -> str:
        """The first seven digits of the checkout's commit."""
        return run_git(self.checkout, "rev-parse", "HEAD")[:7]

    def use(self, server: RuntimeApiServer) -> None:
        """Let every later run speak to this server."""
        self.environment |= {"RUNTIME_API_URL": server.url, "RUNTIME_API_KEY": KEY}

    def run(self, *arguments: str, folder: Path | None = None, **settings: str) -> Ended:
        """Return the run when it has ended.

        Args:
            folder: To run it in, instead of the checkout.
            settings: Environment variables of this run.
        """
        process = self.start(*arguments, folder=folder, **settings)
        out, err = process.communicate(timeout=120)
        return Ended(process.returncode, out, err)

    def start(self, *arguments: str, folder: Path | None = None, **settings: str) -> subprocess.Popen[str]:
        """Return the run while it goes on."""
        return subprocess.Popen(
            [*self.program, *arguments],
            cwd=folder or self.checkout,
            env=self.environment | settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read_state(self, step: str) -> dict[str, Any]:
        """Return what a state file holds."""
        record: dict[str, Any] = json.loads((self.output / f"{step}.json").read_bytes())
        return record
