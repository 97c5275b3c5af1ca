"""Task `build`: an image from the archive, built by a local engine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from buildkit import record
from buildkit.errors import SettingError
from buildkit.models import LocalBuild
from buildkit.record import ImageNaming
from buildkit.reference import parse_reference
from buildkit.state import SCHEMA
from buildkit.task import Flag, Outcome, Run, Task
from buildkit.workspace import ATTESTATIONS

if TYPE_CHECKING:
    from buildkit.engines.engine import Engine
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace


class BuildRequest(NamedTuple):
    """What is built.

    Attributes:
        push: Whether the image goes to its registry, under every name.
        network: Of the engine's RUN steps, such as `host`; its own default if empty.
        attest: Whether the image gets an SBOM and provenance, and who scans it; see `BuildOptions`.
    """

    naming: ImageNaming
    push: bool = False
    network: str = ""
    attest: str = ""


def build(workspace: Workspace, engine: Engine, request: BuildRequest, ui: Ui) -> LocalBuild:
    """Build the archive in the workspace and return the image.

    Raises:
        LocalError: Something is missing or has changed since it was packed.
        SettingError: An image name is invalid, or the engine attests nothing.
        BuildFailed: The build or the push failed; the message has the end of the log.
        NotStarted: The engine no longer responds.
    """
    from buildkit.display import strip_sequences
    from buildkit.engines.options import BuildOptions

    _check_attest(engine, request)
    inputs = record.load_inputs(workspace)
    images = request.naming.name_images(inputs)
    ui.report(f"building {images[0]} with {engine}")
    options = BuildOptions(request.push, request.network, attest=request.attest)
    with record.open_archive(workspace, inputs.context) as archive:
        image = engine.build(archive, images, options, lambda line: ui.report(strip_sequences(line)))
    made_from = workspace.digests("context.json")
    built = LocalBuild(engine.name, images[0], image.image_id, image.digest, image.elapsed_s, made_from=made_from)
    workspace.save(built)
    ui.publish(image=built.image, digest=built.digest)
    workspace.remove(ATTESTATIONS)
    if request.attest and built.digest:
        _save_attestations(workspace, engine, f"{parse_reference(built.image).name}@{built.digest}")
    return built


def _check_attest(engine: Engine, request: BuildRequest) -> None:
    """Refuse to promise attestations that there would be none of."""
    if request.attest and not engine.can_attest:
        fix = "set ENGINE=buildx, or BUILDER to a buildx builder"
        raise SettingError(f"--attest needs buildx: {engine.name} makes neither SBOM nor provenance", fix)
    if request.attest and not request.push:
        raise SettingError("--attest needs a registry, where attestations are kept with the image", "add --push")


def _save_attestations(workspace: Workspace, engine: Engine, image: str) -> None:
    """Keep what the registry has of an image, given with its digest, next to the record of the build."""
    record = {"schema": SCHEMA, "image": image, **engine.read_attestations(image)._asdict()}
    workspace.write(ATTESTATIONS, f"{json.dumps(record, indent=2, sort_keys=True)}\n".encode())


def main(this: Run) -> Outcome:
    """Build the archive with a local engine: prints the image reference."""
    from buildkit.engines import find_engine

    settings = this.settings
    naming = ImageNaming(settings.image_name, settings.target_image)
    scanner = this.flags["attest"]
    attest = "" if scanner is None else "true" if scanner is True else str(scanner)
    with this.writing():
        engine = find_engine(settings.engine, settings.builder)
        request = BuildRequest(naming, this.flags["push"], this.flags["network"] or "", attest=attest)
        built = build(this.workspace, engine, request, this.ui)
    return Outcome(built.image, built)


TASK = Task(
    "build",
    main,
    groups=("image", "engine"),
    flags=(
        Flag("push", "push the image to its registry"),
        Flag(
            "attest",
            "attach an SBOM and provenance to the pushed image, and save both; a value is the image of the scanner",
            parse=parse_reference,
            is_optional=True,
        ),
        Flag("network", "network of the RUN steps, such as host", takes_value=True),
    ),
)
