"""The server's API, fuzzed from its description in the docs, and its forms and headers: no 500, no hang."""

from __future__ import annotations

import contextlib
import re
import socket
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildkit.server.api import Api
from tests.pages import PageServer
from tests.serving import Served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemathesis import APIOperation, Case

DESCRIPTION = Path(__file__).parent.parent / "docs/reference/openapi.yaml"
DESCRIBED = {
    f"{method.upper()} {path}": {int(status) for status in call["responses"]}
    for path, calls in yaml.safe_load(DESCRIPTION.read_text("utf-8"))["paths"].items()
    for method, call in calls.items()
    if method != "parameters"
}
TIMEOUT_S = 20.0
# What any call may respond with: 401 and 405 come before the call, 503 while the server stops.
ALWAYS = {400, 401, 404, 405, 503}
fuzz = settings(max_examples=60, suppress_health_check=list(HealthCheck), database=None)
# What some part of a server once took for something else.
NASTY = [
    "\0",
    "-v",
    "--format={{.}}",
    "a b",
    "../x",
    "%00",
    "%",
    "[::1",
    "9" * 5000,
    "a" * 20_000,
    "::::",
    "@",
    "٣",
    "²",
]
values = st.one_of(st.sampled_from(NASTY), st.text(max_size=40))
QUERIES = {
    "/": ("status", "text", "before"),
    "/build_status": ("build_id",),
    "/build_logs": ("build_id", "from"),
    "/image_exists": ("image",),
    "/builds": ("status", "image", "limit", "before"),
    "/builds/{}/log": ("from", "search"),
    "/builds/{}/log.json": ("offset", "line"),
}
HEADERS = ("Accept", "Content-Type", "Cookie", "Host", "Idempotency-Key", "Last-Event-ID", "Range")
PATHS = ("/", "/build", "/build_logs?build_id={}", "/builds/{}", "/contexts/" + "0" * 64, "/login", "/static/style.css")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("server")) as server:
        yield server
        assert server.call("GET", "/health").status == 200


@pytest.fixture(scope="module")
def build_id(server: Served) -> str:
    build_id = server.build()
    server.wait(build_id)
    return build_id


@cache
def load_operations() -> dict[str, APIOperation[Any, Any, Any, Any]]:
    """Return the described calls; what loads them is imported here, because it takes seconds."""
    import schemathesis
    from schemathesis.core.result import Ok

    schema = schemathesis.openapi.from_path(DESCRIPTION)
    return {found.ok().label: found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)}


def call(server: Served, case: Case[Any]) -> None:
    """Send a case; the response has a documented status and the documented form, and comes in time."""
    from schemathesis.specs.openapi.checks import response_schema_conformance

    headers = {"X-API-Key": server.key, "Connection": "close"}
    response = case.call(base_url=server.url, headers=headers, timeout=TIMEOUT_S)
    documented = DESCRIBED[case.operation.label]
    assert response.status_code in documented | ALWAYS, (response.status_code, response.content)
    if response.status_code in documented:
        case.validate_response(response, checks=[response_schema_conformance])


@pytest.mark.slow
@pytest.mark.parametrize("name", DESCRIBED)
def test_every_call_responds_as_described(server: Served, build_id: str, name: str) -> None:
    from schemathesis import GenerationMode

    operation = load_operations()[name]

    def send(case: Case[Any], is_known: bool) -> None:
        for given_values in (case.path_parameters, case.query):
            if is_known and given_values and "build_id" in given_values:
                given_values["build_id"] = build_id
        call(server, case)

    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        # Without parameters and body there is nothing that could be wrong.
        if mode is GenerationMode.POSITIVE or operation.body or operation.query or operation.path_parameters:
            cases = operation.as_strategy(generation_mode=mode)
            settings(fuzz, max_examples=12)(given(case=cases, is_known=st.booleans())(send))()


@fuzz
@given(path=st.sampled_from(sorted(QUERIES)), value=values, data=st.data())
def test_no_value_in_a_query_breaks_a_call(
    server: Served, build_id: str, path: str, value: str, data: st.DataObject
) -> None:
    query = {"build_id": build_id, data.draw(st.sampled_from(QUERIES[path])): value}
    accept = data.draw(st.sampled_from(["text/html", "application/json"]))
    target = f"{path.format(build_id)}?{urlencode(query, errors='replace')}"
    assert exchange(server, "GET", target, {"Accept": accept}) < 500


@fuzz
@given(path=values, below=st.sampled_from(["", "static/", "builds/", "contexts/", "builds/{}/"]))
def test_no_path_breaks_the_server(server: Served, build_id: str, path: str, below: str) -> None:
    target = f"/{below.format(build_id)}{quote(path, errors='replace')}"
    assert exchange(server, "GET", target, {"Accept": "text/html"}) < 500
    assert exchange(server, "POST", target, {"Content-Length": "0"}) < 500


@fuzz
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD"]),
    path=st.sampled_from(PATHS),
    headers=st.dictionaries(st.sampled_from(HEADERS), values | st.text("bytes=-,0123456789;/*", max_size=30)),
    has_key=st.booleans(),
)
def test_no_header_breaks_a_call(
    server: Served, build_id: str, method: str, path: str, headers: dict[str, str], has_key: bool
) -> None:
    headers |= {"X-API-Key": server.key if has_key else "none"}
    assert exchange(server, method, path.format(build_id), headers) < 500


@fuzz
@given(
    path=st.sampled_from(["/login", "/logout", "/builds/{}"]),
    fields=st.lists(st.tuples(st.sampled_from(["key", "next", "token", "action"]) | values, values), max_size=30),
)
def test_no_form_breaks_the_page(server: Served, build_id: str, path: str, fields: list[tuple[str, str]]) -> None:
    body = urlencode(fields, errors="replace").encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(body))}
    assert exchange(server, "POST", path.format(build_id), headers, body) < 500


@fuzz
@given(request=st.binary(max_size=200) | st.text("GETPOS /:.1H\r\n\0é", max_size=80).map(str.encode))
def test_no_bytes_break_the_server(server: Served, request: bytes) -> None:
    assert send(server, request + b"\r\n\r\n", is_whole=False) < 500


def exchange(server: Served, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> int:
    """Return the status of the response to a request that is sent as it is; lines in values are joined."""
    named = {"Host": "localhost", "X-API-Key": server.key, "Connection": "close"} | headers
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    head = "\r\n".join(re.sub(r"[\r\n]", " ", line) for line in lines)
    status = send(server, head.encode("utf-8", "replace") + b"\r\n\r\n" + body)
    assert status, (method, target, headers)
    return status


def send(server: Served, request: bytes, *, is_whole: bool = True) -> int:
    """Return the status of what the server responds until it closes the connection; 0 if it only does that."""
    address = urlsplit(server.url)
    answer = b""
    client = socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S)
    with client, contextlib.suppress(ConnectionError):
        client.sendall(request)
        if not is_whole:
            client.shutdown(socket.SHUT_WR)
        while piece := client.recv(65536):
            answer += piece
    status = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert status or not answer, answer[:200]
    return int(status[1]) if status else 0


def test_the_description_names_every_call(tmp_path: Path) -> None:
    with PageServer(tmp_path) as server:
        routes = Api(server.server, None).list_routes()  # type: ignore[arg-type]  # the page is not asked for
    served = {(route.path, method.lower()) for route in routes for method in route.methods or () if method != "HEAD"}
    served.add(("/contexts/{sha256}", "head"))
    paths = yaml.safe_load(DESCRIPTION.read_text("utf-8"))["paths"]
    described = {(path, method) for path, methods in paths.items() for method in methods if method != "parameters"}
    assert served == described


@pytest.mark.parametrize("image", ["a\0b", "-f{{.}}", "--help", "A", "", "a@sha256:0"])
def test_what_is_not_an_image_name_never_reaches_an_engine(server: Served, image: str) -> None:
    assert server.call("GET", "/image_exists", image=image).status == 422


def test_a_form_with_too_many_fields_is_refused(server: Served) -> None:
    assert server.call("POST", "/login", b"&".join([b"a=1"] * 21)).status == 422


def test_a_length_that_no_integer_has_is_refused(server: Served) -> None:
    assert exchange(server, "PUT", f"/contexts/{'0' * 64}", {"Content-Length": "9" * 5000}) == 400
