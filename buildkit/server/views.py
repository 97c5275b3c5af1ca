"""What the pages show of a build: its steps, its failure, and how its context differs from an earlier one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit.display import format_duration
from buildkit.server.log_page import Line, iter_lines
from buildkit.server.records import Query
from buildkit.server.steps import CACHED, FAILED, RUNNING, parse_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit.server.records import Build
    from buildkit.server.server import Server
    from buildkit.server.steps import Step

_MAX_STEPS = 300
# How many of a step's last lines a page shows; the rest is a link away.
_OPEN_LINES, _CLOSED_LINES = 300, 30
_SEARCHED_BUILDS = 20


@dataclass(frozen=True)
class StepRow:
    """A step as its row shows it.

    Attributes:
        outcome: How long it took, or a word.
        hidden: How many lines come before those in `lines`.
    """

    stage: str
    instruction: str
    state: str
    outcome: str
    lines: list[Line]
    hidden: int


def list_steps(server: Server, build: Build) -> list[StepRow]:
    """Return a build's steps, in the order in which they began; of very many, the last ones."""
    steps = parse_steps(iter_lines(server.logs, build.id))
    return [_describe(step) for step in steps[-_MAX_STEPS:]]


def find_failed(steps: Sequence[StepRow]) -> StepRow | None:
    """Return the last step that failed, or None."""
    return next((step for step in reversed(steps) if step.state == FAILED), None)


def find_previous(server: Server, build: Build) -> tuple[Build, list[tuple[str, int]]] | None:
    """Return the last earlier build of the same image whose context is stored, and its files, or None."""
    repository = _read_repository(build.target_image)
    for earlier in server.store.list(Query(text=repository, limit=_SEARCHED_BUILDS, before=build.id)):
        if _read_repository(earlier.target_image) != repository or _has_same_context(earlier, build):
            continue
        files = list_files(server, earlier)
        if files is not None:
            return earlier, files
    return None


def list_files(server: Server, build: Build) -> list[tuple[str, int]] | None:
    """Return path and size of each file in a build's context, largest first, or None if it is no longer stored."""
    try:
        files = server.contexts.list_files(build)
    except FileNotFoundError:
        return None
    return sorted(files, key=lambda file: (-file[1], file[0]))


def _describe(step: Step) -> StepRow:
    outcome = "" if step.duration_s is None else format_duration(step.duration_s)
    if step.state in {CACHED, FAILED, RUNNING} or not outcome:
        outcome = step.state if step.state != FAILED or not outcome else f"failed after {outcome}"
    if not step.title:
        outcome = ""
    place, bracket, instruction = step.title.partition("] ")
    title = instruction if bracket and place.startswith("[") else step.title
    shown = _OPEN_LINES if step.state in {FAILED, RUNNING} else _CLOSED_LINES
    lines = [Line(number, text) for number, text in step.lines[-shown:]]
    hidden = step.dropped + len(step.lines) - len(lines)
    return StepRow(step.stage, title or "Other messages", step.state, outcome, lines, hidden)


def _read_repository(image: str) -> str:
    """Return an image's name without its tag and its digest."""
    name = image.partition("@")[0]
    path, _, tag = name.rpartition(":")
    return path if path and "/" not in tag else name


def _has_same_context(one: Build, other: Build) -> bool:
    return (one.context_sha256, one.source_sha256) == (other.context_sha256, other.source_sha256)
