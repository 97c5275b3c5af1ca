"""Waiting for a build: what is said, how often it is asked, how it ends."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from buildkit.errors import BuildFailed, StoppedWatching
from buildkit.steps.wait import BuildEndedBadly, choose_pause
from tests.misbehaviour import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.runtime_api import RuntimeApiServer
    from tests.steps import Steps


def test_each_change_of_status_is_a_line_and_the_image_is_the_last(steps: Steps, runtime_api: RuntimeApiServer) -> None:
    runtime_api.statuses.extendleft(["RUNNING", "RUNNING", "PENDING", "PENDING"])
    result = steps.poll()
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
def test_failed_build_carries_its_result(steps: Steps, runtime_api: RuntimeApiServer, error: str | None) -> None:
    runtime_api.statuses[0] = "FAILURE"
    runtime_api.error = error
    with pytest.raises(BuildFailed) as caught:
        steps.poll(target_image="r/i:t")
    assert isinstance(caught.value, BuildEndedBadly)
    assert (caught.value.result.status, caught.value.result.error, caught.value.result.image) == (
        "FAILURE",
        error,
        None,
    )
    assert (error or "does not say why") in caught.value.message
    assert "None" not in caught.value.message
    assert caught.value.fix == "read its log: `invoke logs --build-id abc123`"


def test_deadline_names_the_command_that_resumes_and_is_not_overrun(
    steps: Steps, runtime_api: RuntimeApiServer
) -> None:
    runtime_api.statuses[0] = "RUNNING"
    with pytest.raises(StoppedWatching) as caught:
        steps.poll()
    assert "did not end within 1800 s; its last status was RUNNING" in caught.value.message
    assert "invoke wait --build-id abc123" in caught.value.fix
    assert "BUILD_TIMEOUT" in caught.value.fix
    assert sum(steps.clock.pauses) == pytest.approx(1800, abs=0.02)


def test_no_pause_is_longer_than_the_poll_interval(steps: Steps, runtime_api: RuntimeApiServer) -> None:
    runtime_api.statuses[0] = "RUNNING"
    with pytest.raises(StoppedWatching):
        steps.poll(poll_interval_s=12)
    assert max(steps.clock.pauses) == 12
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
        now += choose_pause(now, 30, draw())
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
