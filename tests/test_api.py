"""The client against a real server: what is sent, what is read, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from buildkit.errors import LocalError, SettingError
from buildkit.runtime_api.client import RuntimeApi
from buildkit.runtime_api.probing import probe
from buildkit.runtime_api.protocol import BuildStatus
from buildkit.runtime_api.response import InvalidResponse, Response, parse_object, parse_retry_after
from buildkit.runtime_api.retry import Clock, RequestFailed
from buildkit.runtime_api.submit import start_build
from buildkit.runtime_api.upload import ArchivePart, UploadAttempt
from buildkit.secret import ApiKey
from tests.misbehaviour import answer
from tests.runtime_api import KEY, RuntimeApiServer
from tests.steps import KeptUi

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "agent-server-0506352-python.tar.gz"
    path.write_bytes(os.urandom(1_000_001))
    return path


@pytest.fixture
def api(runtime_api: RuntimeApiServer) -> RuntimeApi:
    return RuntimeApi(runtime_api.url, ApiKey(KEY), clock=Clock(sleep=lambda _: None))


@pytest.fixture
def attempt(archive: Path) -> Iterator[UploadAttempt]:
    """The archive, to be sent as one image without additional tags."""
    with opened(archive) as attempt:
        yield attempt


@contextmanager
def opened(archive: Path, images: Sequence[str] = ("r/i:a",), upload_format: str = "json") -> Iterator[UploadAttempt]:
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    with archive.open("rb") as file:
        yield UploadAttempt(ArchivePart.of_whole(file.fileno(), archive.name, sha256), images, upload_format)


@pytest.mark.parametrize("upload_format", ["json", "multipart"])
def test_server_gets_the_archive_whole_and_the_image_names(
    api: RuntimeApi, runtime_api: RuntimeApiServer, archive: Path, upload_format: str
) -> None:
    with opened(archive, ["r/i:a", "r/i:b", "r/i:c"], upload_format) as attempt:
        started = start_build(api, attempt, KeptUi())
    (build,) = runtime_api.builds
    assert started.build_id == build.build_id
    assert (build.target_image, build.tags) == ("r/i:a", ["r/i:b", "r/i:c"])
    assert build.archive_sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()


@pytest.mark.parametrize("upload_format", ["json", "multipart"])
@pytest.mark.parametrize("size_bytes", [0, 1, 2, 3, 196_607, 196_608, 196_609])
def test_body_has_exactly_the_length_that_was_announced(tmp_path: Path, upload_format: str, size_bytes: int) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(b"x" * size_bytes)
    with opened(path, ["r/i:a"], upload_format) as attempt:
        pieces = list(attempt)
    assert len(b"".join(pieces)) == attempt.total == attempt.sent
    assert max(map(len, pieces)) <= 65_536 + 100


def test_json_body_has_no_tags_where_there_are_none(
    api: RuntimeApi, runtime_api: RuntimeApiServer, attempt: UploadAttempt
) -> None:
    start_build(api, attempt, KeptUi())
    assert set(json.loads(runtime_api.requests[-1].body)) == {"context", "target_image"}


def test_archive_cut_while_it_is_sent_starts_no_build(
    api: RuntimeApi, runtime_api: RuntimeApiServer, attempt: UploadAttempt, archive: Path
) -> None:
    def cut(sent_bytes: int, _total_bytes: int) -> None:
        if sent_bytes < 1000:
            os.truncate(archive, 300_000)

    attempt.draw = cut
    with pytest.raises(LocalError, match="became shorter"):
        start_build(api, attempt, KeptUi())
    assert not attempt.may_have_started
    assert not runtime_api.builds


@pytest.mark.parametrize("at_bytes", [0, 1_000_000])
def test_76_archive_modified_while_it_is_sent_starts_no_build(
    api: RuntimeApi, runtime_api: RuntimeApiServer, attempt: UploadAttempt, archive: Path, at_bytes: int
) -> None:
    def modify(sent_bytes: int, _total_bytes: int) -> None:
        if sent_bytes < 1000:
            with archive.open("r+b") as file:
                file.seek(at_bytes)
                byte = file.read(1)[0]
                file.seek(at_bytes)
                file.write(bytes([byte ^ 1]))

    attempt.draw = modify
    with pytest.raises(LocalError, match="changed while it was sent"):
        start_build(api, attempt, KeptUi())
    assert not attempt.complete
    assert not attempt.may_have_started
    assert (runtime_api.whole_bodies, runtime_api.builds) == (0, [])


def test_archive_replaced_under_its_name_does_not_matter(
    api: RuntimeApi, runtime_api: RuntimeApiServer, attempt: UploadAttempt, archive: Path
) -> None:
    archive.unlink()
    archive.write_bytes(b"another one")
    start_build(api, attempt, KeptUi())
    assert runtime_api.builds[0].archive_sha256 == attempt.archive.sha256


def test_progress_ends_with_the_whole_length(
    api: RuntimeApi, runtime_api: RuntimeApiServer, attempt: UploadAttempt
) -> None:
    seen: list[tuple[int, int]] = []
    attempt.draw = lambda *sizes: seen.append(sizes)
    start_build(api, attempt, KeptUi())
    assert seen == sorted(seen)
    assert seen[-1] == (runtime_api.bytes_received, runtime_api.bytes_received)


def test_every_request_carries_the_key_and_nothing_else_that_is_secret(
    api: RuntimeApi, runtime_api: RuntimeApiServer, attempt: UploadAttempt
) -> None:
    api.registry_prefix()
    start_build(api, attempt, KeptUi())
    api.build_status("build-1")
    api.image_exists("r/i:a")
    with api.build_logs("build-1") as lines:
        assert list(lines or ())
    assert [request.headers["x-api-key"] for request in runtime_api.requests] == [KEY] * 5
    assert not any("authorization" in request.headers for request in runtime_api.requests)
    assert runtime_api.connections == 5


@pytest.mark.parametrize("given", ["", "/", "/base", "/base/"])
def test_base_url_may_have_a_path_and_a_slash(runtime_api: RuntimeApiServer, given: str) -> None:
    runtime_api.always(f"GET {given.rstrip('/')}/registry_prefix", answer(200, {"registry_prefix": "r"}))
    assert RuntimeApi(runtime_api.url + given, ApiKey(KEY)).registry_prefix() == "r"


@pytest.mark.parametrize(
    ("status", "body", "prefix"),
    [
        (200, {"registry_prefix": "registry.example.com/team/"}, "registry.example.com/team"),
        (200, {"registry_prefix": ""}, None),
        (200, {"registry_prefix": None}, None),
        (200, {}, None),
        (404, {"detail": "Not Found"}, None),
    ],
)
def test_registry_prefix_is_optional(
    api: RuntimeApi, runtime_api: RuntimeApiServer, status: int, body: Any, prefix: str | None
) -> None:
    runtime_api.always("GET /registry_prefix", answer(status, body))
    assert api.registry_prefix() == prefix


def test_registry_prefix_survives_a_bad_gateway(api: RuntimeApi, runtime_api: RuntimeApiServer) -> None:
    runtime_api.script("GET /registry_prefix", answer(502), answer(500))
    assert api.registry_prefix() == runtime_api.prefix
    assert runtime_api.count("GET /registry_prefix") == 3


def test_build_id_is_url_encoded(api: RuntimeApi, runtime_api: RuntimeApiServer) -> None:
    api.build_status("a&b=c/d e")
    assert runtime_api.requests[-1].query == {"build_id": "a&b=c/d e"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"status": "SUCCESS", "image": "r/i:t"}, BuildStatus("SUCCESS", "r/i:t", None)),
        ({"status": "success"}, BuildStatus("SUCCESS", None, None)),
        ({"status": "FAILURE", "error": None}, BuildStatus("FAILURE", None, None)),
        ({"status": "FAILURE", "error": {"step": 3}}, BuildStatus("FAILURE", None, '{"step": 3}')),
        ({"status": "FAILURE", "error": "\x1b[31mred\r"}, BuildStatus("FAILURE", None, "\\x1b[31mred\\r")),
        ({"status": 7, "image": ["x"], "error": False}, BuildStatus(None, None, None, '["x"]')),
        ({"status": "SUCCESS", "image": "two words"}, BuildStatus("SUCCESS", None, None, "two words")),
        ({"status": "SUCCESS", "image": "--privileged"}, BuildStatus("SUCCESS", None, None, "--privileged")),
        ({"status": "SUCCESS", "image": "$(id)"}, BuildStatus("SUCCESS", None, None, "$(id)")),
        ({"status": "SUCCESS", "image": "a;id"}, BuildStatus("SUCCESS", None, None, "a;id")),
        ({"status": "SUCCESS", "image": "https://r/i:t"}, BuildStatus("SUCCESS", None, None, "https://r/i:t")),
        ({}, BuildStatus(None, None, None)),
    ],
)
def test_status_is_read_whatever_its_values_are(
    api: RuntimeApi, runtime_api: RuntimeApiServer, body: Any, status: BuildStatus
) -> None:
    runtime_api.always("GET /build_status", answer(200, body))
    assert api.build_status("b") == status


def test_finished_build_is_believed_under_429(api: RuntimeApi, runtime_api: RuntimeApiServer) -> None:
    runtime_api.always("GET /build_status", answer(429, {"status": "FAILURE", "error": "rate limit of the base image"}))
    assert api.build_status("b").error == "rate limit of the base image"


def test_replica_on_the_same_origin_is_used(
    api: RuntimeApi, runtime_api: RuntimeApiServer, attempt: UploadAttempt
) -> None:
    runtime_api.script("POST /build", answer(200, {"build_id": "b", "url": f"{runtime_api.url}/replica-2"}))
    started = start_build(api, attempt, KeptUi())
    runtime_api.always("GET /replica-2/build_status", answer(200, {"status": "RUNNING"}))
    assert api.build_status("b", started.status_url).status == "RUNNING"


def test_replica_elsewhere_gets_the_key_only_where_its_host_is_allowed(
    runtime_api: RuntimeApiServer, attempt: UploadAttempt
) -> None:
    with RuntimeApiServer(statuses=["RUNNING"]) as replica:
        body = {"build_id": "b", "url": f"http://localhost:{replica.port}"}
        runtime_api.script("POST /build", answer(200, body), answer(200, body))
        api = RuntimeApi(runtime_api.url, ApiKey(KEY))
        started = start_build(api, attempt, KeptUi())
        assert (started.status_url, started.refused_url) == (None, body["url"])
        with pytest.raises(SettingError, match="neither RUNTIME_API_URL nor one of ALLOWED_HOSTS"):
            api.build_status("b", body["url"])
        assert not replica.connections
        api = RuntimeApi(runtime_api.url, ApiKey(KEY), allowed_hosts=frozenset({"localhost"}))
        started = start_build(api, attempt, KeptUi())
        assert started.status_url == body["url"]
        assert api.build_status("b", started.status_url).status == "RUNNING"


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://api.example.com", True),
        ("https://API.example.com:443/x", True),
        ("http://api.example.com", False),
        ("https://api.example.com:8443", False),
        ("https://replica.example.com", True),
        ("http://replica.example.com", False),
        ("https://other.example.com:99", True),
        ("https://other.example.com", False),
        ("https://replica.example.com@evil.example", False),
        ("https://evil.example/?replica.example.com", False),
        ("https://[::1", False),
        ("file:///etc/passwd", False),
    ],
)
def test_key_goes_only_to_the_origin_and_to_allowed_hosts_and_never_in_the_clear(url: str, may: bool) -> None:
    allowed = frozenset({"replica.example.com", "other.example.com:99"})
    assert RuntimeApi("https://api.example.com/", ApiKey(KEY), allowed_hosts=allowed).may_have_key(url) is may


@pytest.mark.parametrize(("exists", "said"), [(True, True), (False, False), ("yes", None), (None, None)])
def test_image_exists_says_only_what_is_said(
    api: RuntimeApi, runtime_api: RuntimeApiServer, exists: Any, said: bool | None
) -> None:
    runtime_api.always("GET /image_exists", answer(200, {"exists": exists}))
    assert api.image_exists("r/i:t") is said


def test_probe_tells_served_from_absent_and_posts_nothing(api: RuntimeApi, runtime_api: RuntimeApiServer) -> None:
    runtime_api.always("GET /build", answer(405))
    runtime_api.always("GET /registry_prefix", answer(404))
    found = probe(api)
    assert {path: found.is_served(path) for path in found.statuses} == {
        "/build": True,
        "/build_status": True,
        "/build_logs": True,
        "/registry_prefix": False,
        "/image_exists": True,
    }
    assert found.is_key_accepted is True
    assert {request.method for request in runtime_api.requests} == {"GET"}


def test_probe_sees_a_refused_key(api: RuntimeApi, runtime_api: RuntimeApiServer) -> None:
    runtime_api.always("GET /build_status", answer(403))
    assert probe(api).is_key_accepted is False


@pytest.mark.parametrize(
    "body",
    [
        {"detail": KEY},
        {"error": "no", "message": f"key {KEY} is unknown"},
        {"detail": "azN5K3dpdGgvb2RkPWNoYXJzJm9mLWl0cy1vd24="},
        {"detail": "k3y%2bwith%2Fodd%3Dchars%26of-its-own"},
        f"<html><body>{KEY.replace('&', '&amp;')}</body></html>".encode(),
        json.dumps({"detail": KEY}).replace("k3y", "\\u006b3y").encode(),
    ],
)
def test_echoed_key_is_masked(api: RuntimeApi, runtime_api: RuntimeApiServer, body: Any) -> None:
    runtime_api.always("GET /build_status", answer(400, body))
    with pytest.raises(RequestFailed) as caught:
        api.build_status("b")
    assert "***" in caught.value.message
    assert "of-its-own" not in caught.value.message


def test_html_page_is_shown_as_its_words(api: RuntimeApi, runtime_api: RuntimeApiServer) -> None:
    page = b"<html><head><style>p{}</style><script>x<1</script></head><body><h1>Bad &amp; Gateway</h1>\n</body></html>"
    runtime_api.always("GET /build_status", answer(502, page))
    with pytest.raises(RequestFailed, match="HTTP 502 Bad Gateway: Bad & Gateway"):
        api.build_status("b")


def test_key_shows_itself_only_when_asked() -> None:
    key = ApiKey(KEY)
    assert KEY not in f"{key} {key!r} {vars()!r} {[key]}"
    assert key.reveal() == KEY


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{}",
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": ' + b"[" * 100_000,
    ],
)
def test_invalid_json_is_an_invalid_response(body: bytes) -> None:
    with pytest.raises(InvalidResponse):
        parse_object(Response(200, {}, body, None))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "-7"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "\u0667"}, None),
        ({"Retry-After": "1e3"}, None),
        ({"Retry-After": "9" * 5000}, None),
        ({"Retry-After": "Tue, 24 Nov 2026 06:00:30 GMT", "Date": "Tue, 24 Nov 2026 06:00:00 GMT"}, 30.0),
        ({"Retry-After": "Tue, 24 Nov 2026 06:00:30 -0000", "Date": "Tue, 24 Nov 2026 07:00:00 GMT"}, 0.0),
        ({"Retry-After": "Tue, 99 Nov 2026 06:00:30 GMT"}, None),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_by_the_servers_clock(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(headers) == seconds
