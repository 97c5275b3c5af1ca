"""Local container engines, one class each; `find_engine` returns one that responds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit.engines.docker import Buildx, Docker
from buildkit.engines.podman import Buildah, Podman
from buildkit.engines.process import list_programs
from buildkit.errors import NotStarted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit.engines.engine import Engine

_KINDS: dict[str, type[Engine]] = {kind.name: kind for kind in (Docker, Buildx, Podman, Buildah)}
_AUTO_ORDER = ("docker", "podman", "buildah")
_AUTO_ADVICE = "install and start one: `apt-get install docker.io`, `podman` or `buildah`; ENGINE=… chooses"


def find_engine(name: str = "auto", builders: Sequence[str] = ()) -> Engine:
    """Return the engine called `name`, or for `auto` the first of docker, podman and buildah that responds.

    Args:
        builders: buildx builders, which select buildx; the first one that responds is used.

    Raises:
        NotStarted: None responds; the message says why each one does not.
    """
    names = ("buildx",) if builders else _AUTO_ORDER if name == "auto" else (name,)
    refusals: list[str] = []
    for kind in (_KINDS[name] for name in names):
        programs = list(list_programs(kind.command))
        if not programs:
            refusals.append(f"{kind.name} is not installed")
        for program in programs:
            engines: list[Engine] = [Buildx(program, builder) for builder in builders]
            for engine in engines or [kind(program)]:
                try:
                    return engine.check()
                except NotStarted as refusal:
                    refusals.append(refusal.message)
    chosen = Buildx("docker", builders[0]) if builders else _KINDS[names[0]](names[0])
    advice = _AUTO_ADVICE if len(names) > 1 else chosen.advice
    raise NotStarted(f"no container engine responds: {'; '.join(refusals)}", advice)


def list_engines(name: str = "auto", builders: Sequence[str] = ()) -> list[Engine]:
    """Return the engines that a server uses, of which some may not respond yet: one for each builder, otherwise one."""
    if builders:
        program = next(list_programs(Buildx.command), Buildx.command)
        return [Buildx(program, builder) for builder in builders]
    try:
        return [find_engine(name)]
    except NotStarted:
        kind = _KINDS[_AUTO_ORDER[0] if name == "auto" else name]
        return [kind(kind.command)]
