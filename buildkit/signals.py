"""Shutdown on a signal: the first one unwinds, so that temporary files are removed; a second one ends the process."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# Windows has no SIGHUP.
_HANDLED = (signal.SIGINT, signal.SIGTERM, *(number for number in signal.Signals if number.name == "SIGHUP"))


class Interrupted(BaseException):
    """A signal asked us to stop; not an `Exception`, so that nothing mistakes it for a failure of its own.

    Attributes:
        fix: What to do next. Whoever knows more than "run it again" replaces it on the way up.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
        self.fix = "run it again"


@contextmanager
def advising(fix: str) -> Iterator[None]:
    """Let an interruption of the block end with this advice."""
    try:
        yield
    except Interrupted as interrupted:
        interrupted.fix = fix
        raise


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Raise `Interrupted` in the block on SIGINT, SIGTERM or SIGHUP; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What our caller ignores stays ignored: `nohup` means a run that outlives its terminal.
    numbers = [number for number in _HANDLED if signal.getsignal(number) is not signal.SIG_IGN]

    def interrupt(number: int, _: FrameType | None) -> None:
        for handled in numbers:
            signal.signal(handled, signal.SIG_DFL)
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in numbers}
    interrupted = False
    try:
        yield
    except Interrupted:
        interrupted = True
        raise
    finally:
        for number, handler in before.items():
            # Nothing is restored after the first signal: a traceback is no use to somebody who pressed Ctrl-C twice.
            signal.signal(number, signal.SIG_DFL if interrupted else handler)


def end_at_once_on_interrupt() -> None:
    """Let Ctrl-C end the process until a task handles signals itself; Python would print a traceback of its imports."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
