"""Task `builds`: list the builds of the server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from buildkit.task import Flag, Outcome, Task
from buildkit.values import parse_integer

if TYPE_CHECKING:
    from buildkit.runtime_api.protocol import ListedBuild
    from buildkit.task import Run

_MAX_LISTED = 500
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))


def format_build(build: ListedBuild, now: float) -> str:
    """Return one line: build ID, status, image and age."""
    age = "-" if build.created_at is None else format_age(now - build.created_at)
    return f"{build.build_id}  {build.status or '-'}  {build.image or '-'}  {age}"


def format_age(age_s: float) -> str:
    """Return an age for people in its largest unit.

    >>> format_age(59.9), format_age(7300)
    ('59s', '2h')
    """
    seconds = max(0, int(age_s))
    return next((f"{seconds // size}{unit}" for size, unit in _UNITS if seconds >= size), f"{seconds}s")


def main(this: Run) -> Outcome:
    """List the builds of the Runtime API, the newest first: one line each."""
    from buildkit.runtime_api.builds import list_builds

    api, flags = this.open_api(), this.flags
    wanted = {"status": (flags["status"] or "").upper(), "image": flags["image"], "limit": flags["limit"]}
    builds = list_builds(api, {name: str(value) for name, value in wanted.items() if value})
    now = time.time()
    lines = (format_build(build, now) for build in builds)
    return Outcome(lines, {"builds": [build._asdict() for build in builds]})


TASK = Task(
    "builds",
    main,
    groups=("api",),
    flags=(
        Flag("status", "list only builds with this status", takes_value=True),
        Flag("image", "list only builds whose image contains this text", takes_value=True),
        Flag("limit", f"how many builds to list, at most {_MAX_LISTED}", parse=parse_integer(1, _MAX_LISTED)),
    ),
)
