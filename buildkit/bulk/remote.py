"""One of many images, built by a Runtime API: submitted once, waited for, and found again after a kill."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from buildkit import record
from buildkit.bulk.journal import Ending
from buildkit.bulk.plan import State
from buildkit.bulk.recipe import copy_source, write_image
from buildkit.bulk.runner import Interruption
from buildkit.errors import BuildFailed, OutcomeUnknown
from buildkit.models import BuildResult, Submission
from buildkit.record import UPLOAD_STATE, ImageNaming
from buildkit.reference import parse_reference
from buildkit.runtime_api.protocol import IDEMPOTENCY, SUCCESS
from buildkit.tasks.upload import UploadRequest, upload
from buildkit.tasks.wait import WaitRequest, wait
from buildkit.ui import Ui
from buildkit.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from buildkit.bulk.board import Running
    from buildkit.bulk.journal import Journal
    from buildkit.bulk.plan import Image
    from buildkit.models import StepResult
    from buildkit.runtime_api.client import RuntimeApi
    from buildkit.ui import Live, Progress

# Ended by the server for a reason of its own, so that another try may succeed.
_FEATURE_TRIES = 3
_SERVER_ENDED = frozenset({"INTERNAL_ERROR", "EXPIRED"})


class RowUi(Ui):
    """What the tasks see as `ui` while they work on one of many images: their messages become its row."""

    def __init__(self, running: Running) -> None:
        super().__init__()
        self._running = running

    def report(self, line: str) -> None:
        """Note a progress message."""
        self._running.hear("")
        self._running.step = line.removeprefix("Build status: ")

    def warn(self, line: str) -> None:
        """Note a warning."""
        self.report(line)

    def offer(self, text: str) -> None:
        """Show nothing."""

    def publish(self, **outputs: str | None) -> None:
        """Publish nothing: an output names one image."""

    @contextmanager
    def live(self, label: str) -> Iterator[Live]:  # noqa: ARG002 - the row has the image's name
        """Note the status and the step of a build on a server."""

        def show(status: str, detail: str) -> None:
            self._running.hear("")
            self._running.step = " ".join(filter(None, [status, detail]))

        yield show

    @contextmanager
    def progress(self, label: str) -> Iterator[Progress]:
        """Note how far something is."""

        def update(done: int, total: int) -> None:
            self._running.step = f"{label} {done * 100 // total} %" if total else label

        yield update


class JournaledWorkspace(Workspace):
    """An image's workspace that also tells the journal what is known of its build on a server."""

    def __init__(self, path: Path, image: Image, journal: Journal) -> None:
        super().__init__(path)
        self._image = image
        self._journal = journal

    def save(self, result: StepResult) -> None:
        """Save, and append a submission to the journal before anything is sent, and again when it has an ID."""
        super().save(result)
        if isinstance(result, Submission):
            self._journal.note_submission(self._image.name, result)

    def remove(self, name: str) -> None:
        """Remove, and append to the journal that a submission has come to nothing."""
        if name == UPLOAD_STATE and self.exists(name):
            self._journal.note_withdrawal(self._image.name, str(self._image.reference))
        super().remove(name)


class FirstAlone:
    """Lets one thread go first, alone: what it sends, such as the source, the others need not send again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_done = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Run the block: alone until one has succeeded, and then side by side with others."""
        with self._lock:
            if not self._is_done:
                yield
                self._is_done = True
                return
        yield


class RemoteBuilds(NamedTuple):
    """How images are built by a Runtime API.

    Attributes:
        images: The directory that has one for each image.
        first: Held while an image is submitted.
    """

    api: RuntimeApi
    images: Workspace
    journal: Journal
    upload_format: str
    timeout_s: float
    force: bool
    first: FirstAlone

    @property
    def place(self) -> str:
        """Where images are built, for people."""
        return self.api.url

    def build(self, image: Image, running: Running) -> Ending:
        """Return how the build of an image ended, after submitting it or finding that this has been done.

        Raises:
            Interruption: The server has ended the build for a reason of its own.
            RuntimeBuildError: As in `upload` and `wait`.
        """
        started, ui = time.monotonic(), RowUi(running)
        workspace = JournaledWorkspace(self.images.child(image.name).path, image, self.journal)
        with workspace.writing():
            submission = self._find_submission(workspace, image)
            result = self._take_result(workspace, submission)
            if result is None:
                with self._retrying():
                    if submission is None or submission.build_id is None:
                        submission = self._submit(workspace, image, ui)
                    result = self._wait(workspace, submission, ui)
        digest = parse_reference(result.image).digest if result.image else None
        return Ending(round(time.monotonic() - started, 1), digest=digest)

    def _find_submission(self, workspace: Workspace, image: Image) -> Submission | None:
        """Return the submission of this very image whose build may be running, or has just ended with an image.

        The journal may have come from another machine, without the image's directory. Every other record is dropped:
        that of another image, whose build concerns nobody any more, and that of a build which has ended.
        """
        plain, wanted = Workspace(workspace.path), str(image.reference)
        submission = record.find_submission(workspace)
        if submission and submission.target_image == wanted:
            has_ended = record.has_ended(workspace, submission)
            if not has_ended or (image.state is State.WAITING and self._take_result(workspace, submission)):
                return submission
            plain.remove(UPLOAD_STATE)
            return None
        plain.remove(UPLOAD_STATE)
        known = self.journal.find(image.name)
        if known is None or not known.is_open or known.reference != wanted or known.submission is None:
            return None
        plain.save(known.submission)
        return known.submission

    def _take_result(self, workspace: Workspace, submission: Submission | None) -> BuildResult | None:
        """Return the result of a build that had been waited for when the last run was killed, if there is an image."""
        if submission is None or not record.has_ended(workspace, submission):
            return None
        result = workspace.load(BuildResult)
        return result if result.status == SUCCESS else None

    def _wait(self, workspace: Workspace, submission: Submission, ui: RowUi) -> BuildResult:
        try:
            return wait(workspace, self.api, WaitRequest(self.timeout_s, submission=submission), ui)
        except BuildFailed as failure:
            if workspace.load(BuildResult).status in _SERVER_ENDED:
                raise Interruption(failure.message, failure.fix) from failure
            raise

    @contextmanager
    def _retrying(self) -> Iterator[None]:
        """Let an unknown outcome be tried again if the server starts one build for each key, whatever it is sent."""
        try:
            yield
        except OutcomeUnknown as unknown:
            if any(IDEMPOTENCY in self.api.features() for _ in range(_FEATURE_TRIES)):
                raise Interruption(unknown.message, unknown.fix) from unknown
            raise

    def _submit(self, workspace: Workspace, image: Image, ui: RowUi) -> Submission:
        """Pack what differs, and upload; the archive is removed because `context` makes it again in no time."""
        ui.report("packing")
        generated = write_image(image.recipe, workspace, image.entry.base)
        context = copy_source(image.recipe, workspace, generated, ui)
        settings = image.recipe.settings
        naming = ImageNaming(settings.image_name, image.reference, image.tags)
        with self.first.turn():
            submission = upload(workspace, self.api, UploadRequest(naming, self.upload_format, self.force), ui)
        workspace.remove(context.archive)
        return submission
