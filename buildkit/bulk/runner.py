"""The run: images are built side by side, failures stay on their own, and what will pass is tried again."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from buildkit.bulk.journal import Ending
from buildkit.bulk.plan import State
from buildkit.bulk.report import format_running, format_totals
from buildkit.errors import LocalError, NotStarted, OutcomeUnknown, RuntimeBuildError, StoppedWatching
from buildkit.runtime_api.policy import KEY_REFUSED, NOT_FOUND
from buildkit.runtime_api.retry import RequestFailed

if TYPE_CHECKING:
    from buildkit.bulk.board import Board
    from buildkit.bulk.journal import Journal
    from buildkit.bulk.local import LocalBuilds
    from buildkit.bulk.plan import Image
    from buildkit.bulk.remote import RemoteBuilds
    from buildkit.bulk.workers import Pace
    from buildkit.ui import Ui

_MAX_ATTEMPTS = 5
_MAX_STALLS = 2
_HEARTBEAT_S = 60.0
# In a row, with pauses of three minutes in all between them: what all images need is gone.
_MAX_FAILURES = 8
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
# A server that refuses the key, or does not build at all, will do so for every image.
_REFUSED = KEY_REFUSED | {NOT_FOUND, 407}


class Interruption(RuntimeBuildError):
    """The build ended for a reason that is not its own."""

    exit_code = 6


class Stalled(Interruption):
    """The build had logged nothing for too long, and was cancelled."""


class DiskFull(LocalError):
    """There is too little room for any build."""


class Runner:
    """Builds the images of a plan; `work` is what a worker does with one of them."""

    def __init__(self, builds: RemoteBuilds | LocalBuilds, journal: Journal, board: Board, pace: Pace, ui: Ui) -> None:
        self._builds = builds
        self._journal = journal
        self._board = board
        self._pace = pace
        self._ui = ui
        self._next_s = time.monotonic() + _HEARTBEAT_S

    def work(self, image: Image) -> bool:
        """Build an image, and return whether it is to be tried again.

        Raises:
            RuntimeBuildError: No image can be built: the disk is full, or the server refuses the key.
        """
        self._pace.wait()
        image.attempts += 1
        started = time.monotonic()
        with self._board.row(image.name, self._builds.place) as running:
            try:
                ending = self._builds.build(image, running)
            except RuntimeBuildError as error:
                if self._concerns_all(error):
                    raise
                if is_temporary(error) and image.attempts < _limit_attempts(error):
                    self._ui.report(f"{image.name} is tried again: {error.message}")
                    return True
                ending = Ending(round(time.monotonic() - started, 1), error.message, error.exit_code)
        self._pace.succeed()
        self._conclude(image, ending)
        return False

    def beat(self) -> None:
        """Say now and then what is running, for those who read a log."""
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _HEARTBEAT_S
            snapshot = self._board.look()
            self._ui.report(format_totals(snapshot, self._pace.left_s))
            if snapshot.running:
                self._ui.report(format_running(snapshot))

    def _concerns_all(self, error: RuntimeBuildError) -> bool:
        """Return whether every other image would meet the same error; what may pass makes everybody pause first."""
        if is_temporary(error):
            if not isinstance(error, Stalled):
                self._pace.fail()
            return self._pace.failures >= _MAX_FAILURES
        if isinstance(error, RequestFailed):
            return error.status in _REFUSED
        cause = error.__cause__
        return isinstance(error, DiskFull) or (isinstance(cause, OSError) and cause.errno in _FULL)

    def _conclude(self, image: Image, ending: Ending) -> None:
        image.seconds, image.error, image.exit_code = ending.seconds, ending.error, ending.exit_code
        image.digest, image.pushed_bytes = ending.digest, ending.pushed_bytes
        # A build whose outcome is not known, or that is still running, stays open in the journal.
        is_open = ending.exit_code in {OutcomeUnknown.exit_code, StoppedWatching.exit_code}
        if not is_open:
            self._journal.note_ending(image.name, str(image.reference), ending)
        image.state = State.WAITING if is_open else State.FAILED if ending.error else State.BUILT
        place = self._board.end(image)
        if image.state is State.BUILT:
            self._ui.report(f"[{place}] built {image.name} in {ending.seconds:.0f} s: {image.reference}")
        else:
            self._ui.report(f"[{place}] {str(image.state).upper()} {image.name}: {ending.error}")


def is_temporary(error: RuntimeBuildError) -> bool:
    """Return whether the same build may succeed if it is tried again: nothing is known against the build itself."""
    if isinstance(error, RequestFailed):
        return error.retry.is_transient
    return isinstance(error, NotStarted | Interruption)


def _limit_attempts(error: RuntimeBuildError) -> int:
    return _MAX_STALLS if isinstance(error, Stalled) else _MAX_ATTEMPTS
