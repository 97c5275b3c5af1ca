"""What an engine is asked for, and what it returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event


class BuildOptions(NamedTuple):
    """How an image is built.

    Attributes:
        push: Whether the image goes to its registry, under every name.
        network: Of the RUN steps, such as `host`; the engine's own default if empty.
        target: A stage; the last one if empty, which is what our archives are made for.
        cancelled: Set from any thread to cancel the build.
        structured: Whether BuildKit reports its steps as JSON where it can, which gives exact times and whole logs. The
            lines that are reported look the same.
        build_args: Values of the Dockerfile's arguments, by name.
        attest: If not empty, the pushed image gets provenance and an SBOM: `true` for one by the engine's own scanner,
            otherwise the scanner's image.
    """

    push: bool = False
    network: str = ""
    target: str = ""
    cancelled: Event | None = None
    structured: bool = False
    build_args: Mapping[str, str] = {}
    attest: str = ""


class BuiltImage(NamedTuple):
    """An image as its engine reports it; `digest` is the registry's, or None if nothing was pushed."""

    image_id: str
    digest: str | None
    elapsed_s: float


class Attestations(NamedTuple):
    """What is attested of an image: a document of SPDX, and provenance of SLSA."""

    sbom: dict[str, Any]
    provenance: dict[str, Any]


def format_common(images: Sequence[str], options: BuildOptions) -> list[str]:
    """Return the arguments of a build that every engine spells the same."""
    common = [f"--tag={image}" for image in images]
    common += [f"--build-arg={name}={value}" for name, value in options.build_args.items()]
    common += [f"--target={options.target}"] if options.target else []
    return common + ([f"--network={options.network}"] if options.network else [])
