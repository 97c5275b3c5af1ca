"""Waiting for a build: what is said, how often it is asked, how it ends."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from buildkit.errors import BuildFailed, LocalError, OutcomeUnknown, StoppedWatching
from buildkit.models import BuildResult, Submission
from buildkit.runtime_api.polling import choose_interval
from buildkit.signals import Interrupted
from buildkit.workspace import Workspace
from tests.misbehaviour import answer, drip

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.runtime_api import RuntimeApiServer
    from tests.steps import Steps


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "runtime-build")


def make_submission(build_id: str | None, url: str) -> Submission:
    state = "submitted" if build_id else "intent"
    return Submission(state, url, "r/i:t", [], "c" * 64, build_id, None)


def test_each_change_of_status_is_a_line_and_the_image_is_the_last(
    steps: Steps, runtime_api: RuntimeApiServer, workspace: Workspace
) -> None:
    runtime_api.statuses.extendleft(["RUNNING", "RUNNING", "PENDING", "PENDING"])
    result = steps.wait(workspace)
    assert steps.reports == [
        "Build status: PENDING",
        "Build status: RUNNING",
        "Build status: SUCCESS",
        "✅ Build completed successfully!",
        "🎉 Image: registry.example.com/agent-server:abc123",
    ]
    assert (result.build_id, result.status, result.error) == ("abc123", "SUCCESS", None)
    assert result.image == "registry.example.com/agent-server:abc123"
    assert not steps.warnings


def test_elapsed_time_is_that_of_the_monotonic_clock(steps: Steps, runtime_api: RuntimeApiServer) -> None:
    runtime_api.statuses.extendleft(["RUNNING"] * 3)
    assert steps.poll().elapsed_s == round(sum(steps.clock.pauses), 3)


@pytest.mark.parametrize("error", [None, "no space left on device"])
def test_failed_build_is_saved_before_it_is_an_error(
    steps: Steps, runtime_api: RuntimeApiServer, workspace: Workspace, error: str | None
) -> None:
    runtime_api.statuses[0] = "FAILURE"
    runtime_api.error = error
    with pytest.raises(BuildFailed) as caught:
        steps.wait(workspace)
    result = workspace.load(BuildResult)
    assert (result.status, result.error, result.image) == ("FAILURE", error, None)
    assert (error or "does not say why") in caught.value.message
    assert "None" not in caught.value.message
    assert caught.value.fix == "read its log: `runtime-build logs --build-id abc123`"
    assert steps.reports == ["Build status: FAILURE", "step 1", "step 2"]
    assert not steps.ui.published


@pytest.mark.parametrize("status", ["FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED"])
def test_poll_returns_every_result(steps: Steps, runtime_api: RuntimeApiServer, status: str) -> None:
    runtime_api.statuses[0] = status
    assert steps.poll(target_image="r/i:t") == BuildResult("abc123", status, None, None, 0.0)


def test_success_is_saved_published_and_returned(
    steps: Steps, runtime_api: RuntimeApiServer, workspace: Workspace
) -> None:
    result = steps.wait(workspace)
    assert workspace.load(BuildResult) == result
    assert steps.ui.published == {"image": result.image, "build_id": "abc123"}
    assert steps.reports[-1] == "🎉 Image: registry.example.com/agent-server:abc123"


def test_build_on_record_is_waited_for_and_traced(
    steps: Steps, runtime_api: RuntimeApiServer, workspace: Workspace
) -> None:
    workspace.path.mkdir()
    workspace.save(make_submission("b-7", runtime_api.url))
    runtime_api.always("GET /build_status", answer(200, {"status": "SUCCESS"}))
    result = steps.wait(workspace, None)
    assert runtime_api.requests[-1].query == {"build_id": "b-7"}
    assert (result.image, set(result.made_from)) == ("r/i:t", {"upload.json"})


def test_build_just_submitted_is_not_read_from_disk(
    steps: Steps, runtime_api: RuntimeApiServer, workspace: Workspace
) -> None:
    steps.wait(workspace, None, submission=make_submission("b-8", runtime_api.url))
    assert runtime_api.requests[-1].query == {"build_id": "b-8"}


def test_nothing_on_record_names_the_task_to_run(steps: Steps, workspace: Workspace) -> None:
    with pytest.raises(LocalError) as caught:
        steps.wait(workspace, None)
    assert "`runtime-build upload`" in caught.value.fix


def test_upload_without_an_id_on_record_is_unknown(
    steps: Steps, runtime_api: RuntimeApiServer, workspace: Workspace
) -> None:
    workspace.path.mkdir()
    workspace.save(make_submission(None, runtime_api.url))
    with pytest.raises(OutcomeUnknown, match="no build ID came back"):
        steps.wait(workspace, None)
    assert not runtime_api.requests


@pytest.mark.parametrize("image", ["--privileged", "$(id)", "a;id", "https://r/i:t", "two words", "UPPER/case"])
def test_78_image_that_is_no_reference_is_quoted_in_a_warning(
    steps: Steps, runtime_api: RuntimeApiServer, workspace: Workspace, image: str
) -> None:
    runtime_api.always("GET /build_status", answer(200, {"status": "SUCCESS", "image": image}))
    result = steps.wait(workspace, None, submission=make_submission("b", runtime_api.url))
    assert result.image == "r/i:t"
    (warning,) = steps.warnings
    assert f"'{image}'" in warning
    assert steps.reports[-1] == "🎉 Image: r/i:t"


def test_71_log_of_a_failed_build_never_outlasts_the_limit(
    steps: Steps, runtime_api: RuntimeApiServer, workspace: Workspace
) -> None:
    runtime_api.statuses[0] = "FAILURE"
    runtime_api.always("GET /build_logs", drip(b"HTTP/1.1 200 OK\r\n\r\nstep 1\n" + b"x" * 500, 0.02))
    started = time.monotonic()
    with pytest.raises(BuildFailed):
        steps.wait(workspace, timeout_s=1, clock=time.monotonic)
    assert time.monotonic() - started < 2


def test_interrupt_says_that_the_build_is_still_running_and_how_to_resume(
    steps: Steps, runtime_api: RuntimeApiServer, workspace: Workspace
) -> None:
    def interrupt() -> None:
        raise Interrupted(2)

    runtime_api.statuses[0] = "RUNNING"
    steps.clock.on_sleep = interrupt
    with pytest.raises(Interrupted) as caught:
        steps.wait(workspace)
    assert "`runtime-build wait --build-id abc123`" in caught.value.fix
    assert "still running" in caught.value.fix


def test_deadline_names_the_command_that_resumes_and_is_not_overrun(
    steps: Steps, runtime_api: RuntimeApiServer
) -> None:
    runtime_api.statuses[0] = "RUNNING"
    with pytest.raises(StoppedWatching) as caught:
        steps.poll()
    assert "did not end within 1800 s; its last status was RUNNING" in caught.value.message
    assert "wait --build-id abc123" in caught.value.fix
    assert "BUILD_TIMEOUT" in caught.value.fix
    assert sum(steps.clock.pauses) == pytest.approx(1800, abs=0.02)


def test_interval_grows_with_the_age_of_the_build_up_to_30_s(steps: Steps, runtime_api: RuntimeApiServer) -> None:
    runtime_api.statuses[0] = "RUNNING"
    with pytest.raises(StoppedWatching):
        steps.poll()
    assert 25 <= max(steps.clock.pauses) <= 30
    assert 0.8 <= steps.clock.pauses[0] <= 1.0


def test_id_is_quoted_for_the_shell(steps: Steps, runtime_api: RuntimeApiServer) -> None:
    runtime_api.statuses[0] = "RUNNING"
    with pytest.raises(StoppedWatching) as caught:
        steps.poll("a; rm -rf /", timeout_s=1)
    assert "--build-id 'a; rm -rf /'" in caught.value.fix


def test_recovered_server_is_asked_at_the_usual_pace_again(steps: Steps, runtime_api: RuntimeApiServer) -> None:
    trouble = [answer(429, headers={"Retry-After": "90"})]
    runtime_api.script("GET /build_status", *trouble)
    runtime_api.statuses.extendleft(["RUNNING"] * 2)
    steps.poll()
    assert steps.clock.pauses[0] == 90
    assert max(steps.clock.pauses[1:]) <= 5


def simulate(length_s: float, draw: Callable[[], float]) -> tuple[int, float]:
    """Return the polls for a build of that length, and how late its end was seen."""
    now, polls = 0.0, 1
    while now < length_s:
        now += choose_interval(now, draw())
        polls += 1
    return polls, now - length_s


def test_end_is_seen_in_time_with_fewer_requests_than_polling_every_5_s() -> None:
    draw = random.Random(5).random
    # As many short builds as long ones, on a logarithmic scale: from 2 s to 30 min.
    lengths = [2 * 900 ** draw() for _ in range(2000)]
    outcomes = [(length, *simulate(length, draw)) for length in lengths]
    assert all(late <= max(0.05 * length, 1.5) for length, _, late in outcomes)
    every_5_s = sum(1 + -(-length // 5) for length in lengths)
    assert sum(polls for _, polls, _ in outcomes) < 0.95 * every_5_s
