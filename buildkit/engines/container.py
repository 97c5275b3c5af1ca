"""Images and containers of a local engine: inspected, started without a network, entered, stopped."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from buildkit.errors import BuildFailed, NotStarted, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from buildkit.engines.engine import Engine
    from buildkit.engines.process import Output

_PULL_TIMEOUT_S = 1800.0
_STOP_TIMEOUT_S = 10
# `docker run` and `podman run` exit like this if a program in the image cannot be run or does not exist …
_PROGRAM_FAULTS = (126, 127)
# … but with the engine's own 125 if the image does not have the user, or does not say what to run.
_IMAGE_FAULTS = re.compile(r"unable to find user|no command", re.IGNORECASE)


@dataclass(frozen=True)
class ImageConfig:
    """The configuration of an image; `history` has the commands that created its layers."""

    image_id: str
    workdir: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: dict[str, str]
    labels: dict[str, str]
    ports: frozenset[str]
    healthcheck: tuple[str, ...]
    history: tuple[str, ...]


@dataclass(frozen=True)
class Container:
    """A container that exists until its `start_container` block ends."""

    engine: Engine
    name: str

    def enter(self, *command: str, timeout_s: float = 60.0) -> Output:
        """Return what `command` left, run in the container as the image's user."""
        return self.engine.run("exec", self.name, *command, timeout_s=timeout_s)

    def is_running(self) -> bool:
        """Return whether its first process is still running."""
        return self._inspect("{{.State.Running}}") == "true"

    def read_log(self) -> str:
        """Return the last lines that it wrote to both streams."""
        output = self.engine.run("logs", "--tail=20", self.name)
        return f"{output.stdout}\n{output.stderr}".strip()

    def stop(self) -> tuple[float, int]:
        """Return the seconds it took to stop, and its exit code: 137 if it had to be killed."""
        started = time.monotonic()
        self.engine.run("stop", "-t", str(_STOP_TIMEOUT_S), self.name)
        stop_s = time.monotonic() - started
        return round(stop_s, 2), self.read_exit_code()

    def read_exit_code(self) -> int:
        """Return the exit code of its first process, or -1 if that is not known."""
        return int(self._inspect("{{.State.ExitCode}}") or -1)

    def _inspect(self, template: str) -> str:
        return self.engine.run("inspect", f"--format={template}", self.name).stdout


@contextlib.contextmanager
def start_container(
    engine: Engine,
    image: str,
    arguments: Sequence[str] = (),
    *,
    entrypoint: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Container]:
    """Yield a running container whose only network is a loopback of its own; it is removed at the end.

    Its server therefore does not use a port of this machine, and is reached from inside with `Container.enter`.

    Args:
        arguments: Replace the image's CMD.
        entrypoint: One program, replaces the image's ENTRYPOINT.
        environment: Passed on standard input, because everybody on the machine can read arguments.

    Raises:
        NotStarted: The engine cannot run containers.
        BuildFailed: It can, but the image does not have the user or the program.
    """
    # Named here, not by the engine: an interruption must not leave a container behind whose name was never read.
    container = Container(engine, f"runtime-build-{secrets.token_hex(8)}")
    options = ["--detach", f"--name={container.name}", "--network=none", "--env-file=/dev/stdin"]
    options += [f"--entrypoint={entrypoint}"] if entrypoint else []
    lines = "".join(f"{name}={value}\n" for name, value in (environment or {}).items())
    try:
        output = engine.run("run", *options, image, *arguments, stdin=lines)
        if output.code:
            reason = (output.stderr or output.stdout).partition("\n")[0]
            at_fault = output.code in _PROGRAM_FAULTS or _IMAGE_FAULTS.search(reason)
            raise (BuildFailed if at_fault else NotStarted)(
                f"{engine.name} cannot start {image}: {reason}",
                f"try `{engine.command} run --rm {image} --help`",
            )
        yield container
    finally:
        engine.run("rm", "--force", "--volumes", container.name)


def inspect_image(engine: Engine, image: str) -> ImageConfig:
    """Return the configuration of an image, which is pulled first if the engine does not have it.

    Raises:
        NotStarted: It is neither here nor in its registry.
    """
    output = engine.run("image", "inspect", image)
    if output.code:
        pulled = engine.run("pull", image, timeout_s=_PULL_TIMEOUT_S)
        output = engine.run("image", "inspect", image)
        if output.code:
            reason = (pulled.stderr or pulled.stdout).rpartition("\n")[2]
            raise NotStarted(
                f"{engine.name} does not have {image} and cannot pull it: {reason}",
                f"run {run('build')}, or give --image a reference that can be pulled",
            )
    history = engine.run("history", "--no-trunc", "--format={{.CreatedBy}}", image).stdout
    return _parse_image(json.loads(output.stdout)[0], tuple(history.splitlines()))


def _parse_image(description: dict[str, Any], history: tuple[str, ...]) -> ImageConfig:
    """Return the parts of `image inspect`; docker and podman omit empty ones or give null."""
    config = description.get("Config") or {}
    health = config.get("Healthcheck") or description.get("Healthcheck") or {}
    return ImageConfig(
        image_id=description["Id"],
        workdir=config.get("WorkingDir") or "/",
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        environment=dict(entry.split("=", 1) for entry in config.get("Env") or () if "=" in entry),
        labels=dict(config.get("Labels") or {}),
        ports=frozenset(config.get("ExposedPorts") or ()),
        healthcheck=tuple(health.get("Test") or ()),
        history=history,
    )
