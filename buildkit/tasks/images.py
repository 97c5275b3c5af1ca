"""Task `images`: an image on each of many base images, from one context; safe to kill and to run again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit.display import name_first
from buildkit.errors import BuildFailed, run
from buildkit.settings import FOR_A_BUILD
from buildkit.task import Flag, Outcome, Run, Task
from buildkit.values import parse_integer, parse_number, parse_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit.bulk.plan import Image

_WORKERS, _STALL_S = 4, 900.0
_NAMED = 50


def main(this: Run) -> Outcome:
    """Build an image on each of many base images: prints their references."""
    from buildkit.bulk.backends import BulkRequest
    from buildkit.bulk.report import describe
    from buildkit.bulk.session import Session

    given = this.flags
    request = BulkRequest(
        bases=given["bases"],
        shard=given["shard"],
        workers=given["workers"] or _WORKERS,
        only_failed=given["only_failed"],
        force=given["force"],
        push=given["push"],
        network=given["network"] or "",
        keep_free_bytes=given["keep_free"] or 0,
        stall_s=given["stall_timeout"] or _STALL_S,
    )
    this.check_folders()
    with this.writing():
        session = Session(this, request)
        images, backend = session.plan()
        this.ui.report(session.estimate(images))
        if given["dry_run"]:
            return Outcome("\n".join(map(_format_plan, images)), {"images": list(map(describe, images))})
        session.build(images, backend)
    missing = [image for image in images if not image.is_there]
    if missing:
        _report_missing(this, missing, len(images))
    there = "\n".join(str(image.reference) for image in images if image.is_there)
    return Outcome(there, {"images": list(map(describe, images))}, BuildFailed.exit_code if missing else 0)


def _format_plan(image: Image) -> str:
    reason = f": {image.error}" if image.error else ""
    return f"{image.state:<13}  {image.name}  {image.entry.base}  {image.reference}{reason}"


def _report_missing(this: Run, missing: Sequence[Image], total: int) -> None:
    names = name_first([image.name for image in missing], _NAMED)
    this.ui.fail(
        f"{len(missing)} of {total} images are missing: {names}",
        f"read why in {this.workspace.show('images.md')}; {run('images', '--only-failed')} builds those that failed",
        BuildFailed.exit_code,
        as_json=False,
    )


TASK = Task(
    "images",
    main,
    groups=(*FOR_A_BUILD, "engine"),
    flags=(
        Flag("bases", "file with one base image per line, instead of images.toml", takes_value=True),
        Flag("workers", f"images at a time; {_WORKERS} if not given", parse=parse_integer(1, 256)),
        Flag("shard", "build only this share of the images, such as 2/5", takes_value=True),
        Flag("only_failed", "build only the images that failed last time"),
        Flag("dry_run", "show what would be done, and build nothing"),
        Flag("force", "build images that are there already, too"),
        Flag("push", "push the images to their registry; a Runtime API does so anyway"),
        Flag("network", "network of an engine's RUN steps, such as host", takes_value=True),
        Flag("keep_free", "bytes of the engine's disk to keep free, such as 75GB", parse=parse_size),
        Flag(
            "stall_timeout",
            f"seconds without output after which an engine's build is cancelled; {_STALL_S:g} if not given",
            parse=parse_number(1, 86400),
        ),
    ),
)
