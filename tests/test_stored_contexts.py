"""The source of a context is not sent again to a server that has it, whatever that server says or forgets."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from buildkit.archive.compressor import find_compressor
from buildkit.archive.parts import digest_parts, find_rest
from buildkit.archive.stream import PackingOptions
from buildkit.archive.writer import ArchiveWriter
from buildkit.errors import LocalError, NotStarted, OutcomeUnknown
from buildkit.runtime_api.submit import MIN_SOURCE_BYTES
from buildkit.signals import Interrupted
from tests.checkouts import commit_all
from tests.misbehaviour import answer, close_after_body, reset_after, reset_after_body
from tests.runtime_api import KEY, RuntimeApiServer
from tests.serving import Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.commands import Command
    from tests.runtime_api import Exchange
    from tests.steps import Steps

FORMS = pytest.mark.parametrize("form", ["json", "multipart"])
LISTED = ["contexts", "idempotency"]


class Packed(NamedTuple):
    """An archive and its two gzip members."""

    path: Path
    source: bytes
    rest: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source).hexdigest()

    @property
    def call(self) -> str:
        return f"/contexts/{self.sha256}"


def pack(folder: Path, content: bytes, compressor: str = "zlib-1") -> Packed:
    tree = folder / "tree"
    tree.mkdir()
    (tree / "data").write_bytes(content)
    file = io.BytesIO()
    writer = ArchiveWriter(file, PackingOptions(1_760_000_000, find_compressor(compressor), 10**9))
    writer.pack_source(tree, ["data"])
    packed = writer.finish({"Dockerfile": b"FROM scratch\n"})
    data, cut = file.getvalue(), packed.source.archive_bytes
    path = folder / "packed.tar.gz"
    path.write_bytes(data)
    return Packed(path, data[:cut], data[cut:])


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    return pack(tmp_path, os.urandom(MIN_SOURCE_BYTES))


class Storing:
    """Lets a scripted server keep sources, and start one build for each idempotency key."""

    def __init__(self, server: RuntimeApiServer, packed: Packed) -> None:
        self.server = server
        self.packed = packed
        self.is_stored = False
        self.ids: dict[str, str] = {}
        server.always("GET /", answer(200, {"features": LISTED}))
        server.always(f"HEAD {packed.call}", lambda exchange: exchange.answer(200 if self.is_stored else 404))
        server.always(f"PUT {packed.call}", self.store)
        server.always("POST /build", self.start)

    def store(self, exchange: Exchange) -> None:
        self.is_stored = exchange.read_body() == self.packed.source
        exchange.answer(201 if self.is_stored else 422, {})

    def start(self, exchange: Exchange) -> None:
        body = exchange.read_body()
        if self.packed.sha256.encode() in body and not self.is_stored:
            exchange.answer(409, {"detail": f"the server does not have {self.packed.sha256}"})
            return
        key = exchange.request.headers["idempotency-key"]
        if key not in self.ids:
            self.ids[key] = self.server.start_build(exchange.request).build_id
        exchange.answer(200, {"build_id": self.ids[key]})

    def forget(self, status: int) -> Any:
        """Return the behaviour of a server that no longer has the source."""
        return answer(status, {"detail": f"the server does not have {self.packed.sha256}"})

    def list_calls(self) -> list[str]:
        """Return the requests that have something to do with the upload, in order."""
        return [request.name.split("/contexts")[0].split("/build")[0].strip() for request in self.server.requests[2:]]

    def read_upload(self) -> tuple[str | None, bytes]:
        """Return the digest and the context in the last `POST /build`."""
        body = self.server.requests[-1].body
        if body.startswith(b"{"):
            fields = json.loads(body)
            return fields.get("context_sha256"), base64.b64decode(fields["context"])
        named = re.search(rb'name="context_sha256"\r\n\r\n([0-9a-f]{64})\r\n', body)
        context = re.search(rb'filename="context.tar.gz"\r\n\r\n([^\r]*)\r\n', body)
        assert context
        return named[1].decode() if named else None, base64.b64decode(context[1])


@pytest.fixture
def storing(runtime_api: RuntimeApiServer, packed: Packed) -> Storing:
    return Storing(runtime_api, packed)


@FORMS
def test_source_is_sent_once_and_named_after_that(steps: Steps, storing: Storing, packed: Packed, form: str) -> None:
    steps.submit(packed.path, upload_format=form)
    assert storing.list_calls() == ["HEAD", "PUT", "POST"]
    assert storing.read_upload() == (packed.sha256, packed.rest)
    steps.submit(packed.path, upload_format=form, force=True)
    assert storing.list_calls()[3:] == ["GET /registry_prefix", "GET /", "HEAD", "POST"]
    assert storing.read_upload() == (packed.sha256, packed.rest)
    assert "the server already has the source; sending only the rest" in "".join(steps.reports)
    assert len(storing.server.builds) == 2
    assert {request.headers["x-api-key"] for request in storing.server.requests} == {KEY}


def test_server_without_the_feature_gets_the_whole_archive(
    steps: Steps, runtime_api: RuntimeApiServer, packed: Packed
) -> None:
    steps.submit(packed.path)
    assert [request.name for request in runtime_api.requests] == ["GET /registry_prefix", "GET /", "POST /build"]
    assert set(json.loads(runtime_api.requests[-1].body)) == {"context", "tags", "target_image"}
    assert runtime_api.builds[0].archive_sha256 == hashlib.sha256(packed.path.read_bytes()).hexdigest()


def test_small_source_is_sent_along_without_asking(steps: Steps, runtime_api: RuntimeApiServer, tmp_path: Path) -> None:
    small = pack(tmp_path, os.urandom(MIN_SOURCE_BYTES // 2))
    Storing(runtime_api, small)
    steps.submit(small.path)
    assert [request.name for request in runtime_api.requests] == ["GET /registry_prefix", "POST /build"]


@pytest.mark.parametrize("status", [404, 409, 422])
def test_forgotten_source_is_sent_again_even_if_head_says_yes(steps: Steps, storing: Storing, status: int) -> None:
    storing.is_stored = True
    storing.server.script("POST /build", storing.forget(status))
    assert steps.submit(storing.packed.path).build_id == "build-1"
    assert storing.list_calls() == ["HEAD", "POST", "PUT", "POST"]
    assert len(storing.server.builds) == 1
    assert f"does not have {storing.packed.sha256}; sending the source again" in steps.warnings[0]


def test_server_that_forgets_everything_gets_the_whole_archive(steps: Steps, storing: Storing) -> None:
    storing.server.script("POST /build", storing.forget(409), storing.forget(409))
    assert steps.submit(storing.packed.path).build_id == "build-1"
    assert storing.list_calls() == ["HEAD", "PUT", "POST", "PUT", "POST", "POST"]
    assert storing.read_upload() == (None, storing.packed.path.read_bytes())


@pytest.mark.parametrize(("status", "error"), [(404, NotStarted), (422, NotStarted), (409, OutcomeUnknown)])
def test_refusal_for_another_reason_is_what_it_always_was(
    steps: Steps, storing: Storing, status: int, error: type[Exception]
) -> None:
    storing.server.always("GET /", answer(200, {"features": ["contexts"]}))
    storing.server.always("POST /build", answer(status, {"detail": "no"}))
    with pytest.raises(error, match="no"):
        steps.submit(storing.packed.path)
    assert storing.list_calls() == ["HEAD", "PUT", "POST"]
    assert steps.upload_state == ("intent" if status == 409 else None)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413])
def test_server_that_refuses_the_source_gets_the_whole_archive(steps: Steps, storing: Storing, status: int) -> None:
    storing.server.always(f"PUT {storing.packed.call}", answer(status, {"detail": "no"}))
    steps.submit(storing.packed.path)
    assert storing.list_calls() == ["HEAD", "PUT", "POST"]
    assert storing.read_upload() == (None, storing.packed.path.read_bytes())
    assert "sending the whole archive instead" in steps.warnings[0]


@pytest.mark.parametrize("status", [204, 401, 405, 500, 301])
def test_server_that_does_not_say_whether_it_has_the_source_gets_the_whole_archive(
    steps: Steps, storing: Storing, status: int
) -> None:
    with RuntimeApiServer() as other:
        storing.server.always(f"HEAD {storing.packed.call}", answer(status, headers={"Location": other.url}))
        steps.submit(storing.packed.path)
        assert not other.connections
    assert storing.list_calls() == ["HEAD", "POST"]
    assert storing.read_upload() == (None, storing.packed.path.read_bytes())


def test_source_that_is_lost_on_its_way_is_sent_again(steps: Steps, storing: Storing) -> None:
    storing.server.script(f"PUT {storing.packed.call}", reset_after(1000), answer(503, b"", {"Retry-After": "7"}))
    assert steps.submit(storing.packed.path).build_id == "build-1"
    assert storing.list_calls() == ["HEAD", "PUT", "PUT", "PUT", "POST"]
    assert steps.clock.pauses[1] == 7


@pytest.mark.parametrize("behaviour", [reset_after(1000), answer(507, {"detail": "disk full"}), answer(307)])
def test_source_that_cannot_be_sent_starts_nothing(steps: Steps, storing: Storing, behaviour: Any) -> None:
    storing.server.always(f"PUT {storing.packed.call}", behaviour)
    with pytest.raises(NotStarted, match="/contexts/"):
        steps.submit(storing.packed.path)
    assert "POST" not in storing.list_calls()
    assert (steps.saved, steps.upload_state) == ([], None)


def test_redirect_of_the_source_is_not_followed(steps: Steps, storing: Storing) -> None:
    with RuntimeApiServer() as other:
        storing.server.always(f"PUT {storing.packed.call}", answer(307, headers={"Location": f"{other.url}/x"}))
        with pytest.raises(NotStarted, match="is not followed"):
            steps.submit(storing.packed.path)
        assert not other.connections


def test_interrupt_while_the_source_is_sent_leaves_no_intent(steps: Steps, storing: Storing) -> None:
    def interrupt(_sent: int, _total: int) -> None:
        raise Interrupted(2)

    steps.ui.draw = interrupt
    with pytest.raises(Interrupted) as caught:
        steps.submit(storing.packed.path)
    assert "may have been started" not in caught.value.fix
    assert (steps.saved, steps.upload_state) == ([], None)


def test_interrupt_while_a_forgotten_source_is_sent_again_leaves_no_intent(steps: Steps, storing: Storing) -> None:
    def interrupt(_sent: int, total: int) -> None:
        if total == len(storing.packed.source):
            raise Interrupted(2)

    storing.is_stored = True
    storing.server.script("POST /build", storing.forget(409))
    steps.ui.draw = interrupt
    with pytest.raises(Interrupted):
        steps.submit(storing.packed.path)
    assert (len(steps.saved), steps.upload_state) == (1, None)


def test_progress_is_that_of_each_body(steps: Steps, storing: Storing) -> None:
    seen: list[tuple[int, int]] = []
    steps.ui.draw = lambda *sizes: seen.append(sizes)
    steps.submit(storing.packed.path)
    totals = list(dict.fromkeys(total for _, total in seen))
    assert totals[0] == len(storing.packed.source)
    for total in totals:
        sent = [done for done, of in seen if of == total]
        assert sent == sorted(sent)
        assert sent[-1] == total


def test_76_archive_that_changes_while_the_source_is_sent_starts_nothing(steps: Steps, storing: Storing) -> None:
    def change(_sent: int, _total: int) -> None:
        assert steps.workspace
        (archive,) = steps.workspace.path.glob("*.tar.gz")
        archive.write_bytes(bytes(archive.stat().st_size))

    steps.ui.draw = change
    with pytest.raises(LocalError, match="changed while it was sent"):
        steps.submit(storing.packed.path)
    assert (storing.server.whole_bodies, storing.server.builds, steps.upload_state) == (0, [], None)


def test_lost_response_and_a_forgotten_source_still_mean_one_build(steps: Steps, storing: Storing) -> None:
    def start_and_forget(exchange: Exchange) -> None:
        key = exchange.request.headers["idempotency-key"]
        exchange.read_body()
        storing.ids[key] = storing.server.start_build(exchange.request).build_id
        storing.is_stored = False
        exchange.connection.close()

    storing.server.script("POST /build", start_and_forget)
    assert steps.submit(storing.packed.path).build_id == "build-1"
    assert storing.list_calls() == ["HEAD", "PUT", "POST", "POST", "PUT", "POST"]
    assert len(storing.server.builds) == 1


@pytest.mark.parametrize("lost_at", ["first PUT", "second PUT"])
def test_outcome_stays_unknown_if_the_source_cannot_be_sent_again(steps: Steps, storing: Storing, lost_at: str) -> None:
    put = f"PUT {storing.packed.call}"
    if lost_at == "first PUT":
        storing.server.always("POST /build", close_after_body)
        with pytest.raises(OutcomeUnknown):
            steps.submit(storing.packed.path)
        storing.is_stored = False
    else:
        storing.is_stored = True
        storing.server.script("POST /build", reset_after_body, storing.forget(409))
    storing.server.always(put, reset_after(1000))
    with pytest.raises(OutcomeUnknown, match="an earlier try may have started a build"):
        steps.submit(storing.packed.path)
    assert steps.upload_state == "intent"


def test_boundary_is_found_whatever_the_source_contains(tmp_path: Path) -> None:
    inner = pack(tmp_path, b"inner").path.read_bytes()
    (tmp_path / "outer").mkdir()
    for compressor in ("zlib-1", "isal-0"):
        outer = pack(tmp_path / "outer", os.urandom(1000) + inner * 3, compressor)
        with outer.path.open("rb") as file:
            assert find_rest(file.fileno()) == len(outer.source)
            sha256 = hashlib.sha256(outer.source + outer.rest).hexdigest()
            parts = digest_parts(file.fileno(), len(outer.source), sha256)
            assert parts == (len(outer.source), outer.sha256, hashlib.sha256(outer.rest).hexdigest())
            assert digest_parts(file.fileno(), len(outer.source), outer.sha256) is None
        (tmp_path / "outer/tree/data").unlink()
        (tmp_path / "outer/tree").rmdir()


@pytest.mark.parametrize("damage", ["source only", "cut", "longer", "empty", "noise"])
def test_anything_else_has_no_boundary(tmp_path: Path, damage: str) -> None:
    packed = pack(tmp_path, b"content")
    whole = packed.source + packed.rest
    damaged = {"cut": whole[:-1], "longer": whole + b"x", "empty": b"", "noise": b"\x1f" * 99}
    packed.path.write_bytes(damaged.get(damage, packed.source))
    with packed.path.open("rb") as file:
        assert find_rest(file.fileno()) is None


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = {"RUNTIME_API_KEY": KEY, "RUNTIME_API_URL": "http://127.0.0.1"}
    with Served(tmp_path_factory.mktemp("server"), settings=settings) as server:
        yield server


def test_our_own_server_builds_both_parts_and_may_lose_them(command: Command, served: Served) -> None:
    (command.checkout / "openhands-agent-server/openhands/agent_server/data").write_bytes(os.urandom(MIN_SOURCE_BYTES))
    commit_all(command.checkout)
    command.environment |= {"RUNTIME_API_URL": served.url, "RUNTIME_API_KEY": KEY}
    contexts = served.data / "contexts"
    command.run("all").succeed()
    (stored,) = contexts.glob("*.source.gz")
    first = command.read_state("context")["archive_sha256"]
    command.run("all", "--upload-format", "multipart", "--extra-packages", "jq").expect(0, "already has the source")
    assert command.read_state("context")["archive_sha256"] != first
    stored.unlink()
    command.run("all", "--extra-packages", "git").succeed()
    assert stored.exists()
    assert len(served.call("GET", "/builds").record["builds"]) == 3
