"""Two POSTs, one build: an upload whose outcome is unknown is sent again only to a server that knows its key."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from buildkit.errors import LocalError, OutcomeUnknown
from buildkit.signals import Interrupted
from tests.misbehaviour import answer, close_after_body, close_at_once, reset_after_body
from tests.runtime_api import KEY, RuntimeApiServer
from tests.serving import Served
from tests.steps import VERSION, Steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.commands import Command
    from tests.runtime_api import Exchange

LISTED = {"name": "runtime-build", "version": "1", "features": ["idempotency"]}
BUSY = answer(503, {"detail": "busy"}, {"Retry-After": "1"})


@pytest.fixture
def idempotent(runtime_api: RuntimeApiServer) -> RuntimeApiServer:
    """A server that starts one build for each key, and lists that."""
    known: dict[str, str] = {}

    def start(exchange: Exchange) -> None:
        exchange.read_body()
        key = exchange.request.headers["idempotency-key"]
        if key not in known:
            known[key] = exchange.server.start_build(exchange.request).build_id
        exchange.answer(200, {"build_id": known[key]})

    def start_and_close(exchange: Exchange) -> None:
        exchange.read_body()
        known[exchange.request.headers["idempotency-key"]] = exchange.server.start_build(exchange.request).build_id
        exchange.connection.close()

    runtime_api.always("GET /", answer(200, LISTED))
    runtime_api.always("POST /build", start)
    runtime_api.script("POST /build", start_and_close)
    return runtime_api


def list_keys(server: RuntimeApiServer) -> list[str | None]:
    return [request.headers.get("idempotency-key") for request in server.requests if request.name == "POST /build"]


def test_every_upload_carries_the_key_that_is_on_record(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    submission = steps.submit(archive)
    again = steps.submit(archive, force=True)
    assert list_keys(runtime_api) == [submission.idempotency_key, again.idempotency_key]
    assert submission.idempotency_key != again.idempotency_key
    assert runtime_api.count("GET /") == 0


def test_lost_response_is_asked_for_again(steps: Steps, idempotent: RuntimeApiServer, archive: Path) -> None:
    submission = steps.submit(archive)
    assert (submission.build_id, submission.state) == ("build-1", "submitted")
    assert list_keys(idempotent) == [submission.idempotency_key] * 2
    assert (len(idempotent.builds), len(steps.clock.pauses)) == (1, 1)


@pytest.mark.parametrize("behaviour", [answer(200, {"id": 1}), answer(504), BUSY, reset_after_body])
def test_every_unknown_outcome_is_asked_for_again(
    steps: Steps, idempotent: RuntimeApiServer, archive: Path, behaviour: Any
) -> None:
    idempotent.script("POST /build", behaviour)
    assert steps.submit(archive).build_id == "build-1"
    assert (idempotent.count("POST /build"), len(idempotent.builds)) == (3, 1 + (behaviour is reset_after_body))


@pytest.mark.parametrize("features", [answer(404), answer(200, {**LISTED, "features": ["cancel"]}), close_at_once])
def test_other_servers_are_never_sent_it_twice(
    steps: Steps, idempotent: RuntimeApiServer, archive: Path, features: Any
) -> None:
    idempotent.always("GET /", features)
    for message in ("no response came back", "its ID never arrived"):
        with pytest.raises(OutcomeUnknown, match=message) as caught:
            steps.submit(archive)
        assert "look on the server" in caught.value.fix
    assert (idempotent.count("POST /build"), len(idempotent.builds)) == (1, 1)


def test_tries_are_bounded_and_the_outcome_stays_unknown(
    steps: Steps, runtime_api: RuntimeApiServer, archive: Path
) -> None:
    runtime_api.always("GET /", answer(200, LISTED))
    runtime_api.always("POST /build", close_after_body)
    with pytest.raises(OutcomeUnknown, match=r"a build may or may not have started$") as caught:
        steps.submit(archive)
    assert "`runtime-build upload` again" in caught.value.fix
    assert (runtime_api.count("POST /build"), runtime_api.count("GET /")) == (3, 1)
    assert steps.upload_state == "intent"


@pytest.mark.parametrize("status", [401, 404, 413, 422, 429])
def test_refusal_of_a_later_try_proves_nothing(
    steps: Steps, idempotent: RuntimeApiServer, archive: Path, status: int
) -> None:
    idempotent.always("POST /build", answer(status, {"detail": "no"}))
    with pytest.raises(OutcomeUnknown, match=f"HTTP {status} .*an earlier try may have started a build"):
        steps.submit(archive)
    assert steps.upload_state == "intent"


def test_archive_that_changes_between_two_tries_leaves_the_outcome_unknown(
    steps: Steps, idempotent: RuntimeApiServer, archive: Path
) -> None:
    def change() -> None:
        assert steps.workspace
        path = steps.workspace.path / VERSION.archive
        path.write_bytes(bytes(path.stat().st_size))

    steps.clock.on_sleep = change
    with pytest.raises(OutcomeUnknown, match="changed while it was sent; an earlier try") as caught:
        steps.submit(archive)
    assert isinstance(caught.value.__cause__, LocalError)
    assert (steps.upload_state, len(idempotent.builds)) == ("intent", 1)


def test_interrupt_between_two_tries_keeps_the_intent(
    steps: Steps, idempotent: RuntimeApiServer, archive: Path
) -> None:
    def interrupt() -> None:
        raise Interrupted(2)

    steps.clock.on_sleep = interrupt
    with pytest.raises(Interrupted):
        steps.submit(archive)
    assert steps.upload_state == "intent"
    steps.clock.on_sleep = lambda: None
    assert steps.submit(archive).build_id == "build-1"
    assert len(idempotent.builds) == 1
    assert len(set(list_keys(idempotent))) == 1


def test_next_upload_sends_the_same_intent(steps: Steps, idempotent: RuntimeApiServer, archive: Path) -> None:
    idempotent.script("GET /", close_at_once)
    with pytest.raises(OutcomeUnknown):
        steps.submit(archive)
    asked = idempotent.count("GET /registry_prefix")
    assert steps.submit(archive).build_id == "build-1"
    assert len(set(list_keys(idempotent))) == len(idempotent.builds) == 1
    assert idempotent.count("GET /registry_prefix") == asked
    assert steps.reports[0].startswith("sending an earlier upload again")
    assert steps.upload_state == "submitted"


def test_refused_repetition_leaves_the_intent_on_record(
    steps: Steps, idempotent: RuntimeApiServer, archive: Path
) -> None:
    idempotent.script("GET /", close_at_once)
    with pytest.raises(OutcomeUnknown):
        steps.submit(archive)
    idempotent.script("POST /build", answer(401, {"detail": "who are you"}))
    with pytest.raises(OutcomeUnknown, match="who are you; an earlier try may have started a build"):
        steps.submit(archive)
    assert steps.upload_state == "intent"


@pytest.mark.parametrize("changes", [{"image_name": "other"}, {"target_image": "r.example.com/i:1"}])
def test_another_build_is_refused_as_ever(
    steps: Steps, idempotent: RuntimeApiServer, archive: Path, changes: dict[str, str]
) -> None:
    idempotent.script("GET /", close_at_once)
    with pytest.raises(OutcomeUnknown):
        steps.submit(archive)
    with pytest.raises(OutcomeUnknown, match="its ID never arrived"):
        steps.submit(archive, **changes)
    assert idempotent.count("POST /build") == 1


class Losing:
    """A proxy in front of a server, which loses the response of the first request that has a body."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._has_lost = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", self._target)) as server:
                head = client.recv(64 * 1024)
                is_lost = head.startswith(b"POST") and not self._has_lost
                server.sendall(head)
                forward = threading.Thread(target=_copy, args=(client, server), daemon=True)
                forward.start()
                while piece := server.recv(64 * 1024):
                    if is_lost:
                        self._has_lost = True
                        break
                    client.sendall(piece)
                client.shutdown(socket.SHUT_RDWR)
                forward.join(10)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(64 * 1024):
            target.sendall(piece)
    except OSError:
        return


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = {"RUNTIME_API_KEY": KEY, "RUNTIME_API_URL": "http://127.0.0.1"}
    with Served(tmp_path_factory.mktemp("server"), settings=settings) as server:
        yield server


@pytest.mark.parametrize("form", ["json", "multipart"])
def test_our_own_server_starts_one_build(command: Command, served: Served, form: str) -> None:
    proxy = Losing(int(served.url.rpartition(":")[2]))
    try:
        command.environment |= {"RUNTIME_API_URL": proxy.url, "RUNTIME_API_KEY": KEY, "UPLOAD_FORMAT": form}
        command.run("all").succeed()
    finally:
        proxy.close()
    (build,) = served.call("GET", "/builds").record["builds"]
    assert build["build_id"] == command.read_state("upload")["build_id"]
