"""The steps of a build, read from its log: BuildKit's lines, those of podman and buildah, and our own notes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from buildkit.display import strip_sequences

if TYPE_CHECKING:
    from collections.abc import Iterable

_NOTE = "[runtime-build] "
# BuildKit: `#7 [builder 2/5] RUN make`, `#7 0.412 output`, `#7 DONE 3.1s`, `#7 CACHED`, `#7 ERROR: reason`.
_BUILDKIT = re.compile(r"#(?P<number>\d+) (?P<rest>.*)")
_BUILDKIT_TITLE = re.compile(r"\[[^\]]+\] .+|(?:exporting|importing|pushing) .+")
_BUILDKIT_STAGE = re.compile(r"\[(?P<stage>[^\]]*?) ?(?:\d+/\d+)?\] ")
_BUILDKIT_END = re.compile(r"(?P<word>DONE|CACHED|CANCELED|ERROR)(?:: (?P<reason>.*)| (?P<seconds>[\d.]+)s)?")
_OUTPUT_TIME = re.compile(r"\d+\.\d+ ?")
# podman and buildah: `STEP 2/5: RUN make`, with `[1/2] ` before it if there are several stages.
_PODMAN_TITLE = re.compile(r"(?:\[(?P<stage>\d+/\d+)\] )?STEP \d+(?:/\d+)?: .+")
_PODMAN_CACHED = "--> Using cache"
_PODMAN_ERROR = re.compile(r"Error: |.*error building at STEP ")

RUNNING, DONE, CACHED, FAILED, CANCELLED = "running", "done", "cached", "failed", "cancelled"
_ENDS = {"DONE": DONE, "CACHED": CACHED, "CANCELED": CANCELLED, "ERROR": FAILED}
_KEPT_LINES = 300  # of each step, at least: a log may be of any length
# What becomes of a step whose end the log does not show, by the first word of our note on the end of the build.
_NOTED_ENDS = {"SUCCESS": DONE, "FAILURE": FAILED}


@dataclass
class Step:
    """A step of a build.

    Attributes:
        title: The instruction with its place, such as `[builder 2/5] RUN make`.
        state: `running`, `done`, `cached`, `failed` or `cancelled`.
        duration_s: None if it has not ended, or the engine does not say.
        lines: The end of its output, each line with its number in the log, from 1.
        dropped: How many lines of output came before those.
    """

    title: str
    stage: str = ""
    state: str = RUNNING
    duration_s: float | None = None
    lines: list[tuple[int, str]] = field(default_factory=list)
    dropped: int = 0

    def add_line(self, number: int, text: str) -> None:
        """Add a line of output."""
        self.lines.append((number, text))
        excess = len(self.lines) - _KEPT_LINES
        if excess > _KEPT_LINES:
            del self.lines[:excess]
            self.dropped += excess


def format_note(text: str) -> str:
    """Return a line of the log that the server itself writes."""
    return _NOTE + text


def format_start(text: str) -> str:
    """Return the note that begins an attempt: what follows belongs to no earlier attempt."""
    return format_note(f"building {text}")


def read_title(line: str) -> str | None:
    """Return the title of the step that begins with this line of the log, or None."""
    line = strip_sequences(line)
    if match := _BUILDKIT.fullmatch(line):
        return match["rest"] if _BUILDKIT_TITLE.fullmatch(match["rest"]) else None
    return line if _PODMAN_TITLE.fullmatch(line) else None


def parse_steps(lines: Iterable[str]) -> list[Step]:
    """Return the steps of the last attempt in a log, which may still grow, in the order in which they began.

    Lines that belong to no step are in a last step without a title, if there are any.
    """
    attempt = _AttemptReader()
    for number, line in enumerate(lines, 1):
        if line.startswith(format_start("")):
            attempt = _AttemptReader()
        attempt.read(number, line)
    return [*attempt.steps, *([attempt.rest] if attempt.rest.lines else [])]


class _AttemptReader:
    """The steps of one attempt, line by line."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.rest = Step("", state=DONE)
        self._by_number: dict[str, Step] = {}
        self._podman_step: Step | None = None

    def read(self, number: int, line: str) -> None:
        """Read the next line."""
        if line.startswith(_NOTE):
            self._end_with_note(line.removeprefix(_NOTE))
            self.rest.add_line(number, line)
        elif match := _PODMAN_TITLE.fullmatch(line):
            self._end_podman_step()
            self._podman_step = self._begin(Step(strip_sequences(line), match["stage"] or ""))
        elif self._podman_step:
            self._read_podman(self._podman_step, number, line)
        elif match := _BUILDKIT.fullmatch(line):
            self._read_buildkit(match["number"], number, match["rest"])
        else:
            self.rest.add_line(number, line)

    def _begin(self, step: Step) -> Step:
        self.steps.append(step)
        return step

    def _end_with_note(self, note: str) -> None:
        if note.startswith("building "):
            return
        state = _NOTED_ENDS.get(note.partition(":")[0], CANCELLED)
        for step in self.steps:
            if step.state == RUNNING:
                step.state = state

    def _read_buildkit(self, vertex: str, number: int, text: str) -> None:
        step = self._by_number.get(vertex)
        if step is None:
            stage = _BUILDKIT_STAGE.match(text)
            self._by_number[vertex] = self._begin(Step(strip_sequences(text), stage["stage"] if stage else ""))
        elif match := _BUILDKIT_END.fullmatch(text):
            step.state = _ENDS[match["word"]]
            step.duration_s = float(match["seconds"]) if match["seconds"] else step.duration_s
            if match["reason"]:
                step.add_line(number, match["reason"])
        elif strip_sequences(text) not in {step.title, "..."}:  # what BuildKit repeats when it comes back to a step
            step.add_line(number, _OUTPUT_TIME.sub("", text, count=1) if _OUTPUT_TIME.match(text) else text)

    def _read_podman(self, step: Step, number: int, line: str) -> None:
        if line.startswith(_PODMAN_CACHED):
            step.state = CACHED
        elif _PODMAN_ERROR.match(line):
            step.state = FAILED
        elif line.startswith("COMMIT "):
            self._end_podman_step()
        step.add_line(number, line)

    def _end_podman_step(self) -> None:
        if self._podman_step and self._podman_step.state == RUNNING:
            self._podman_step.state = DONE
