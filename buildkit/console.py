"""What people and programs see: results on stdout, the story on stderr; progress on a terminal, plain lines in CI."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from buildkit.display import escape_controls, format_size
from buildkit.secret import SHORTEST_SEARCHED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from buildkit.errors import RuntimeBuildError
    from buildkit.models import Finding
    from buildkit.secret import ApiKey

_PREFIX = "[runtime-build] "
_PLAIN_INTERVAL_S = 10.0


class Console:
    """Writes to the two streams; a stream that is closed or full never changes what a task does.

    Args:
        github_output: The file that GitHub's runners read outputs from; empty elsewhere.
        key: Masked in all that is written, whoever wrote it there: a file name, a server, a commit.
    """

    def __init__(self, github_output: str = "", key: ApiKey | None = None) -> None:
        self._github_output = github_output
        self._key = key if key and len(key.reveal()) >= SHORTEST_SEARCHED else None

    def report(self, line: str) -> None:
        """Write a line of the story."""
        self._write(sys.stderr, f"{_PREFIX}{escape_controls(line)}\n")

    def warn(self, line: str) -> None:
        """Write a warning."""
        self._write(sys.stderr, f"{_PREFIX}warning: {escape_controls(line)}\n")

    def show(self, text: str) -> None:
        """Write a result, where there is one: the only thing that goes to stdout."""
        if text:
            self._write(sys.stdout, f"{escape_controls(text, keep=chr(10))}\n")

    def fail(self, error: RuntimeBuildError, *, as_json: bool) -> None:
        """Write what happened and what to do about it."""
        self._write(sys.stderr, f"error: {error.message}\nfix:   {error.fix}\n")
        if as_json:
            record = {"schema": 1, "error": error.message, "fix": error.fix, "exit_code": error.exit_code}
            self.show(json.dumps(record, indent=2))

    def show_findings(self, findings: Sequence[Finding]) -> None:
        """Write a table of findings, a line each, with its fix where something is wrong."""
        width = max((len(finding.subject) for finding in findings), default=0)
        for finding in findings:
            mark = "ok  " if finding.ok else "FAIL"
            self.report(f"{mark}  {finding.subject:<{width}}  {finding.detail}")
            if not finding.ok and finding.fix:
                self.report(f"      {'':<{width}}  fix: {finding.fix}")

    def publish(self, **outputs: str | None) -> None:
        """Hand outputs to the later steps of a GitHub job."""
        known = {name: value for name, value in outputs.items() if value}
        if not self._github_output or not known:
            return
        mark = f"end-{os.urandom(16).hex()}"  # a value cannot hold what nobody can guess
        text = "".join(f"{name}<<{mark}\n{value}\n{mark}\n" for name, value in known.items())
        try:
            with Path(self._github_output).open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
        except OSError as error:
            self.warn(f"GITHUB_OUTPUT cannot be written: {error.strerror}")

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Give a function to call with the bytes done and, where it is known, their total."""
        if sys.stderr is not None and sys.stderr.isatty():
            with _draw_progress(label) as update:
                yield update
        else:
            yield _PlainProgress(label, self.report)

    def _write(self, stream: IO[str] | None, text: str) -> None:
        _write(stream, self._key.scrub(text) if self._key else text)


class _PlainProgress:
    """A line now and then, for logs: nothing at all where the work is short."""

    def __init__(self, label: str, report: Callable[[str], None]) -> None:
        self._label = label
        self._report = report
        self._next_s = time.monotonic() + _PLAIN_INTERVAL_S

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _PLAIN_INTERVAL_S
            of_total = f" of {format_size(total)}" if total else ""
            self._report(f"{self._label}: {format_size(done)}{of_total}")


@contextmanager
def _draw_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn(f"{_PREFIX.strip()} {label}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=RichConsole(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total or None)

        yield update


def settle_streams() -> None:
    """Write what is left in the streams, or drop it: the interpreter complains of a reader that went away."""
    for stream in (sys.stdout, sys.stderr):
        _write(stream, "")


def _write(stream: IO[str] | None, text: str) -> None:
    """Write and flush; what the encoding lacks is escaped, and a reader that went away is no failure of ours."""
    if stream is None:  # as Python has it where the descriptor was closed from the start
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        _discard(stream)


def _discard(stream: IO[str]) -> None:
    """Send what is still buffered nowhere, or the interpreter complains of it at its end."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != stream.fileno():  # a closed stream's number may be the one that is given out
            os.dup2(null, stream.fileno())
            os.close(null)
    except (OSError, ValueError):
        return
