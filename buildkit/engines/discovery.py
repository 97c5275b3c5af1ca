"""Which container engine at hand really answers, and why the others do not."""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING

from buildkit.engines.engine import Engine, run_engine
from buildkit.errors import NotStarted, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable

ENGINES = ("docker", "buildx", "podman", "buildah")
_AUTO_ORDER = ("docker", "podman", "buildah")
_PROBE_TIMEOUT_S = 20.0
# From this version on `docker build` needs the buildx plugin for BuildKit (https://docs.docker.com/go/buildx/).
_FIRST_CLIENT_NEEDING_BUILDX = 23


def find_engine(name: str = "auto", *, builder: str | None = None) -> Engine:
    """Return the engine called `name`, or for `auto` the first of docker, podman and buildah that answers.

    Args:
        builder: A buildx builder; with `auto` it asks for buildx.

    Raises:
        SettingError: There is no engine of that name, or it takes no builder.
        NotStarted: None answers; the message says why each did not.
    """
    if name not in ("auto", *ENGINES):
        raise SettingError(f"ENGINE={name} is not an engine", f"set ENGINE to auto, {', '.join(ENGINES)}")
    if builder and name not in ("auto", "buildx"):
        raise SettingError(f"BUILDER={builder} is for buildx, but ENGINE={name}", "set ENGINE=buildx, or unset BUILDER")
    candidates = _AUTO_ORDER if name == "auto" else (name,)
    refusals: list[str] = []
    for candidate in ("buildx",) if builder else candidates:
        programs = list(_list_programs("docker" if candidate == "buildx" else candidate))
        if not programs:
            refusals.append(f"{candidate} is not installed")
        for program in programs:
            try:
                return check_engine(Engine(candidate, program, builder))
            except NotStarted as refusal:
                refusals.append(refusal.message)
    raise NotStarted(f"no container engine answers: {'; '.join(refusals)}", _advise_on(name, builder))


def check_engine(engine: Engine) -> Engine:
    """Return `engine` with its version, after it has answered.

    Raises:
        NotStarted: It does not answer, or cannot build with BuildKit.
    """
    if engine.name == "podman":
        version = _ask(engine, "info", "--format", "{{.Version.Version}}")
    elif engine.name == "buildah":
        _ask(engine, "info")
        version = _ask(engine, "--version").removeprefix("buildah version ").split(" ")[0]
    elif engine.builder:
        version = _ask_builder(engine, engine.builder)
    else:
        version = _ask_docker(engine)
    return Engine(engine.name, engine.program, engine.builder, version)


def _list_programs(name: str) -> Iterable[str]:
    """Yield each different command of that name on the PATH, in its order."""
    seen: set[str] = set()
    for folder in os.get_exec_path():
        program = shutil.which(name, path=folder)
        if program and os.path.realpath(program) not in seen:
            seen.add(os.path.realpath(program))
            yield program


def _ask(engine: Engine, *arguments: str) -> str:
    """Return the answer, which must come at once and be a success."""
    output = run_engine(engine, *arguments, timeout_s=_PROBE_TIMEOUT_S)
    if output.code:
        reason = (output.stderr or output.stdout or f"exit code {output.code}").splitlines()[0]
        raise NotStarted(
            f"{engine.program} {' '.join(arguments[:2])}: {reason}", _advise_on(engine.name, engine.builder)
        )
    return output.stdout


def _ask_docker(engine: Engine) -> str:
    """Return the version of the server that the client reaches, when the two of them speak BuildKit."""
    answer = json.loads(_ask(engine, "version", "--format", "{{json .}}"))
    client = str(answer["Client"]["Version"])
    needs_plugin = engine.name == "buildx" or int(client.partition(".")[0]) >= _FIRST_CLIENT_NEEDING_BUILDX
    if needs_plugin and run_engine(engine, "buildx", "version", timeout_s=_PROBE_TIMEOUT_S).code:
        raise NotStarted(
            f"{engine.program} {client} has no buildx plugin, which it needs for BuildKit",
            "install the plugin (on Debian: `apt-get install docker-buildx`)",
        )
    return str(answer["Server"]["Version"])


def _ask_builder(engine: Engine, builder: str) -> str:
    """Return buildx's version, when it knows the builder and reaches it; `inspect` succeeds for one it cannot reach."""
    version = _ask(engine, "buildx", "version")
    error = re.search(r"^Error:\s*(.+)", _ask(engine, "buildx", "inspect", builder), re.MULTILINE)
    if error:
        raise NotStarted(f"builder {builder}: {error[1]}", _advise_on(engine.name, builder))
    return version.split(" ")[1]


def _advise_on(name: str, builder: str | None) -> str:
    if builder:
        return f"create the builder: `docker buildx create --name {builder} …`, and look at `docker buildx ls`"
    if name == "auto":
        return "install one and start it: `apt-get install docker.io`, `podman` or `buildah`; ENGINE=… says which"
    package = {"docker": "docker.io", "buildx": "docker.io docker-buildx"}.get(name, name)
    return f"install and start it (on Debian: `apt-get install {package}`), or set ENGINE=auto"
