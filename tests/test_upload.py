"""Submitting a build: what it is called, what is saved when, and what is never sent twice."""

from __future__ import annotations

import os
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trustme

from buildkit.errors import LocalError, NotStarted, OutcomeUnknown, RuntimeBuildError, SettingError
from buildkit.models import BuildContext, BuildResult, Submission, Target, Version
from buildkit.record import ImageNaming, PackedInputs
from buildkit.reference import parse_reference
from buildkit.signals import Interrupted
from tests.misbehaviour import answer, close_after_body, refuse_early, stop_reading
from tests.runtime_api import PREFIX, RuntimeApiServer
from tests.steps import DOCKERFILE, VERSION, Steps, make_context

if TYPE_CHECKING:
    from pathlib import Path

    from tests.runtime_api import Exchange


CONTEXT = BuildContext("a.tar.gz", "a" * 64, 1, "c" * 64, 100_000, 3, {"name": "zlib"})


@pytest.fixture
def large_archive(tmp_path: Path) -> Path:
    """More than the kernel holds for a connection, so that a client can be stopped in the middle of it."""
    path = tmp_path / "large.tar.gz"
    path.write_bytes(os.urandom(1_000_000) * 12)
    return path


def test_intent_is_saved_first_and_the_build_id_replaces_it(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    builds_at_save: list[int] = []

    submission = steps.submit(archive, save=lambda _: builds_at_save.append(len(runtime_api.builds)))
    intent, submitted = steps.saved
    assert builds_at_save == [0, 1]
    assert (intent.state, intent.build_id, intent.submitted_at) == ("intent", None, None)
    assert submitted == submission
    assert submission == replace(intent, state="submitted", build_id="build-1", submitted_at=submission.submitted_at)
    assert submission.target_image == f"{PREFIX}/agent-server:0506352-dev"
    assert submission.tags == [f"{PREFIX}/agent-server:0506352-staging"]
    assert steps.reports == ["Build initiated with ID: build-1"]
    assert steps.ui.published == {"build_id": "build-1"}
    assert steps.upload_state == "submitted"


def test_intent_is_taken_back_where_nothing_can_have_started(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    runtime_api.script("POST /build", answer(401, {"detail": "who are you"}))
    with pytest.raises(NotStarted, match="who are you"):
        steps.submit(archive)
    assert ([saved.state for saved in steps.saved], steps.upload_state) == (["intent"], None)


def test_intent_stays_where_a_build_may_have_started(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    runtime_api.script("POST /build", close_after_body)
    with pytest.raises(OutcomeUnknown):
        steps.submit(archive)
    assert ([saved.state for saved in steps.saved], steps.upload_state) == (["intent"], "intent")
    with pytest.raises(OutcomeUnknown, match="its ID never arrived") as caught:
        steps.submit(archive)
    assert "`runtime-build upload --force`" in caught.value.fix
    assert runtime_api.count("POST /build") == 1
    assert steps.submit(archive, force=True).build_id == "build-2"


def test_submitted_build_is_returned_as_it_is(steps: Steps, runtime_api: RuntimeApiServer, archive: Path) -> None:
    first = steps.submit(archive)
    asked = len(runtime_api.requests)
    assert steps.submit(archive) == first
    assert len(runtime_api.requests) == asked
    assert steps.reports[-1].startswith("Already submitted, with build ID: build-1 (`runtime-build upload --force`")


def test_build_that_has_ended_or_differs_is_submitted_again(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    first = steps.submit(archive)
    assert steps.submit(archive, image_name="other").build_id == "build-2"
    second = steps.saved[-1]
    assert second.idempotency_key != first.idempotency_key
    assert steps.workspace
    steps.workspace.save(BuildResult("build-2", "FAILURE", None, None, 1.0))
    assert steps.submit(archive, image_name="other").build_id == "build-3"


def test_refused_upload_leaves_the_earlier_submission_on_record(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    first = steps.submit(archive)
    runtime_api.script("POST /build", answer(401))
    with pytest.raises(NotStarted):
        steps.submit(archive, force=True)
    assert steps.workspace
    assert steps.workspace.load(Submission) == first


@pytest.mark.parametrize(("at_the_end", "left"), [(False, None), (True, "intent")])
def test_interrupt_takes_the_intent_back_only_before_the_upload_is_whole(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path, at_the_end: bool, left: str | None
) -> None:
    def interrupt(sent_bytes: int, total_bytes: int) -> None:
        if not at_the_end or sent_bytes == total_bytes:
            raise Interrupted(2)

    steps.ui.draw = interrupt
    with pytest.raises(Interrupted) as caught:
        steps.submit(archive)
    assert ("a build may have been started" in caught.value.fix) == at_the_end
    assert steps.upload_state == left
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


def test_archive_that_is_not_the_packed_one_is_not_sent(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    with pytest.raises(LocalError, match="is missing or has changed"):
        steps.submit(archive, packed=replace(make_context(archive), archive=VERSION.archive, archive_sha256="0" * 64))
    assert not runtime_api.requests


def name_images(
    prefix: str | None, target: str = "binary", *, version: Version = VERSION, image_name: str = "agent-server"
) -> list[str]:
    inputs = PackedInputs(version, replace(DOCKERFILE, target=target), CONTEXT)
    return ImageNaming(parse_reference(image_name)).name_images(inputs, prefix)


@pytest.mark.parametrize(
    ("prefix", "target", "expected"),
    [
        ("registry.example.com/team", Target("binary"), "registry.example.com/team/agent-server:0506352-dev"),
        ("registry.example.com", Target("source"), "registry.example.com/agent-server:0506352-dev-source"),
        (None, Target("binary-minimal"), "agent-server:0506352-dev-binary-minimal"),
    ],
)
def test_image_is_named_after_prefix_commit_tag_and_target(prefix: str | None, target: Target, expected: str) -> None:
    assert name_images(prefix, target) == [expected, expected.replace("-dev", "-staging")]


@pytest.mark.parametrize("prefix", ["UPPER case", "r\nRUN evil"])
def test_prefix_that_docker_would_refuse_is_refused(prefix: str) -> None:
    with pytest.raises(SettingError, match="registry prefix"):
        name_images(prefix)


def test_tag_over_128_characters_is_refused_with_its_position_and_the_length_that_fits() -> None:
    version = replace(VERSION, tags=["dev", "x" * 120])
    with pytest.raises(SettingError, match="has 135 characters; a registry takes 128") as caught:
        name_images("r", Target("source"), version=version)
    assert caught.value.fix.startswith("shorten tag 2 of CUSTOM_TAGS to 113 characters")
    fitting = replace(VERSION, tags=["dev", "x" * 113])
    _, tag = name_images("r", Target("source"), version=fitting)
    assert len(tag) == len("r/agent-server:") + 128


@pytest.mark.parametrize("status", [400, 415, 422])
@pytest.mark.parametrize(("upload_format", "other"), [("json", "multipart"), ("multipart", "json")])
def test_refused_form_of_upload_names_the_other_and_is_not_changed_in_silence(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path, status: int, upload_format: str, other: str
) -> None:
    runtime_api.script("POST /build", answer(status, {"detail": "Field required"}))
    with pytest.raises(RuntimeBuildError, match="Field required") as caught:
        steps.submit(archive, upload_format=upload_format)
    assert f"`runtime-build upload --upload-format {other}`" in caught.value.fix
    assert runtime_api.count("POST /build") == 1


def test_server_without_build_says_so(steps: Steps, runtime_api: RuntimeApiServer, archive: Path) -> None:
    runtime_api.script("POST /build", answer(404, {"detail": "Not Found"}))
    with pytest.raises(NotStarted, match="this server does not build anything"):
        steps.submit(archive)


BUSY = {"Retry-After": "7"}


@pytest.mark.parametrize("headers", [{}, BUSY])
def test_61_503_after_the_whole_body_is_unknown_and_never_repeated(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path, headers: dict[str, str]
) -> None:
    def start_and_give_up(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.server.start_build(exchange.request)
        exchange.answer(503, headers=headers)

    runtime_api.always("POST /build", start_and_give_up)
    with pytest.raises(OutcomeUnknown, match="may or may not have started"):
        steps.submit(archive)
    assert (len(runtime_api.builds), steps.upload_state, steps.clock.pauses) == (1, "intent", [])


@pytest.mark.parametrize("status", [429, 503])
def test_40_busy_server_that_has_not_got_the_whole_body_is_asked_again(
    steps: Steps, runtime_api: RuntimeApiServer, large_archive: Path, status: int
) -> None:
    runtime_api.script("POST /build", refuse_early(status, then="reset", headers=BUSY))
    assert steps.submit(large_archive).build_id == "build-1"
    assert (steps.clock.pauses, len(runtime_api.builds)) == ([7], 1)


@pytest.mark.parametrize("status", [500, 502, 504])
def test_41_failure_before_the_whole_body_was_sent_starts_nothing(
    steps: Steps, runtime_api: RuntimeApiServer, large_archive: Path, status: int
) -> None:
    runtime_api.script("POST /build", refuse_early(status, then="reset"))
    with pytest.raises(NotStarted, match=f"HTTP {status}"):
        steps.submit(large_archive)
    assert (runtime_api.count("POST /build"), steps.upload_state) == (1, None)


def test_40_intent_stays_while_a_429_is_waited_out_and_goes_if_that_is_the_last_word(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    states: list[str | None] = []
    steps.clock.on_sleep = lambda: states.append(steps.upload_state)
    runtime_api.always("POST /build", answer(429, headers=BUSY))
    with pytest.raises(NotStarted, match="429"):
        steps.submit(archive)
    assert states == ["intent"] * 5
    assert (steps.upload_state, runtime_api.count("POST /build")) == (None, 6)


def test_40_lost_server_after_a_429_leaves_the_outcome_unknown(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    runtime_api.script("POST /build", answer(429, headers=BUSY))
    steps.clock.on_sleep = runtime_api.close
    with pytest.raises(OutcomeUnknown, match="an earlier try sent the whole upload"):
        steps.submit(archive)
    assert steps.upload_state == "intent"


def test_interrupt_after_the_whole_body_keeps_the_intent_without_any_progress_shown(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    def interrupt() -> None:
        raise Interrupted(15)

    steps.clock.on_sleep = interrupt
    runtime_api.script("POST /build", answer(429, headers=BUSY))
    with pytest.raises(Interrupted):
        steps.submit(archive)
    assert steps.upload_state == "intent"


def test_77_slow_but_steady_server_is_never_said_to_have_stopped_reading(
    steps: Steps, runtime_api: RuntimeApiServer, large_archive: Path
) -> None:
    def read_slowly(exchange: Exchange) -> None:
        for _ in range(20):
            exchange.connection.recv(64 * 1024)
            exchange.server.closing.wait(0.1)
        exchange.answer(413)

    steps.limits["stall_timeout_s"] = 1
    runtime_api.script("POST /build", read_slowly)
    with pytest.raises(NotStarted, match="HTTP 413"):
        steps.submit(large_archive)


def test_response_before_the_request_was_read_is_seen_through_tls_too(
    steps: Steps, large_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with RuntimeApiServer(tls=context) as server, authority.cert_pem.tempfile() as bundle:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
        steps.url = server.url
        steps.limits["stall_timeout_s"] = 0.5
        server.script("POST /build", refuse_early(413, then="nothing"), stop_reading)
        with pytest.raises(NotStarted, match="HTTP 413"):
            steps.submit(large_archive)
        with pytest.raises(NotStarted, match="stopped reading"):
            steps.submit(large_archive)
        assert server.count("POST /build") == 2


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_62_request_to_this_machine_never_goes_through_a_proxy(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with RuntimeApiServer() as proxy:
        monkeypatch.setenv(name, proxy.url)
        assert steps.submit(archive).build_id == "build-1"
        assert not proxy.connections


def test_67_state_that_is_a_link_or_a_fifo_is_refused_before_anything_is_sent(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    state = archive.parent / "runtime-build/upload.json"
    state.parent.mkdir()
    for create in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        create(state)
        for force in (False, True):
            with pytest.raises(LocalError, match=r"upload\.json cannot be read"):
                steps.submit(archive, force=force)
        state.unlink()
    assert runtime_api.count("POST /build") == 0
