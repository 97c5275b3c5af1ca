"""The server through its socket: the wire protocol, logs, and what it refuses."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.serving import DOCKERFILE, SLOW, Served, format_json, format_multipart, pack

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that leave it as it is."""
    with Served(tmp_path_factory.mktemp("served")) as server:
        yield server


def list_ids(server: Served) -> list[str]:
    return [build["build_id"] for build in server.call("GET", "/builds", limit="500").record["builds"]]


# --- the protocol ----------------------------------------------------------------------------------------------------


def test_json_is_answered_with_200_and_compact_json(served: Served) -> None:
    answer = served.post(format_json(pack()))
    assert answer.status == 200
    assert re.fullmatch(rb'{"build_id":"[^"]+"}', answer.body)
    state = served.wait(answer.record["build_id"])
    assert state["status"] == "SUCCESS"
    assert state["image"] == "app:1"
    assert "error" not in state


def test_multipart_is_answered_with_202_and_gives_every_tag(served: Served) -> None:
    answer = served.post(format_multipart(pack({"a": "1"}), "team/app:1", "team/app:2", "team/app:3"))
    assert answer.status == 202
    assert served.wait(answer.record["build_id"])["image"] == "team/app:1"
    for tag in ("1", "2", "3"):
        assert served.call("GET", "/image_exists", image=f"team/app:{tag}").record["exists"] is True


def test_doubled_slashes_are_tolerated_and_nothing_is_redirected(served: Served) -> None:
    body, content_type = format_json(pack())
    assert served.call("POST", "//build", body, {"Content-Type": content_type}).status == 200
    for path in ("//", "//health", "/health/", "/nothing/", "//builds//"):
        assert served.call("GET", path).status in {200, 404}


def test_an_image_exists_only_if_the_engine_says_so(served: Served) -> None:
    served.wait(served.build(target_image="known:1"))
    image = served.call("GET", "/image_exists", image="known:1").record["image"]
    assert isinstance(image["image_size_bytes"], int)
    assert image["upload_time"]
    assert served.call("GET", "/image_exists", image="unknown:1").record == {"exists": False}


def test_images_that_stay_in_the_engine_have_no_prefix(served: Served) -> None:
    assert served.call("GET", "/registry_prefix").status == 404


def test_a_failed_build_says_why(served: Served) -> None:
    state = served.wait(served.build(f"{DOCKERFILE}RUN fail\n"))
    assert state["status"] == "FAILURE"
    assert "it does not work" in state["error"]


def test_a_lost_engine_is_not_a_failed_build(served: Served) -> None:
    build_id = served.build(f"{DOCKERFILE}RUN lose\n")
    assert served.wait(build_id)["status"] == "SUCCESS"
    assert b"queued again" in served.call("GET", "/build_logs", build_id=build_id).body


def test_programs_get_the_features_without_a_key(served: Served) -> None:
    answer = served.call("GET", "/", headers={"X-API-Key": ""})
    assert answer.record["name"] == "runtime-build"
    assert {"idempotency", "contexts", "follow", "cancel"} <= set(answer.record["features"])


def test_health_and_metrics_need_no_key(served: Served) -> None:
    assert served.call("GET", "/health", headers={"X-API-Key": ""}).record["status"] == "ok"
    metrics = served.call("GET", "/metrics", headers={"X-API-Key": ""}).body.decode()
    assert re.search(r"^runtime_build_queued_builds \d+$", metrics, re.MULTILINE)


def test_builds_are_listed_newest_first_page_by_page(served: Served) -> None:
    made = [served.build(target_image=f"listed:{number}") for number in range(3)]
    first = served.call("GET", "/builds", image="listed", limit="2").record["builds"]
    assert [build["build_id"] for build in first] == made[:0:-1]
    rest = served.call("GET", "/builds", image="listed", before=made[1]).record["builds"]
    assert [build["build_id"] for build in rest] == made[:1]
    assert first[0]["owner"]
    assert "idempotency_key" not in first[0]
    assert served.call("GET", "/builds", limit="0").status == 422
    for build_id in made:
        served.wait(build_id)


def test_a_build_is_cancelled_and_built_again(served: Served) -> None:
    build_id = served.build(SLOW)
    served.wait(build_id, "RUNNING")
    assert served.call("POST", f"/builds/{build_id}/retry").status == 409
    assert served.call("POST", f"/builds/{build_id}/cancel").status == 200
    assert served.wait(build_id)["status"] == "CANCELLED"
    again = served.call("POST", f"/builds/{build_id}/retry").record["build_id"]
    assert again != build_id
    served.call("POST", f"/builds/{again}/cancel")
    assert served.wait(again)["status"] == "CANCELLED"


def test_one_idempotency_key_is_one_build(served: Served) -> None:
    answers = [served.post(format_json(pack()), Idempotency_Key="once") for _ in range(3)]
    assert len({answer.record["build_id"] for answer in answers}) == 1
    assert served.post(format_json(pack()), Idempotency_Key="two words").status == 422
    assert served.post(format_json(pack()), Idempotency_Key="another").record != answers[0].record


def test_a_source_is_sent_once_and_continued_by_the_context(served: Served) -> None:
    whole = pack({"src/main.py": "print(1)\n" * 100})
    source = split_source(whole)
    sha256 = hashlib.sha256(source).hexdigest()
    assert served.call("HEAD", f"/contexts/{sha256}").status == 404
    missing = served.post(format_json(pack(), context_sha256=sha256))
    assert missing.status == 409
    assert served.call("PUT", f"/contexts/{sha256}", b"not it").status == 422
    assert served.call("PUT", f"/contexts/{sha256}", source).status in {200, 201}
    assert served.call("HEAD", f"/contexts/{sha256}").status == 200
    answer = served.post(format_json(pack(), context_sha256=sha256))
    assert answer.status == 200
    assert served.wait(answer.record["build_id"])["status"] == "SUCCESS"


def split_source(archive: bytes) -> bytes:
    """Return a gzip member whose contents are the files of a tar, without the blocks that end one."""
    unpacked = gzip.decompress(archive)
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
        members = [member for member in tar if member.name != "Dockerfile"]
        pieces = [unpacked[m.offset : m.offset_data + -(-m.size // 512) * 512] for m in members]
    return gzip.compress(b"".join(pieces))


# --- logs ------------------------------------------------------------------------------------------------------------


def test_a_log_is_resumed_at_a_byte(served: Served) -> None:
    build_id = served.build(f"{DOCKERFILE}RUN print 100\n")
    served.wait(build_id)
    whole = served.call("GET", "/build_logs", build_id=build_id)
    assert whole.status == 200
    size = len(whole.body)
    part = served.call("GET", "/build_logs", headers={"Range": "bytes=100-"}, build_id=build_id)
    assert (part.status, part.body) == (206, whole.body[100:])
    assert part.headers["content-range"] == f"bytes 100-{size - 1}/{size}"
    few = served.call("GET", "/build_logs", headers={"Range": "bytes=5-9"}, build_id=build_id)
    assert few.body == whole.body[5:10]
    beyond = served.call("GET", "/build_logs", headers={"Range": f"bytes={size}-"}, build_id=build_id)
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size}")


def test_a_log_is_followed_to_its_end_and_resumed_after_an_event(served: Served) -> None:
    build_id = served.build(f"{DOCKERFILE}RUN print 2000\nRUN sleep 1\nRUN print 3\n")
    headers = {"Accept": "text/event-stream"}
    followed = served.call("GET", "/build_logs", headers=headers, build_id=build_id)
    assert followed.headers["content-type"].startswith("text/event-stream")
    text = served.call("GET", "/build_logs", build_id=build_id).body.decode()
    events = read_events(followed.body.decode())
    assert "\n".join(data for kind, _, data in events if kind != "end") + "\n" == text
    assert events[-1][0] == "end"
    assert json.loads(events[-1][2]) == {"status": "SUCCESS"}
    offset = events[0][1]
    rest = served.call("GET", "/build_logs", headers={**headers, "Last-Event-ID": str(offset)}, build_id=build_id)
    resumed = "\n".join(data for kind, _, data in read_events(rest.body.decode()) if kind != "end") + "\n"
    assert resumed.encode() == text.encode()[offset:]


def read_events(stream: str) -> list[tuple[str, int, str]]:
    """Return name, ID and data of each event."""
    events = []
    for block in stream.split("\n\n"):
        fields = [line.partition(": ")[::2] for line in block.split("\n")]
        data = [value for name, value in fields if name == "data"]
        if data:
            named = dict(fields)
            events.append((named.get("event", ""), int(named["id"]), "\n".join(data)))
    return events


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "target_image", "detail"),
    [
        (b"not gzip", "app:1", "gzip"),
        (gzip.compress(b"not a tar" * 200, mtime=0), "app:1", "tar"),
        (pack()[:-20], "app:1", ""),
        (pack({"../evil": "x"}), "app:1", "evil"),
        (pack(), "UPPER:1", "repository"),
        (pack(), "", ""),
        (pack(), f"app@sha256:{'0' * 64}", "digest"),
    ],
)
@pytest.mark.parametrize("form", [format_json, format_multipart])
def test_bad_input_is_refused_and_nothing_is_kept(
    served: Served, form: type, context: bytes, target_image: str, detail: str
) -> None:
    stored, builds = served.list_stored(), list_ids(served)
    answer = served.post(form(context, target_image))
    assert answer.status == 422, answer
    assert detail in answer.record["detail"]
    assert served.list_stored() == stored
    assert list_ids(served) == builds


def test_a_context_without_a_dockerfile_is_refused(served: Served) -> None:
    archive = pack({"src/Dockerfile": "FROM a\n"}, dockerfile="")
    buffer = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as old,
        tarfile.open(fileobj=buffer, mode="w:gz") as new,
    ):
        for member in old:
            if member.name != "Dockerfile":
                new.addfile(member, old.extractfile(member))
    answer = served.post(format_json(buffer.getvalue()))
    assert answer.status == 422
    assert "Dockerfile" in answer.record["detail"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"[]", "application/json", 422),
        (b"", "application/json", 422),
        (b'{"target_image":"a"}', "application/json", 422),
        (b'{"context":1,"target_image":"a"}', "application/json", 422),
        (b"a=b", "application/x-www-form-urlencoded", 422),
        (b"--B--\r\n", "multipart/form-data; boundary=B", 422),
        (b"x", "multipart/form-data", 422),
        (b"x", "", 422),
    ],
)
def test_a_body_of_the_wrong_shape_is_refused(served: Served, body: bytes, content_type: str, status: int) -> None:
    answer = served.call("POST", "/build", body, {"Content-Type": content_type})
    assert answer.status == status
    assert answer.record["detail"]


@pytest.mark.parametrize("key", ["", "wrong", "\xff" * 20])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/build"), ("GET", "/build_status?build_id=a"), ("GET", "/builds"), ("PUT", f"/contexts/{'0' * 64}")],
)
def test_without_a_key_nothing_is_done(served: Served, method: str, path: str, key: str) -> None:
    body, content_type = format_json(pack({"big": bytes(300_000)}))
    answer = served.call(method, path, body, {"X-API-Key": key, "Content-Type": content_type})
    assert answer.status == 401
    assert "key" in answer.record["detail"].lower()


def test_unknown_builds_and_calls_are_404(served: Served) -> None:
    for path in ("/build_status?build_id=none", "/build_logs?build_id=none", "/nothing", "/contexts/short"):
        assert served.call("GET", path).status in {404, 405}
    assert served.call("POST", "/builds/none/cancel").status == 404
    assert served.call("POST", "/builds/none/retry").status == 404
    assert served.call("GET", "/build_status").status == 422
    assert served.call("GET", "/build").status == 405


def test_only_the_server_s_user_can_read_its_directory(served: Served) -> None:
    assert served.data.stat().st_mode & 0o777 == 0o700
    assert (served.data / ".gitignore").read_text().startswith("# Created by runtime-build")
