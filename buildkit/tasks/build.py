"""Task `build`: an image from the archive, built by a local engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from buildkit import record
from buildkit.models import LocalBuild
from buildkit.record import ImageNaming
from buildkit.task import Flag, Outcome, Run, Task

if TYPE_CHECKING:
    from buildkit.engines.engine import Engine
    from buildkit.ui import Ui
    from buildkit.workspace import Workspace


class BuildRequest(NamedTuple):
    """What is built.

    Attributes:
        push: Whether the image goes to its registry, under every name.
        network: Of the engine's RUN steps, such as `host`; its own default if empty.
    """

    naming: ImageNaming
    push: bool = False
    network: str = ""


def build(workspace: Workspace, engine: Engine, request: BuildRequest, ui: Ui) -> LocalBuild:
    """Build the archive in the workspace and return the image.

    Raises:
        LocalError: Something is missing or has changed since it was packed.
        SettingError: An image name is invalid.
        BuildFailed: The build or the push failed; the message has the end of the log.
        NotStarted: The engine no longer responds.
    """
    from buildkit.engines.engine import BuildOptions
    from buildkit.terminal import strip_sequences

    inputs = record.load_inputs(workspace)
    images = request.naming.name_images(inputs)
    options = BuildOptions(request.push, request.network)
    ui.report(f"building {images[0]} with {engine}")
    with record.open_archive(workspace, inputs.context) as archive:
        image = engine.build(archive, images, options, lambda line: ui.report(strip_sequences(line)))
    made_from = workspace.digests("context.json")
    built = LocalBuild(engine.name, images[0], image.image_id, image.digest, image.elapsed_s, made_from=made_from)
    workspace.save(built)
    ui.publish(image=built.image, digest=built.digest)
    return built


def main(this: Run) -> Outcome:
    """Build the archive with a local engine: prints the image reference."""
    from buildkit.engines import find_engine

    settings = this.settings
    naming = ImageNaming(settings.image_name, settings.target_image)
    with this.writing():
        engine = find_engine(settings.engine, settings.builder)
        request = BuildRequest(naming, this.flags["push"], this.flags["network"] or "")
        built = build(this.workspace, engine, request, this.ui)
    return Outcome(built.image, built)


TASK = Task(
    "build",
    main,
    groups=("image", "engine"),
    flags=(
        Flag("push", "push the image to its registry"),
        Flag("network", "network of the RUN steps, such as host", takes_value=True),
    ),
)
