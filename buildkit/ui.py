"""What people and programs see: results on stdout, progress messages on stderr, outputs in GitHub's files."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from io import TextIOWrapper
from typing import IO, TYPE_CHECKING

from buildkit.display import escape_controls, format_size
from buildkit.errors import PROGRAM
from buildkit.files import append_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import Console, RenderableType

    from buildkit.models import Finding
    from buildkit.secret import ApiKey

    Progress = Callable[[int, int], None]
    Live = Callable[[str, str], None]

_PREFIX = "[runtime-build] "
_PLAIN_INTERVAL_S = 10.0


class Ui:
    """Writes to the two streams; a stream that is closed or full never changes what a task does.

    Args:
        program: How the user started us, `runtime-build` or `invoke`: suggested commands are spelled that way.
        github_output: The file that GitHub's runners read outputs from; empty elsewhere.
        annotates: Whether a GitHub runner reads the streams, and shows warnings and errors on the job's page.
        key: Masked in everything that is written, whoever put it there: a file name, a server, a commit.
    """

    def __init__(
        self, *, program: str = PROGRAM, github_output: str = "", annotates: bool = False, key: ApiKey | None = None
    ) -> None:
        self._program = program
        self._github_output = github_output
        self._annotates = annotates
        self._key = key if key and key.is_searchable else None
        self._console: Console | None = None

    def report(self, line: str) -> None:
        """Write a progress message."""
        self._write(sys.stderr, f"{_PREFIX}{escape_controls(self._spell(line))}\n")

    def warn(self, line: str) -> None:
        """Write a warning."""
        text = escape_controls(self._spell(line))
        self._write(sys.stderr, _annotate("warning", text) if self._annotates else f"{_PREFIX}warning: {text}\n")

    def offer(self, text: str) -> None:
        """Write lines on stderr without a prefix, because they are there to be copied."""
        self._write(sys.stderr, f"{escape_controls(text, keep=chr(10))}\n")

    def show(self, text: str) -> None:
        """Write a result, if there is one: the only thing that goes to stdout."""
        if text:
            self._write(sys.stdout, f"{escape_controls(text, keep=chr(10))}\n")

    def show_lines(self, lines: Iterable[str]) -> None:
        """Write the lines of a result as they come, empty ones as well."""
        for line in lines:
            self._write(sys.stdout, f"{escape_controls(line, keep=chr(9))}\n")

    def fail(self, message: str, fix: str, exit_code: int, *, as_json: bool) -> None:
        """Write what happened and what to do about it."""
        message, fix = escape_controls(self._spell(message)), escape_controls(self._spell(fix))
        if self._annotates:
            self._write(sys.stderr, _annotate("error", f"{message}\n{fix}"))
        self._write(sys.stderr, f"error: {message}\nfix:   {fix}\n")
        if as_json:
            record = {"schema": 1, "error": message, "fix": fix, "exit_code": exit_code}
            self.show(json.dumps(record, indent=2))

    def show_findings(self, findings: Sequence[Finding]) -> None:
        """Write a table of findings, a line each, with the fix below each one that is wrong."""
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
        mark = f"end-{os.urandom(16).hex()}"  # a value cannot contain what nobody can guess
        text = "".join(f"{name}<<{mark}\n{value}\n{mark}\n" for name, value in known.items())
        try:
            append_regular(self._github_output, text.encode("utf-8", "surrogateescape"))
        except OSError as error:
            self.warn(f"GITHUB_OUTPUT cannot be written: {error.strerror}")
            self._github_output = ""  # one warning is enough

    @contextmanager
    def keeping(self, draw: Callable[[], RenderableType]) -> Iterator[None]:
        """Keep what `draw` returns at the bottom of the terminal while the block runs; elsewhere, do nothing.

        Messages scroll above it.
        """
        console = _find_console()
        if console is None:
            yield
            return
        from rich.live import Live

        with Live(get_renderable=draw, console=console, transient=True, refresh_per_second=4) as live:
            self._console = live.console
            try:
                yield
            finally:
                self._console = None

    @contextmanager
    def progress(self, label: str) -> Iterator[Progress]:
        """Give a function to call with the bytes done and, if it is known, their total (otherwise 0)."""
        console = _find_console()
        if console:
            from buildkit.drawing import draw_progress

            with draw_progress(f"{_PREFIX}{label}", console) as update:
                yield update
        else:
            yield _PlainProgress(label, self.report)

    @contextmanager
    def live(self, label: str) -> Iterator[Live]:
        """Give a function to call with a status and a detail, which are a line on a terminal, and nothing elsewhere."""
        console = _find_console()
        if console:
            from buildkit.drawing import draw_live

            with draw_live(label, console) as show:
                yield show
        else:
            yield lambda *_: None

    def _spell(self, text: str) -> str:
        """Return text with the commands that `errors.run` wrote as the user would type them."""
        return text if self._program == PROGRAM else text.replace(f"`{PROGRAM} ", f"`{self._program} ")

    def _write(self, stream: IO[str] | None, text: str) -> None:
        text = self._key.scrub(text) if self._key else text
        if self._console is not None and stream is sys.stderr:
            self._console.out(text, end="", highlight=False)
        else:
            _write(stream, text)


class _PlainProgress:
    """A line now and then, for logs; nothing at all if the work is short."""

    def __init__(self, label: str, report: Callable[[str], None]) -> None:
        self._label = label
        self._report = report
        self._next_s = time.monotonic() + _PLAIN_INTERVAL_S

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _PLAIN_INTERVAL_S
            of_total = f" of {format_size(total)}" if total else ""
            self._report(f"{self._label}: {format_size(done)}{of_total}")


def _find_console() -> Console | None:
    """Return the terminal on stderr, or None if stderr is not one, or if it cannot draw over a line (TERM=dumb)."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    from rich.console import Console as RichConsole

    console = RichConsole(stderr=True)
    return None if console.is_dumb_terminal else console


def _annotate(kind: str, text: str) -> str:
    """Return a workflow command (https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands)."""
    data = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{kind} title={PROGRAM}::{data}\n"


def escape_what_the_streams_lack() -> None:
    """Have characters that a stream's encoding lacks written as escapes, whoever writes them: invoke's help, too."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_streams() -> None:
    """Write what is left in the streams, or drop it: at exit the interpreter would complain about a closed pipe."""
    for stream in (sys.stdout, sys.stderr):
        _write(stream, "")


def _write(stream: IO[str] | None, text: str) -> None:
    """Write and flush; characters that the encoding lacks are escaped, and a closed pipe is not an error."""
    if stream is None:  # the descriptor was closed when Python started
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        _discard(stream)


def _discard(stream: IO[str]) -> None:
    """Discard what is still buffered, or the interpreter would complain about it at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != stream.fileno():  # a closed stream's number may be reused
            os.dup2(null, stream.fileno())
            os.close(null)
    except (OSError, ValueError):
        return
