"""Ctrl-C during a wait: the build is left alone unless the user has asked for its cancellation."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from buildkit.signals import Interrupted
from buildkit.workspace import Workspace
from tests.misbehaviour import answer, close_at_once
from tests.runtime_api import KEY, RuntimeApiServer
from tests.serving import DOCKERFILE, Served

if TYPE_CHECKING:
    from pathlib import Path

    from tests.commands import Command
    from tests.steps import Steps

LISTED = answer(200, {"name": "runtime-build", "version": "1", "features": ["cancel"]})
CANCEL = "POST /builds/abc123/cancel"


def interrupt(steps: Steps, runtime_api: RuntimeApiServer, folder: Path, *, cancels: bool = True) -> Interrupted:
    """Interrupt a wait between two polls."""

    def stop() -> None:
        raise Interrupted(signal.SIGINT)

    runtime_api.statuses.clear()
    runtime_api.statuses.append("RUNNING")
    steps.clock.on_sleep = stop
    with pytest.raises(Interrupted) as caught:
        steps.wait(Workspace(folder), cancel_on_interrupt=cancels)
    return caught.value


def test_build_is_left_alone_by_default(steps: Steps, runtime_api: RuntimeApiServer, tmp_path: Path) -> None:
    interrupted = interrupt(steps, runtime_api, tmp_path / "out", cancels=False)
    assert "is still running" in interrupted.fix
    assert {request.name for request in runtime_api.requests} == {"GET /build_status"}


def test_build_is_cancelled_on_request(steps: Steps, runtime_api: RuntimeApiServer, tmp_path: Path) -> None:
    runtime_api.always("GET /", LISTED)
    runtime_api.always(CANCEL, answer(200, {"status": "CANCELLED"}))
    interrupted = interrupt(steps, runtime_api, tmp_path / "out")
    assert runtime_api.count(CANCEL) == 1
    assert steps.reports[-1] == "Build abc123 is to be cancelled; its status is CANCELLED"
    assert "still running" not in interrupted.fix
    assert "wait --build-id abc123" in interrupted.fix


def test_server_without_the_feature_is_not_asked(steps: Steps, runtime_api: RuntimeApiServer, tmp_path: Path) -> None:
    interrupted = interrupt(steps, runtime_api, tmp_path / "out")
    assert runtime_api.count(CANCEL) == 0
    assert "does not list" in steps.warnings[-1]
    assert "is still running" in interrupted.fix


def test_failed_cancellation_is_a_warning_after_one_try(
    steps: Steps, runtime_api: RuntimeApiServer, tmp_path: Path
) -> None:
    runtime_api.always("GET /", LISTED)
    runtime_api.always(CANCEL, close_at_once)
    interrupted = interrupt(steps, runtime_api, tmp_path / "out")
    assert runtime_api.count(CANCEL) == 1
    assert "may not have been cancelled" in steps.warnings[-1]
    assert "is still running" in interrupted.fix


def test_ctrl_c_cancels_a_build_of_our_own_server(command: Command, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {"RUNTIME_API_KEY": KEY, "RUNTIME_API_URL": "http://127.0.0.1"}
    with Served(tmp_path_factory.mktemp("server"), settings=settings) as served:
        command.environment |= {"RUNTIME_API_URL": served.url, "RUNTIME_API_KEY": KEY}
        build_id = served.build(f"{DOCKERFILE}RUN sleep 60\n")
        served.wait(build_id, "RUNNING")
        running = command.start("wait", "--build-id", build_id, "--cancel-on-interrupt")
        running.wait_for("Build status: RUNNING")
        running.signal(signal.SIGINT)
        running.wait().expect(130, f"Build {build_id} is to be cancelled")
        assert served.wait(build_id)["status"] == "CANCELLED"
