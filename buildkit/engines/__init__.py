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
    candidates, refusals = _list_candidates(name, builders), list[str]()
    for engine in candidates:
        try:
            return engine.check()
        except NotStarted as refusal:
            refusals.append(refusal.message)
    advice = _AUTO_ADVICE if name == "auto" and not builders else candidates[0].advice
    raise NotStarted(f"no container engine responds: {'; '.join(dict.fromkeys(refusals))}", advice)


def list_engines(name: str = "auto", builders: Sequence[str] = ()) -> list[Engine]:
    """Return the engines that a server uses, of which some may not respond yet: one for each builder, otherwise one."""
    if builders:
        return _list_candidates(name, builders)[: len(builders)]
    try:
        return [find_engine(name)]
    except NotStarted:
        return _list_candidates(name, builders)[:1]


def _list_candidates(name: str, builders: Sequence[str]) -> list[Engine]:
    """Return an engine for each program on the PATH that may be meant, and one of each kind that has none."""
    kinds = ("buildx",) if builders else _AUTO_ORDER if name == "auto" else (name,)
    found: list[Engine] = []
    for kind in (_KINDS[kind] for kind in kinds):
        for program in list(list_programs(kind.command)) or [kind.command]:
            found += [Buildx(program, builder) for builder in builders] or [kind(program)]
    return found
