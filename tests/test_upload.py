"""Submitting a build: what it is called, what is saved when, and what is never sent twice."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from buildkit.api import RuntimeApi
from buildkit.errors import LocalError, NotStarted, OutcomeUnknown, RuntimeBuildError, SettingError
from buildkit.models import BuildContext, Submission, Version
from buildkit.secret import ApiKey
from buildkit.upload import name_images, submit_build
from tests.misbehaviour import answer, close_after_body
from tests.runtime_api import KEY, PREFIX, RuntimeApiServer, Sink

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = Version(
    name="agent-server-0506352-dev",
    sha="0506352" + "0" * 33,
    short_sha="0506352",
    dirty=False,
    tags=["dev", "staging"],
    primary_tag="dev",
    archive="agent-server-0506352-dev.tar.gz",
    commit_time=1_760_000_000,
)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / VERSION.archive
    path.write_bytes(os.urandom(50_000))
    return path


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def submit(runtime_api: RuntimeApiServer, archive: Path, sink: Sink) -> Callable[..., Submission]:
    def run(**changes: Any) -> Submission:
        values: dict[str, Any] = {
            "target": "binary",
            "image_name": "agent-server",
            "target_image": None,
            "upload_format": "json",
            "previous": None,
            "force": False,
            "save": sink.saved.append,
            "discard": sink.discard,
            "progress": sink.progress,
            "report": sink.reports.append,
            "warn": sink.warnings.append,
        }
        with RuntimeApi(runtime_api.url, ApiKey(KEY), sleep=lambda _: None) as api:
            return submit_build(api, archive, make_context(archive), VERSION, **(values | changes))

    return run


def make_context(archive: Path) -> BuildContext:
    return BuildContext(archive.name, "a" * 64, archive.stat().st_size, "c" * 64, 100_000, 3, {"name": "zlib"})


def test_intent_is_saved_first_and_the_build_id_replaces_it(
    submit: Callable[..., Submission], runtime_api: RuntimeApiServer, sink: Sink
) -> None:
    builds_at_save: list[int] = []

    def save(submission: Submission) -> None:
        builds_at_save.append(len(runtime_api.builds))
        sink.saved.append(submission)

    submission = submit(save=save)
    intent, submitted = sink.saved
    assert builds_at_save == [0, 1]
    assert (intent.state, intent.build_id, intent.submitted_at) == ("intent", None, None)
    assert submitted == submission
    assert submission == replace(intent, state="submitted", build_id="build-1", submitted_at=submission.submitted_at)
    assert submission.target_image == f"{PREFIX}/agent-server:0506352-dev"
    assert submission.tags == [f"{PREFIX}/agent-server:0506352-staging"]
    assert sink.reports == ["Build initiated with ID: build-1"]
    assert not sink.discarded


def test_intent_is_taken_back_where_nothing_can_have_started(
    submit: Callable[..., Submission], runtime_api: RuntimeApiServer, sink: Sink
) -> None:
    runtime_api.script("POST /build", answer(401, {"detail": "who are you"}))
    with pytest.raises(NotStarted, match="who are you"):
        submit()
    assert ([saved.state for saved in sink.saved], sink.discarded) == (["intent"], 1)


def test_intent_stays_where_a_build_may_have_started(
    submit: Callable[..., Submission], runtime_api: RuntimeApiServer, sink: Sink
) -> None:
    runtime_api.script("POST /build", close_after_body)
    with pytest.raises(OutcomeUnknown):
        submit()
    assert ([saved.state for saved in sink.saved], sink.discarded) == (["intent"], 0)
    with pytest.raises(OutcomeUnknown, match="its ID never arrived") as caught:
        submit(previous=sink.saved[0])
    assert "FORCE=true" in caught.value.fix
    assert runtime_api.count("POST /build") == 1
    assert submit(previous=sink.saved[0], force=True).build_id == "build-2"


def test_submitted_build_is_returned_as_it_is(
    submit: Callable[..., Submission], runtime_api: RuntimeApiServer, sink: Sink
) -> None:
    first = submit()
    asked = len(runtime_api.requests)
    assert submit(previous=first) == first
    assert len(runtime_api.requests) == asked
    assert sink.reports[-1] == "Already submitted, with build ID: build-1 (FORCE=true submits once more)"


class Stop(BaseException):
    """As a signal handler raises it."""


@pytest.mark.parametrize(("at_the_end", "discarded"), [(False, 1), (True, 0)])
def test_interrupt_takes_the_intent_back_only_before_the_upload_is_whole(
    submit: Callable[..., Submission], runtime_api: RuntimeApiServer, sink: Sink, at_the_end: bool, discarded: int
) -> None:
    def interrupt(sent_bytes: int, total_bytes: int) -> None:
        if not at_the_end or sent_bytes == total_bytes:
            raise Stop

    with pytest.raises(Stop):
        submit(progress=interrupt)
    assert sink.discarded == discarded
    assert not runtime_api.builds


def test_nothing_is_saved_where_the_registry_prefix_cannot_be_had(
    submit: Callable[..., Submission], runtime_api: RuntimeApiServer, sink: Sink
) -> None:
    runtime_api.always("GET /registry_prefix", answer(500, {"detail": "out of order"}))
    with pytest.raises(NotStarted, match="out of order"):
        submit()
    assert runtime_api.count("GET /registry_prefix") == 3
    assert not sink.saved


def test_target_image_overrides_and_asks_for_no_prefix(
    submit: Callable[..., Submission], runtime_api: RuntimeApiServer
) -> None:
    submission = submit(target_image="ghcr.io/acme/server:1")
    assert (submission.target_image, submission.tags) == ("ghcr.io/acme/server:1", [])
    assert runtime_api.count("GET /registry_prefix") == 0


def test_replica_that_may_not_have_the_key_is_a_warning(
    submit: Callable[..., Submission], runtime_api: RuntimeApiServer, sink: Sink
) -> None:
    runtime_api.script("POST /build", answer(202, {"build_id": 17, "url": "https://replica.example.com"}))
    submission = submit()
    assert (submission.build_id, submission.status_url) == ("17", None)
    assert "https://replica.example.com" in sink.warnings[0]


def test_archive_of_another_size_is_not_sent(
    submit: Callable[..., Submission], runtime_api: RuntimeApiServer, archive: Path, tmp_path: Path, sink: Sink
) -> None:
    context = make_context(archive)
    archive.write_bytes(b"other")
    with RuntimeApi(runtime_api.url, ApiKey(KEY)) as api, pytest.raises(LocalError, match="50000 were packed"):
        submit_build(
            api,
            archive,
            context,
            VERSION,
            target="binary",
            image_name="agent-server",
            target_image=None,
            upload_format="json",
            previous=None,
            force=False,
            save=sink.saved.append,
            discard=sink.discard,
            progress=sink.progress,
            report=sink.reports.append,
            warn=sink.warnings.append,
        )
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
    submit: Callable[..., Submission], runtime_api: RuntimeApiServer, status: int, upload_format: str, other: str
) -> None:
    runtime_api.script("POST /build", answer(status, {"detail": "Field required"}))
    with pytest.raises(RuntimeBuildError, match="Field required") as caught:
        submit(upload_format=upload_format)
    assert f"UPLOAD_FORMAT={other} invoke upload" in caught.value.fix
    assert runtime_api.count("POST /build") == 1


def test_server_without_build_builds_nothing(submit: Callable[..., Submission], runtime_api: RuntimeApiServer) -> None:
    runtime_api.script("POST /build", answer(404, {"detail": "Not Found"}))
    with pytest.raises(NotStarted, match="this server builds nothing"):
        submit()
