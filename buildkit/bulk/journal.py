"""The journal of a set of images: one event per line, appended and synced; what is known of each image follows from it.

The events of an image, in their order:

    submitting   an upload is about to be sent; `submission` is what `upload.json` says
    submitted    the server has started the build; `submission` has its ID
    withdrawn    it is certain that the server started nothing
    building     a local engine has begun
    built        the image exists, as `reference`
    failed       there is no image; `error` says why

And of a base image:

    examined     a container of it has shown which C library it has

An event of an image is about one reference, and a reference identifies the contents of an image. Events of another
context, or of images that are no longer wanted, therefore say nothing about this run: the journal is simply continued.
A line that was cut off by a kill is passed over.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from buildkit.bulk.libraries import Libraries, parse_libraries
from buildkit.errors import LocalError
from buildkit.files import open_regular
from buildkit.models import Submission
from buildkit.state import parse_state
from buildkit.workspace import JOURNAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.reference import Reference
    from buildkit.workspace import Workspace

SUBMITTING, SUBMITTED, WITHDRAWN, BUILDING, BUILT, FAILED, EXAMINED = (
    "submitting", "submitted", "withdrawn", "building", "built", "failed", "examined"
)  # fmt: skip
_EVENTS = frozenset({SUBMITTING, SUBMITTED, WITHDRAWN, BUILDING, BUILT, FAILED, EXAMINED})
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LONGEST_LINE = 1 << 20


class Ending(NamedTuple):
    """How work on an image ended.

    Attributes:
        error: Why there is no image; empty if there is one.
        digest: The registry's, if it is known.
        pushed_bytes: What its registry received, if that is known.
    """

    seconds: float
    error: str = ""
    exit_code: int = 0
    digest: str | None = None
    pushed_bytes: int | None = None


@dataclass(frozen=True)
class ImageRecord:
    """What the last events of an image say.

    Attributes:
        event: The last one.
        submission: Of a build that was sent to a server.
        seconds: Of work on it that has ended.
    """

    event: str
    reference: str
    submission: Submission | None = None
    error: str = ""
    seconds: float | None = None
    digest: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether a server may be building it."""
        return self.event in {SUBMITTING, SUBMITTED}


class Journal:
    """The journal in an output directory, for the one run that holds its lock; threads may append.

    Attributes:
        libraries: Of base images, by reference and digest.
        damaged: Lines that were passed over.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._records: dict[str, ImageRecord] = {}
        self.libraries: dict[str, Libraries] = {}
        self.damaged = 0
        for event in self._read():
            self._apply(event)

    def find(self, name: str) -> ImageRecord | None:
        """Return what is known of an image, whatever its reference was, or None."""
        return self._records.get(name)

    def find_built(self, name: str, reference: Reference) -> ImageRecord | None:
        """Return what is known of an image if it was built as this reference, or None."""
        record = self.find(name)
        return record if record and record.event == BUILT and record.reference == str(reference) else None

    def list_seconds(self) -> list[float]:
        """Return how long each image took that was built, as far as that is known."""
        built = [record for record in self._records.values() if record.event == BUILT]
        return [record.seconds for record in built if record.seconds is not None]

    def note_submission(self, name: str, submission: Submission) -> None:
        """Append what is known of a build on a server: before it is sent, and again when it has an ID."""
        event = SUBMITTED if submission.build_id else SUBMITTING
        fields = {"reference": submission.target_image, "submission": _describe(submission)}
        self._append(name, event, fields)

    def note_withdrawal(self, name: str, reference: str) -> None:
        """Append that nothing was started."""
        self._append(name, WITHDRAWN, {"reference": reference})

    def note_start(self, name: str, reference: str, builder: str) -> None:
        """Append that an engine begins."""
        self._append(name, BUILDING, {"reference": reference, "builder": builder})

    def note_ending(self, name: str, reference: str, ending: Ending) -> None:
        """Append how it ended."""
        event = FAILED if ending.error else BUILT
        known = {key: value for key, value in ending._asdict().items() if value not in {None, ""}}
        self._append(name, event, {"reference": reference, **known})

    def note_libraries(self, base: str, libraries: Libraries) -> None:
        """Append what a base image has.

        Args:
            base: Its reference, with the digest if that is known.
        """
        self._append(base, EXAMINED, {"reference": base, "libraries": libraries})

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, name: str, event: str, fields: dict[str, Any]) -> None:
        """Append an event and sync it.

        Raises:
            LocalError: It cannot be written; nothing may be begun or repeated then.
        """
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        record = {"schema": 1, "event": event, "image": name, "at": at, **fields}
        data = json.dumps(record).encode("ascii") + b"\n"
        with self._lock:
            try:
                descriptor = self._open()
                while data:  # less than a line is written only if the disk is full, and then the rest fails
                    data = data[os.write(descriptor, data) :]
                os.fsync(descriptor)
            except OSError as error:
                raise LocalError(
                    f"cannot write {self._workspace.show(JOURNAL)}: {error.strerror or error}",
                    "free some disk space, then run the same command again: it continues where it stopped",
                ) from error
            self._apply(record)

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self._workspace.path / JOURNAL, _FLAGS, 0o644)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                os.write(self._descriptor, b"\n")  # what a kill cut off is a line of its own
        return self._descriptor

    def _read(self) -> Iterator[dict[str, Any]]:
        try:
            descriptor = open_regular(self._workspace.path / JOURNAL)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LocalError(
                f"cannot read {self._workspace.show(JOURNAL)}: {error.strerror or error}", "move it somewhere else"
            ) from error
        with os.fdopen(descriptor, "rb") as file:
            while line := file.readline(_LONGEST_LINE):
                event = _parse_line(line)
                if event is None:
                    self.damaged += bool(line.strip())
                else:
                    yield event

    def _apply(self, event: dict[str, Any]) -> None:
        kind, name, reference = event["event"], event["image"], event["reference"]
        if kind == EXAMINED:
            if libraries := parse_libraries(event.get("libraries")):
                self.libraries[name] = libraries
            return
        submission = _parse_submission(event.get("submission"))
        if kind in {SUBMITTING, SUBMITTED} and submission is None:
            return
        error, seconds, digest = event.get("error"), event.get("seconds"), event.get("digest")
        self._records[name] = ImageRecord(
            kind,
            reference,
            submission,
            error=error if isinstance(error, str) else "",
            seconds=float(seconds) if isinstance(seconds, int | float) else None,
            digest=digest if isinstance(digest, str) else None,
        )


def _describe(submission: Submission) -> dict[str, Any]:
    fields = asdict(submission)
    del fields["made_from"]  # files of one machine; the journal may be passed on to another
    return fields


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the event in a line, or None if it is not one."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("event") not in _EVENTS:
        return None
    return event if all(isinstance(event.get(key), str) for key in ("image", "reference")) else None


def _parse_submission(fields: object) -> Submission | None:
    if not isinstance(fields, dict):
        return None
    try:
        return parse_state(json.dumps({"schema": 1, **fields, "made_from": {}}).encode(), Submission)
    except ValueError:
        return None
