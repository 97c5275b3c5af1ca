"""Whether an image exists, as a registry says: a small real one on loopback, which may say anything."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from buildkit.reference import parse_reference
from buildkit.registry.client import RegistryRefused
from buildkit.server.images import StoredImage, find_registry_image, parse_name
from buildkit.server.refusals import InvalidBody

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST = {"config": {"digest": "sha256:c", "size": 2}, "layers": [{"size": 40}, {"size": 0}]}
CONFIG = {"created": "2025-11-02T00:00:00Z"}


class Registry(ThreadingHTTPServer):
    """Responds with what `bodies` has for the end of a path."""

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), Handler)
        self.status = 200
        self.bodies: dict[str, bytes] = {}
        self.image = f"{host}:{self.server_address[1]}/team/app:1"

    def tell(self, manifest: object, config: object = CONFIG) -> None:
        self.bodies = {"manifests/1": json.dumps(manifest).encode(), "blobs/sha256:c": json.dumps(config).encode()}


class Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        body = self.server.bodies.get("/".join(self.path.split("/")[-2:]), b"{}")
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def run_registry(host: str) -> Iterator[Registry]:
    with Registry(host) as registry:
        thread = threading.Thread(target=registry.serve_forever)
        thread.start()
        yield registry
        registry.shutdown()
        thread.join()


@pytest.fixture
def registry() -> Iterator[Registry]:
    yield from run_registry("127.0.0.1")


def find(registry: Registry) -> StoredImage | None:
    return find_registry_image([], parse_reference(registry.image))


def test_an_image_has_the_size_of_its_layers_and_the_time_of_its_configuration(registry: Registry) -> None:
    registry.tell(MANIFEST)
    assert find(registry) == StoredImage("2025-11-02T00:00:00Z", 42)


def test_an_index_stands_for_its_first_image(registry: Registry) -> None:
    registry.tell({"manifests": [{"digest": "sha256:m"}]})
    registry.bodies["manifests/sha256:m"] = json.dumps(MANIFEST).encode()
    assert find(registry) == StoredImage("2025-11-02T00:00:00Z", 42)


def test_a_missing_image_is_none_and_another_status_is_no_statement(registry: Registry) -> None:
    registry.status = 404
    assert find(registry) is None
    registry.status = 500
    with pytest.raises(RegistryRefused, match="500"):
        find(registry)


@pytest.mark.parametrize(
    "manifest",
    [
        {"manifests": [{}]},
        {"manifests": {"a": 1}},
        {"manifests": [1]},
        {"config": "x"},
        {"config": [], "layers": []},
        {"layers": [1]},
        {"layers": [{"size": "many"}]},
        {"layers": 5},
    ],
)
def test_an_invalid_manifest_is_no_statement(registry: Registry, manifest: object) -> None:
    registry.tell(manifest)
    with pytest.raises(RegistryRefused, match="invalid manifest"):
        find(registry)


def test_a_response_without_end_is_not_read_to_its_end(registry: Registry) -> None:
    registry.bodies = {"manifests/1": b" " * 5_000_000}
    with pytest.raises(RegistryRefused, match="too large"):
        find(registry)


def test_a_registry_in_a_network_of_containers_has_no_certificate() -> None:
    host = socket.gethostname()
    try:
        socket.gethostbyname(host)
    except OSError:
        pytest.skip("this machine does not know its own name")
    if "." in host:
        pytest.skip("this machine's name has a dot")
    for registry in run_registry(host):
        registry.tell(MANIFEST)
        assert find(registry) == StoredImage("2025-11-02T00:00:00Z", 42)


@pytest.mark.parametrize("name", ["a\0", "-f", "other.example/team/app", "reg.example/teams/app:1", "reg.example/team"])
def test_only_names_below_the_prefix_are_asked_for(name: str) -> None:
    with pytest.raises(InvalidBody):
        parse_name(name, "reg.example/team")
