"""What is drawn on a terminal and drawn over again: the progress of a transfer, the status of a build."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console


# Of a terminal with fewer columns, a bar would take what the words need.
_NARROW = 70
_COLOURS = {"PENDING": "yellow", "QUEUED": "yellow"}  # of builds that do not run yet


@contextmanager
def draw_progress(label: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with the bytes done and their total, or 0; drawn as a bar if there is room for one."""
    text = TextColumn(label, markup=False)
    size = DownloadColumn(table_column=Column(no_wrap=True))
    columns = (text, size) if console.width < _NARROW else (text, BarColumn(), size, TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total or None)

        yield update


@contextmanager
def draw_live(label: str, console: Console) -> Iterator[Callable[[str, str], None]]:
    """Give a function to call with a status and a detail; they are drawn on one line, with the time."""
    is_unicode = console.encoding.startswith("utf")
    column = Column(no_wrap=True, overflow="ellipsis" if is_unicode else "crop")
    spinner = SpinnerColumn("dots" if is_unicode else "line")
    # Without a width of its own, the time would be shortened together with a long text.
    elapsed = TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=len("0:00:00")))
    columns = (spinner, elapsed, TextColumn("{task.description}", table_column=column))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(escape(label), total=None)

        def show(status: str, detail: str) -> None:
            colour = _COLOURS.get(status, "blue")
            progress.update(task, description=f"{escape(label)} [{colour}]{escape(status)}[/] {escape(detail)}")

        yield show
