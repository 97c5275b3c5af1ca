"""The journal of many images: what follows from it, and what a kill or another program may have left in it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from buildkit.bulk.journal import BUILT, FAILED, WITHDRAWN, Ending, Journal
from buildkit.bulk.libraries import Libraries
from buildkit.errors import LocalError
from buildkit.models import Submission
from buildkit.workspace import JOURNAL, Workspace

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = "registry.example.com/agent-server:0506352-0123456789ab"
SUBMISSION = Submission("intent", "https://api.example.com", IMAGE, [], "c" * 64, None, None, "k" * 64)


@pytest.fixture
def workspace(output_dir: Path) -> Workspace:
    return Workspace(output_dir)


def test_what_is_appended_is_known_to_the_next_run(workspace: Workspace) -> None:
    journal = Journal(workspace)
    journal.note_submission("one", SUBMISSION)
    journal.note_ending("two", IMAGE, Ending(12.5, digest="sha256:1", pushed_bytes=3))
    journal.note_ending("three", IMAGE, Ending(1.0, "a step failed", 6))
    journal.note_withdrawal("four", IMAGE)
    journal.note_libraries("debian:12", Libraries("glibc", (2, 36), (3, 11)))
    journal.close()
    again = Journal(workspace)
    one, two, three, four = (again.find(name) for name in ("one", "two", "three", "four"))
    assert one
    assert two
    assert three
    assert four
    assert one.is_open
    assert one.submission == SUBMISSION
    assert (two.event, two.seconds, two.digest) == (BUILT, 12.5, "sha256:1")
    assert (three.event, three.error) == (FAILED, "a step failed")
    assert (four.event, four.is_open) == (WITHDRAWN, False)
    assert again.find("five") is None
    assert again.list_seconds() == [12.5]
    assert again.libraries == {"debian:12": Libraries("glibc", (2, 36), (3, 11))}


def test_a_torn_last_line_is_passed_over_and_does_not_spoil_the_next(workspace: Workspace) -> None:
    journal = Journal(workspace)
    journal.note_ending("one", IMAGE, Ending(1.0))
    journal.note_ending("two", IMAGE, Ending(1.0))
    journal.close()
    path = workspace.path / JOURNAL
    for cut in range(1, len(path.read_bytes().splitlines()[-1])):
        torn = (
            path.read_bytes().splitlines(keepends=True)[0] + path.read_bytes().splitlines(keepends=True)[1][: -cut - 1]
        )
        copy = Workspace(workspace.path.parent / f"copy-{cut}")
        copy.path.mkdir()
        (copy.path / JOURNAL).write_bytes(torn)
        again = Journal(copy)
        assert (again.damaged, again.find("two")) == (1, None)
        again.note_ending("two", IMAGE, Ending(2.0))
        again.close()
        last = Journal(copy)
        found = last.find("two")
        assert found
        assert found.seconds == 2.0


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[1]",
        b"null",
        b"\xff\xfe",
        b"[" * 9999,
        b'{"event": "built"}',
        b'{"event": "built", "image": 3, "reference": "a"}',
        b'{"event": "submitted", "image": "x", "reference": "a", "submission": {"state": 1}}',
    ],
)
def test_foreign_lines_are_passed_over(workspace: Workspace, line: bytes) -> None:
    (workspace.path / JOURNAL).write_bytes(line + b"\n")
    journal = Journal(workspace)
    assert journal.find("x") is None
    journal.note_ending("x", IMAGE, Ending(1.0))
    journal.close()
    assert Journal(workspace).find("x")


def test_no_path_of_this_machine_is_in_it(workspace: Workspace) -> None:
    journal = Journal(workspace)
    journal.note_submission("one", SUBMISSION)
    journal.close()
    (event,) = (json.loads(line) for line in (workspace.path / JOURNAL).read_text().splitlines())
    assert "made_from" not in event["submission"]
    assert str(workspace.path) not in json.dumps(event)


def test_a_link_or_a_fifo_in_its_place_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    path = workspace.path / JOURNAL
    (tmp_path / "elsewhere").write_text("")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalError, match=r"cannot read .*images\.jsonl"):
        Journal(workspace)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(LocalError, match=r"cannot read .*images\.jsonl"):
        Journal(workspace)
