"""Registries: digests, credentials as docker stores them, pauses that all threads obey, and answers that are none."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest

from buildkit.bulk.journal import Ending, Journal
from buildkit.bulk.stores import PatientRegistry, PushedLayers, RegistryStore
from buildkit.bulk.workers import Pace
from buildkit.errors import NotStarted
from buildkit.reference import Reference, parse_reference
from buildkit.registry.client import RegistryRefused, locate
from buildkit.registry.credentials import choose_scheme
from buildkit.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DIGEST = "sha256:" + "a" * 64
BUILT_DIGEST = "sha256:" + "b" * 64


class Registry(ThreadingHTTPServer):
    """A registry that has some tags, and may ask for credentials.

    Attributes:
        layers: Of the images, by tag: digests and sizes.
        answers: What it says instead, one request after the other: a status and headers.
        challenge: `basic` or `bearer` if it wants credentials.
        seen: Method, path and Authorization of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tags = {"there"}
        self.layers: dict[str, dict[str, int]] = {}
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.challenge = ""
        self.seen: list[tuple[str, str, str]] = []
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def name(self, tag: str) -> Reference:
        return parse_reference(f"{self.host}/team/server:{tag}")


class Handler(BaseHTTPRequestHandler):
    """Answers HEAD and GET of manifests, and of tokens."""

    server: Registry

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        with self.server.lock:
            self.server.seen.append((self.command, self.path, given))
            answer = self.server.answers.pop(0) if self.server.answers and self.path.startswith("/v2/") else None
        if answer:
            self.say(*answer)
        elif self.path.startswith("/token?"):
            self.give_token(given)
        elif not self.is_allowed(given):
            realm = f'Bearer realm="http://{self.server.host}/token",service="s",scope="repository:team/server:pull"'
            basic = 'Basic realm="Registry Realm"'
            self.say(401, {"Www-Authenticate": basic if self.server.challenge == "basic" else realm})
        elif self.path.startswith("/v2/team/server/tags/list?"):
            self.list_tags(self.path.partition("?")[2])
        elif self.path.rpartition("/")[2] in self.server.tags:
            layers = self.server.layers.get(self.path.rpartition("/")[2], {})
            listed = [{"digest": digest, "size": size} for digest, size in layers.items()]
            self.say(200, {"Docker-Content-Digest": DIGEST}, json.dumps({"layers": listed}).encode())
        else:
            self.say(404, {})

    do_HEAD = do_GET  # noqa: N815 - the name that the standard library wants

    def do_POST(self) -> None:
        """Give a token for a refresh token, as https://distribution.github.io/distribution/spec/auth/oauth/ says."""
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with self.server.lock:
            self.server.seen.append((self.command, f"{self.path}?{form}", self.headers.get("Authorization", "")))
        fields = dict(parse_qsl(form))
        if fields.get("grant_type") == "refresh_token" and fields.get("refresh_token") == "r/for=ann":
            return self.say(200, {}, b'{"access_token": "t-for-ann", "refresh_token": "another"}')
        return self.say(401, {})

    def is_allowed(self, given: str) -> bool:
        wanted = {
            "": "",
            "basic": format_basic("ann", "secret"),
            "bearer": "Bearer t-for-ann",
            "open": "Bearer t-for-all",
        }
        return not self.server.challenge or given == wanted[self.server.challenge]

    def give_token(self, given: str) -> None:
        user = "ann" if given == format_basic("ann", "secret") else "all"
        self.say(200, {"Content-Type": "application/json"}, json.dumps({"token": f"t-for-{user}"}).encode())

    def list_tags(self, query: str) -> None:
        """Answer with one tag for each page."""
        tags = [tag for tag in sorted(self.server.tags) if tag > query.partition("last=")[2]]
        more = {"Link": f'<http://elsewhere.invalid/v2/other/tags/list?n=1&last={tags[0]}>; rel="next"'}
        self.say(200, more if len(tags) > 1 else {}, json.dumps({"name": "x", "tags": tags[:1]}).encode())

    def say(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def format_basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Return a function that writes docker's configuration, to which DOCKER_CONFIG leads."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()

    def write(config: dict[str, Any]) -> None:
        (tmp_path / "docker/config.json").write_text(json.dumps(config))

    return write


def write_helper(folder: Path, monkeypatch: pytest.MonkeyPatch, stored: dict[str, str]) -> None:
    """Have a credential helper on the PATH that has these credentials."""
    helper = folder / "docker-credential-ours"
    helper.write_text(f"#!/bin/sh\nread host\necho '{json.dumps(stored)}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def make_client() -> PatientRegistry:
    return PatientRegistry({}, Pace())


def make_journal(folder: Path) -> Journal:
    return Journal(Workspace(folder))


def make_image(name: str, reference: Reference) -> Any:
    return SimpleNamespace(name=name, reference=reference)


def test_a_digest_takes_one_head_request(registry: Registry) -> None:
    client = make_client()
    assert client.find_digest(registry.name("there")) == DIGEST
    assert client.find_digest(registry.name("missing")) is None
    assert [seen[:2] for seen in registry.seen] == [
        ("HEAD", "/v2/team/server/manifests/there"),
        ("HEAD", "/v2/team/server/manifests/missing"),
    ]


def test_public_images_need_a_token_for_everybody(registry: Registry) -> None:
    registry.challenge = "open"
    client = make_client()
    assert client.find_digest(registry.name("there"))
    assert client.find_digest(registry.name("missing")) is None
    assert [seen[0] for seen in registry.seen] == ["HEAD", "GET", "HEAD", "HEAD"]


@pytest.mark.parametrize("challenge", ["basic", "bearer"])
def test_credentials_come_from_docker_login(registry: Registry, docker_config: Any, challenge: str) -> None:
    registry.challenge = challenge
    docker_config({"auths": {registry.host: {"auth": base64.b64encode(b"ann:secret").decode()}}})
    client = make_client()
    assert client.find_digest(registry.name("there"))
    assert client.find_digest(registry.name("missing")) is None


@pytest.mark.parametrize("kind", ["credsStore", "credHelpers"])
def test_credentials_come_from_a_helper(
    registry: Registry, docker_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    registry.challenge = "bearer"
    docker_config({"credsStore": "ours"} if kind == "credsStore" else {"credHelpers": {registry.host: "ours"}})
    write_helper(tmp_path, monkeypatch, {"ServerURL": registry.host, "Username": "ann", "Secret": "secret"})
    assert make_client().find_digest(registry.name("there"))


@pytest.mark.parametrize("is_from_helper", [False, True])
def test_an_identity_token_is_exchanged_for_one_that_lasts_for_minutes(
    registry: Registry, docker_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_from_helper: bool
) -> None:
    registry.challenge = "bearer"
    if is_from_helper:
        docker_config({"credHelpers": {registry.host: "ours"}})
        write_helper(tmp_path, monkeypatch, {"Username": "<token>", "Secret": "r/for=ann"})
    else:
        docker_config({"auths": {registry.host: {"auth": "bm9ib2R5Og==", "identitytoken": "r/for=ann"}}})
    assert make_client().find_digest(registry.name("there"))
    sent = next(path for method, path, _ in registry.seen if method == "POST")
    assert dict(parse_qsl(sent.partition("?")[2])) == {
        "grant_type": "refresh_token",
        "refresh_token": "r/for=ann",
        "client_id": "runtime-build",
        "service": "s",
        "scope": "repository:team/server:pull",
    }


def test_an_identity_token_that_has_been_revoked_does_not_mean_absent(registry: Registry, docker_config: Any) -> None:
    registry.challenge = "bearer"
    docker_config({"auths": {registry.host: {"identitytoken": "revoked"}}})
    with pytest.raises(RegistryRefused, match="401") as caught:
        make_client().find_digest(registry.name("missing"))
    assert caught.value.needs_login


def test_a_helper_that_fails_is_named(registry: Registry, docker_config: Any) -> None:
    registry.challenge = "bearer"
    docker_config({"credsStore": "that-does-not-exist"})
    with pytest.raises(NotStarted, match="credentials for 127") as caught:
        make_client().find_digest(registry.name("there"))
    assert "docker login" in caught.value.fix


@pytest.mark.parametrize("challenge", ["basic", "bearer"])
def test_no_access_does_not_mean_absent(registry: Registry, docker_config: Any, challenge: str) -> None:
    registry.challenge = challenge
    docker_config({})
    with pytest.raises(RegistryRefused, match=r"does not say whether it has .*401") as caught:
        make_client().find_digest(registry.name("missing"))
    assert f"docker login {registry.host}" in caught.value.fix


@pytest.mark.parametrize(
    "answer",
    [
        (403, {}),
        (400, {}),
        (200, {}),
        (200, {"Docker-Content-Digest": "sha256:short"}),
        (302, {"Location": "http://elsewhere.invalid/"}),
        (204, {}),
    ],
)
def test_a_strange_answer_means_neither_there_nor_absent(
    registry: Registry, answer: tuple[int, dict[str, str]]
) -> None:
    registry.answers = [answer]
    with pytest.raises(RegistryRefused, match="does not say"):
        make_client().find_digest(registry.name("there"))


def test_a_registry_that_has_everything_is_not_believed(registry: Registry, tmp_path: Path) -> None:
    registry.answers = [(200, {"Docker-Content-Digest": DIGEST})]
    with pytest.raises(RegistryRefused, match="cannot exist"):
        RegistryStore(make_client(), make_journal(tmp_path), registry.name("any"))


def test_one_list_of_tags_answers_for_the_images_that_the_journal_knows(registry: Registry, tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    names = {"here": "there", "unknown": "there", "gone": "missing", "other": "there"}
    for name, tag in names.items():
        if name != "unknown":
            reference = str(registry.name("of-another-context" if name == "other" else tag))
            journal.note_ending(name, reference, Ending(1.0, digest=BUILT_DIGEST))
    store = RegistryStore(make_client(), journal, registry.name("any"))
    before = len(registry.seen)
    found = {name: store.find(make_image(name, registry.name(tag))) for name, tag in names.items()}
    assert found == {"here": BUILT_DIGEST, "unknown": DIGEST, "gone": None, "other": DIGEST}
    assert [seen[:2] for seen in registry.seen[before:]] == [
        ("HEAD", "/v2/team/server/manifests/there"),
        ("HEAD", "/v2/team/server/manifests/missing"),
        ("HEAD", "/v2/team/server/manifests/there"),
    ]


def test_what_a_registry_had_before_does_not_count_as_pushed(registry: Registry, tmp_path: Path) -> None:
    registry.layers = {
        "base": {"b": 1000},
        "present": {"other-base": 1000, "server": 500},
        "first": {"b": 1000, "packages": 60, "server": 500},
        "second-before": {"packages-2": 70, "server-before": 500},
        "second": {"b": 1000, "packages-2": 70, "server": 500, "new": 3},
    }
    registry.tags = set(registry.layers)
    journal = make_journal(tmp_path)
    journal.note_ending("second", str(registry.name("second-before")), Ending(1.0))
    images = [make_image(name, registry.name(name)) for name in ("present", "first", "second")]
    for image in images:
        image.is_there = image.name == "present"
        image.recipe = SimpleNamespace(workspace=Workspace(tmp_path))
        image.entry = SimpleNamespace(base=registry.name("base"))
    pushed = PushedLayers(make_client(), journal, images)
    assert [pushed.count(image) for image in images[1:]] == [60, 3]
    nothing_known = PushedLayers(make_client(), make_journal(tmp_path / "other"), images[1:])
    assert [nothing_known.count(image) for image in images[1:]] == [560, 73]
    registry.answers = [(403, {})]
    assert nothing_known.count(images[1]) is None


def test_a_list_of_tags_has_pages_which_are_never_asked_for_elsewhere(registry: Registry) -> None:
    registry.tags = {"a", "b", "c"}
    assert make_client().list_tags(registry.name("any")) == {"a", "b", "c"}
    assert [seen[1] for seen in registry.seen] == [
        "/v2/team/server/tags/list?n=1000",
        "/v2/team/server/tags/list?n=1&last=a",
        "/v2/team/server/tags/list?n=1&last=b",
    ]


@pytest.mark.parametrize(
    "answer", [(404, {}), (403, {}), (200, {}), (302, {"Location": "http://elsewhere.invalid/"}), (405, {})]
)
def test_a_registry_without_a_list_of_tags_lists_none(registry: Registry, answer: tuple[int, dict[str, str]]) -> None:
    registry.answers = [answer]
    assert make_client().list_tags(registry.name("any")) == frozenset()


def test_all_threads_obey_one_429(registry: Registry) -> None:
    client = make_client()
    registry.answers = [(429, {"Retry-After": "1"})]
    client_threads = [threading.Thread(target=client.find_digest, args=(registry.name("there"),)) for _ in range(4)]
    client_threads[0].start()
    while not registry.seen:
        time.sleep(0.001)
    time.sleep(0.05)  # the response has arrived
    for thread in client_threads[1:]:
        thread.start()
    time.sleep(0.2)
    assert len(registry.seen) == 1
    for thread in client_threads:
        thread.join()
    assert len(registry.seen) == 5


def test_a_busy_registry_is_asked_again_and_not_for_ever(registry: Registry) -> None:
    registry.answers = [(503, {"Retry-After": "0"})] * 3
    assert make_client().find_digest(registry.name("there"))
    registry.answers = [(429, {"Retry-After": "0"})] * 20
    with pytest.raises(RegistryRefused, match="429"):
        make_client().find_digest(registry.name("there"))
    assert len(registry.answers) == 14


def test_a_registry_that_nobody_runs_is_asked_once(registry: Registry) -> None:
    client = make_client()
    nobody = parse_reference("127.0.0.1:1/x:1")
    for _ in range(2):
        with pytest.raises(RegistryRefused, match="does not respond: Connection refused"):
            client.find_digest(nobody)


@pytest.mark.parametrize(
    ("image", "where"),
    [
        ("debian:12", ("registry-1.docker.io", "library/debian")),
        ("docker.io/team/x", ("registry-1.docker.io", "team/x")),
        ("ghcr.io/team/x", ("ghcr.io", "team/x")),
    ],
)
def test_where_a_registry_is(image: str, where: tuple[str, str]) -> None:
    assert locate(parse_reference(image)) == where


def test_only_this_machine_is_spoken_to_without_tls() -> None:
    hosts = ("localhost:5000", "127.0.0.1:5000", "[::1]:5000", "ghcr.io", "127.0.0.1.example.com")
    assert [choose_scheme(host) for host in hosts] == ["http", "http", "http", "https", "https"]
