"""Images and containers of an engine at hand: looked at, started without a network, entered, stopped."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from buildkit.engines.engine import run_engine
from buildkit.errors import BuildFailed, NotStarted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from buildkit.engines.engine import Engine, Output

_PULL_TIMEOUT_S = 1800.0
_STOP_TIMEOUT_S = 10
# `docker run` and `podman run` end so where a program of the image cannot be run, or is not there …
_PROGRAM_FAULTS = (126, 127)
# … but with an engine's own 125 where the image has no such user, or says nothing of what to run.
_IMAGE_FAULTS = re.compile(r"unable to find user|no command", re.IGNORECASE)


@dataclass(frozen=True)
class ImageConfig:
    """What an image says of itself; `history` holds the commands that made its layers."""

    image_id: str
    user: str
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
    """A container that is there until its `start_container` block ends."""

    engine: Engine
    name: str

    def enter(self, *command: str, timeout_s: float = 60.0) -> Output:
        """Return what `command` left, run inside as the image's user."""
        return run_engine(self.engine, "exec", self.name, *command, timeout_s=timeout_s)

    def is_running(self) -> bool:
        """Return whether its first process still lives."""
        return self._inspect("{{.State.Running}}") == "true"

    def read_log(self) -> str:
        """Return what it wrote, both streams."""
        output = run_engine(self.engine, "logs", "--tail=20", self.name)
        return f"{output.stdout}\n{output.stderr}".strip()

    def stop(self) -> tuple[float, int]:
        """Return the seconds it took to end on its stop signal, and its exit code: 137 where it had to be killed."""
        started = time.monotonic()
        run_engine(self.engine, "stop", "-t", str(_STOP_TIMEOUT_S), self.name)
        stop_s = time.monotonic() - started
        return round(stop_s, 2), int(self._inspect("{{.State.ExitCode}}") or -1)

    def _inspect(self, template: str) -> str:
        return run_engine(self.engine, "inspect", f"--format={template}", self.name).stdout


@contextlib.contextmanager
def start_container(
    engine: Engine,
    image: str,
    arguments: Sequence[str] = (),
    *,
    entrypoint: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Container]:
    """Yield a running container that has a loopback of its own and no other network; it is removed at the end.

    Its server therefore takes no port of the machine and is reached from inside, by `Container.enter`.

    Args:
        arguments: Replace the image's CMD.
        entrypoint: One program, replaces the image's ENTRYPOINT.
        environment: Never in the arguments, which everybody on the machine can read.

    Raises:
        NotStarted: The engine cannot run containers.
        BuildFailed: It can, but the image has no such user or program.
    """
    # Named here and not by the engine: an interruption must not leave one behind whose name nobody has read.
    container = Container(engine, f"runtime-build-{secrets.token_hex(8)}")
    options = ["--detach", f"--name={container.name}", "--network=none", "--env-file=/dev/stdin"]
    options += [f"--entrypoint={entrypoint}"] if entrypoint else []
    lines = "".join(f"{name}={value}\n" for name, value in (environment or {}).items())
    try:
        output = run_engine(engine, "run", *options, image, *arguments, stdin=lines)
        if output.code:
            reason = (output.stderr or output.stdout).partition("\n")[0]
            at_fault = output.code in _PROGRAM_FAULTS or _IMAGE_FAULTS.search(reason)
            raise (BuildFailed if at_fault else NotStarted)(
                f"{engine.name} cannot start {image}: {reason}",
                f"try `{engine.name} run --rm {image} --help`",
            )
        yield container
    finally:
        run_engine(engine, "rm", "--force", "--volumes", container.name)


def inspect_image(engine: Engine, image: str) -> ImageConfig:
    """Return what the image says of itself, pulled first where the engine does not have it.

    Raises:
        NotStarted: It is neither here nor in its registry.
    """
    output = run_engine(engine, "image", "inspect", image)
    if output.code:
        pulled = run_engine(engine, "pull", image, timeout_s=_PULL_TIMEOUT_S)
        output = run_engine(engine, "image", "inspect", image)
        if output.code:
            reason = (pulled.stderr or pulled.stdout).rpartition("\n")[2]
            raise NotStarted(
                f"{engine.name} does not have {image} and cannot pull it: {reason}",
                "run `invoke build`, or give --image a reference that can be pulled",
            )
    history = run_engine(engine, "history", "--no-trunc", "--format={{.CreatedBy}}", image).stdout
    return _parse_image(json.loads(output.stdout)[0], tuple(history.splitlines()))


def _parse_image(description: dict[str, Any], history: tuple[str, ...]) -> ImageConfig:
    """Return the parts of `image inspect`; docker and podman leave empty ones out or say null."""
    config = description.get("Config") or {}
    health = config.get("Healthcheck") or description.get("Healthcheck") or {}
    return ImageConfig(
        image_id=description["Id"],
        user=config.get("User") or "",
        workdir=config.get("WorkingDir") or "/",
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        environment=dict(entry.split("=", 1) for entry in config.get("Env") or () if "=" in entry),
        labels=dict(config.get("Labels") or {}),
        ports=frozenset(config.get("ExposedPorts") or ()),
        healthcheck=tuple(health.get("Test") or ()),
        history=history,
    )
