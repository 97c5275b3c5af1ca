"""Submitting a build: what it is called, what is saved when, and what is never sent twice."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from buildkit.errors import LocalError, NotStarted, OutcomeUnknown, RuntimeBuildError, SettingError
from buildkit.steps.upload import name_images
from tests.misbehaviour import answer, close_after_body
from tests.runtime_api import PREFIX, RuntimeApiServer
from tests.steps import VERSION, Steps, make_context

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit.models import Submission


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / VERSION.archive
    path.write_bytes(os.urandom(50_000))
    return path


def test_intent_is_saved_first_and_the_build_id_replaces_it(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    builds_at_save: list[int] = []

    def save(submission: Submission) -> None:
        builds_at_save.append(len(runtime_api.builds))
        steps.saved.append(submission)

    submission = steps.submit(archive, save=save)
    intent, submitted = steps.saved
    assert builds_at_save == [0, 1]
    assert (intent.state, intent.build_id, intent.submitted_at) == ("intent", None, None)
    assert submitted == submission
    assert submission == replace(intent, state="submitted", build_id="build-1", submitted_at=submission.submitted_at)
    assert submission.target_image == f"{PREFIX}/agent-server:0506352-dev"
    assert submission.tags == [f"{PREFIX}/agent-server:0506352-staging"]
    assert steps.reports == ["Build initiated with ID: build-1"]
    assert not steps.discarded


def test_intent_is_taken_back_where_nothing_can_have_started(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    runtime_api.script("POST /build", answer(401, {"detail": "who are you"}))
    with pytest.raises(NotStarted, match="who are you"):
        steps.submit(archive)
    assert ([saved.state for saved in steps.saved], steps.discarded) == (["intent"], 1)


def test_intent_stays_where_a_build_may_have_started(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    runtime_api.script("POST /build", close_after_body)
    with pytest.raises(OutcomeUnknown):
        steps.submit(archive)
    assert ([saved.state for saved in steps.saved], steps.discarded) == (["intent"], 0)
    with pytest.raises(OutcomeUnknown, match="its ID never arrived") as caught:
        steps.submit(archive, previous=steps.saved[0])
    assert "FORCE=true" in caught.value.fix
    assert runtime_api.count("POST /build") == 1
    assert steps.submit(archive, previous=steps.saved[0], force=True).build_id == "build-2"


def test_submitted_build_is_returned_as_it_is(steps: Steps, runtime_api: RuntimeApiServer, archive: Path) -> None:
    first = steps.submit(archive)
    asked = len(runtime_api.requests)
    assert steps.submit(archive, previous=first) == first
    assert len(runtime_api.requests) == asked
    assert steps.reports[-1] == "Already submitted, with build ID: build-1 (FORCE=true submits once more)"


class Stop(BaseException):
    """As a signal handler raises it."""


@pytest.mark.parametrize(("at_the_end", "discarded"), [(False, 1), (True, 0)])
def test_interrupt_takes_the_intent_back_only_before_the_upload_is_whole(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path, at_the_end: bool, discarded: int
) -> None:
    def interrupt(sent_bytes: int, total_bytes: int) -> None:
        if not at_the_end or sent_bytes == total_bytes:
            raise Stop

    with pytest.raises(Stop):
        steps.submit(archive, progress=interrupt)
    assert steps.discarded == discarded
    assert not runtime_api.builds


def test_nothing_is_saved_where_the_registry_prefix_cannot_be_had(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    runtime_api.always("GET /registry_prefix", answer(500, {"detail": "out of order"}))
    with pytest.raises(NotStarted, match="out of order"):
        steps.submit(archive)
    assert runtime_api.count("GET /registry_prefix") == 3
    assert not steps.saved


def test_target_image_overrides_and_asks_for_no_prefix(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    submission = steps.submit(archive, target_image="ghcr.io/acme/server:1")
    assert (submission.target_image, submission.tags) == ("ghcr.io/acme/server:1", [])
    assert runtime_api.count("GET /registry_prefix") == 0


def test_replica_that_may_not_have_the_key_is_a_warning(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    runtime_api.script("POST /build", answer(202, {"build_id": 17, "url": "https://replica.example.com"}))
    submission = steps.submit(archive)
    assert (submission.build_id, submission.status_url) == ("17", None)
    assert "https://replica.example.com" in steps.warnings[0]


def test_archive_of_another_size_is_not_sent(steps: Steps, runtime_api: RuntimeApiServer, archive: Path) -> None:
    context = make_context(archive)
    archive.write_bytes(b"other")
    with pytest.raises(LocalError, match="50000 were packed"):
        steps.submit(archive, context=context)
    assert not runtime_api.requests


@pytest.mark.parametrize(
    ("prefix", "target", "expected"),
    [
        ("registry.example.com/team", "binary", "registry.example.com/team/agent-server:0506352-dev"),
        ("registry.example.com", "source", "registry.example.com/agent-server:0506352-dev-source"),
        (None, "binary-minimal", "agent-server:0506352-dev-binary-minimal"),
    ],
)
def test_image_is_named_after_prefix_commit_tag_and_target(prefix: str | None, target: str, expected: str) -> None:
    image, tags = name_images(VERSION, prefix=prefix, target=target, image_name="agent-server", target_image=None)
    assert image == expected
    assert tags == [expected.replace("-dev", "-staging")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefix": "UPPER case"}, "registry prefix"),
        ({"prefix": "r\nRUN evil"}, "registry prefix"),
        ({"image_name": "Agent"}, "IMAGE_NAME"),
        ({"target_image": "a:b:c"}, "TARGET_IMAGE"),
    ],
)
def test_names_that_docker_would_refuse_are_refused(changes: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"prefix": "r", "target": "binary", "image_name": "agent-server", "target_image": None}
    with pytest.raises(SettingError, match=message):
        name_images(VERSION, **(values | changes))


def test_tag_over_128_characters_is_refused_with_its_position_and_the_length_that_fits() -> None:
    version = replace(VERSION, tags=["dev", "x" * 120])
    with pytest.raises(SettingError, match="has 135 characters; a registry takes 128") as caught:
        name_images(version, prefix="r", target="source", image_name="agent-server", target_image=None)
    assert caught.value.fix.startswith("shorten tag 2 of CUSTOM_TAGS to 113 characters")
    fitting = replace(VERSION, tags=["dev", "x" * 113])
    _, tags = name_images(fitting, prefix="r", target="source", image_name="agent-server", target_image=None)
    assert len(tags[0]) == len("r/agent-server:") + 128


@pytest.mark.parametrize("status", [400, 415, 422])
@pytest.mark.parametrize(("upload_format", "other"), [("json", "multipart"), ("multipart", "json")])
def test_refused_form_of_upload_names_the_other_and_is_not_changed_in_silence(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path, status: int, upload_format: str, other: str
) -> None:
    runtime_api.script("POST /build", answer(status, {"detail": "Field required"}))
    with pytest.raises(RuntimeBuildError, match="Field required") as caught:
        steps.submit(archive, upload_format=upload_format)
    assert f"UPLOAD_FORMAT={other} invoke upload" in caught.value.fix
    assert runtime_api.count("POST /build") == 1


def test_server_without_build_builds_nothing(steps: Steps, runtime_api: RuntimeApiServer, archive: Path) -> None:
    runtime_api.script("POST /build", answer(404, {"detail": "Not Found"}))
    with pytest.raises(NotStarted, match="this server builds nothing"):
        steps.submit(archive)
