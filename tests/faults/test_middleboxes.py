"""What real gateways and proxies make of an upload: refusals, errors in other clothes, limits, buffering, TLS."""

from __future__ import annotations

import os
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.faults.conftest import count_builds
from tests.faults.middleboxes import run_haproxy, run_nginx, run_tinyproxy
from tests.misbehaviour import answer, close_after_body, reset_after, tunnel_to
from tests.runtime_api import KEY, RuntimeApiServer
from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    from tests.commands import Command, Ended
    from tests.runtime_api import Exchange

pytestmark = pytest.mark.fault

POST = "POST /build"
VIRTUAL = {"virtual_time": True}
NOT_STARTED, UNKNOWN = 4, 5
BUSY = "HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nbusy"
# As operators write it, so that clients see "busy" instead of "timeout".
MAPPED = """
    proxy_intercept_errors on;
    error_page 502 504 =503 @busy;
    location @busy { add_header Retry-After 1 always; return 503 "busy"; }
"""


def proxy_to(server: RuntimeApiServer, *directives: str, timeout: str = "1s") -> str:
    lines = (f"proxy_pass http://127.0.0.1:{server.port};", f"proxy_read_timeout {timeout};", *directives)
    return f"location / {{ {' '.join(lines)} }}"


def use(command: Command, port: int, *, scheme: str = "http", **settings: str) -> None:
    address = {"RUNTIME_API_URL": f"{scheme}://127.0.0.1:{port}", "RUNTIME_API_KEY": KEY}
    command.environment |= {**address, **settings}


def add_large_file(command: Command, size_bytes: int = 16_000_000) -> None:
    """More than a gateway and the kernel hold, so that the upload is still on its way when the gateway decides."""
    (command.checkout / "openhands-sdk/openhands/sdk/big.bin").write_bytes(os.urandom(size_bytes))


def start_then_hang(exchange: Exchange) -> None:
    exchange.read_body()
    exchange.server.start_build(exchange.request)
    exchange.wait_for_end()


def expect_unknown(command: Command, server: RuntimeApiServer, *texts: str, builds: int = 1) -> Ended:
    """One upload was made; it stays on record, and nothing but `--force` makes another one."""
    ended = command.run("all").fail(UNKNOWN, "upload --force", *texts)
    assert command.read_state("upload")["state"] == "intent"
    command.run("upload").expect(UNKNOWN)
    assert (server.count(POST), len(server.builds)) == (1, builds)
    return ended


def expect_not_started(command: Command, server: RuntimeApiServer, *texts: str) -> Ended:
    ended = command.run("all", order=VIRTUAL).fail(NOT_STARTED, *texts)
    assert not (command.output / "upload.json").exists()
    assert not server.builds
    return ended


@pytest.mark.parametrize("loss", [start_then_hang, close_after_body], ids=["504", "502"])
def test_61_nginx_that_calls_a_lost_answer_busy(
    command: Command, server: RuntimeApiServer, tmp_path: Path, loss: Callable[[Exchange], None]
) -> None:
    server.script(POST, loss)
    with run_nginx(tmp_path, proxy_to(server) + MAPPED) as port:
        use(command, port)
        expect_unknown(command, server, "503")
        command.run("upload", "--force").succeed()
    count_builds(server, forced=1)
    server.builds.clear()


@pytest.mark.parametrize("buffering", rest_is_slow(["on", "off"], 1))
def test_61_large_upload_through_nginx_that_calls_a_timeout_busy(
    command: Command, server: RuntimeApiServer, tmp_path: Path, buffering: str
) -> None:
    add_large_file(command)
    server.always(POST, start_then_hang)
    with run_nginx(tmp_path, proxy_to(server, f"proxy_request_buffering {buffering};") + MAPPED) as port:
        use(command, port)
        expect_unknown(command, server, "503")


def test_61_haproxy_that_calls_a_timeout_busy(command: Command, server: RuntimeApiServer, tmp_path: Path) -> None:
    page = tmp_path / "504.http"
    page.write_bytes(BUSY.encode())
    server.always(POST, start_then_hang)
    with run_haproxy(tmp_path, server.port, defaults=f"timeout server 1s\n    errorfile 504 {page}") as port:
        use(command, port)
        expect_unknown(command, server, "503")


@pytest.mark.parametrize("gateway", ["nginx", "haproxy"])
def test_41_timeout_of_a_gateway_is_unknown(
    command: Command, server: RuntimeApiServer, tmp_path: Path, gateway: str
) -> None:
    server.always(POST, start_then_hang)
    run = (
        run_nginx(tmp_path, proxy_to(server))
        if gateway == "nginx"
        else run_haproxy(tmp_path, server.port, defaults="timeout server 1s")
    )
    with run as port:
        use(command, port)
        expect_unknown(command, server, "504")


@pytest.mark.parametrize("gateway", ["nginx", "haproxy"])
def test_47_polls_go_on_while_a_gateway_times_out(
    command: Command, server: RuntimeApiServer, tmp_path: Path, gateway: str
) -> None:
    server.script("GET /build_status", lambda exchange: exchange.wait_for_end(), answer(502), answer(200, b""))
    run = (
        run_nginx(tmp_path, proxy_to(server) + MAPPED)
        if gateway == "nginx"
        else run_haproxy(tmp_path, server.port, defaults="timeout server 1s")
    )
    with run as port:
        use(command, port)
        command.run("all", order=VIRTUAL).succeed()
    assert len(server.builds) == 1


@pytest.mark.parametrize("lingering", ["on", "off"])
@pytest.mark.parametrize("size_bytes", [100_000, 16_000_000])
def test_44_nginx_refuses_a_large_body(
    command: Command, server: RuntimeApiServer, tmp_path: Path, lingering: str, size_bytes: int
) -> None:
    add_large_file(command, size_bytes)
    limits = f"client_max_body_size 10k; lingering_close {lingering};"
    with run_nginx(tmp_path, proxy_to(server, limits)) as port:
        use(command, port)
        ended = expect_not_started(command, server, "HTTP 413", "too large", "EXCLUDE")
    assert "roken pipe" not in ended.err
    assert not server.count(POST)


def test_40_nginx_limits_the_rate(command: Command, server: RuntimeApiServer, tmp_path: Path) -> None:
    zone = "limit_req_zone $server_name zone=builds:1m rate=30r/m;"
    limited = f"location /build {{ limit_req zone=builds; limit_req_status 429; {proxy_to(server)[13:-2]} }}"
    with run_nginx(tmp_path, limited + proxy_to(server), http=zone) as port:
        use(command, port)
        command.run("all", RUNTIME_API_URL="", RUNTIME_API_KEY="").succeed()
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/build", timeout=5)  # the one request in two seconds
        command.run("upload").succeed()
    assert (server.count(POST), len(server.builds)) == (1, 1)


def test_40_nginx_that_stays_busy_has_no_build(command: Command, server: RuntimeApiServer, tmp_path: Path) -> None:
    with run_nginx(tmp_path, proxy_to(server) + "location = /build { return 429; }") as port:
        use(command, port)
        expect_not_started(command, server, "HTTP 429", "runtime-build upload")


def test_40_haproxy_that_is_busy_before_the_body_is_sent(
    command: Command, server: RuntimeApiServer, tmp_path: Path
) -> None:
    """It does not read the rest of the body, so no build can have started: the upload is tried again."""
    add_large_file(command)
    busy = "http-request return status 503 content-type text/plain string busy hdr Retry-After 1 if { path /build }"
    with run_haproxy(tmp_path, server.port, frontend=busy) as port:
        use(command, port)
        expect_not_started(command, server, "503", "runtime-build upload")
    assert not server.count(POST)


def test_40_nginx_that_reads_all_before_it_is_busy_may_have_handed_it_on(
    command: Command, server: RuntimeApiServer, tmp_path: Path
) -> None:
    add_large_file(command)
    server.always(POST, reset_after(1000))
    with run_nginx(tmp_path, proxy_to(server, "proxy_request_buffering off;") + MAPPED) as port:
        use(command, port)
        expect_unknown(command, server, "503", builds=0)


def test_43_nginx_that_has_buffered_the_body_may_have_handed_it_on(
    command: Command, server: RuntimeApiServer, tmp_path: Path
) -> None:
    server.always(POST, reset_after(1000))
    with run_nginx(tmp_path, proxy_to(server, "proxy_request_buffering on;")) as port:
        use(command, port)
        expect_unknown(command, server, "502", builds=0)


@pytest.mark.parametrize("buffering", rest_is_slow(["on", "off"], 1))
def test_43_upload_arrives_once_whether_or_not_it_is_buffered(
    command: Command, server: RuntimeApiServer, tmp_path: Path, buffering: str
) -> None:
    add_large_file(command)
    with run_nginx(tmp_path, proxy_to(server, f"proxy_request_buffering {buffering};", timeout="1m")) as port:
        use(command, port)
        command.run("all").succeed()
    (build,) = server.builds
    assert build.archive_sha256 == command.read_state("context")["archive_sha256"]


def test_50_haproxy_compresses_although_it_was_asked_not_to(
    command: Command, server: RuntimeApiServer, tmp_path: Path
) -> None:
    compressing = "compression algo gzip\n    compression type application/json text/plain"
    # As a gateway with a rule for all of its clients.
    forced = "http-request set-header Accept-Encoding gzip"
    with run_haproxy(tmp_path, server.port, defaults=compressing, frontend=forced) as port:
        use(command, port)
        asked = urllib.request.urlopen(f"http://127.0.0.1:{port}/registry_prefix", timeout=5)
        assert asked.headers["Content-Encoding"] == "gzip"
        assert command.run("all").succeed().result == server.builds[0].target_image
        assert "step 2" in command.run("logs").succeed().out


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def issue(authority: trustme.CA, folder: Path, name: str) -> tuple[str, dict[str, str]]:
    """Return nginx's directives for a certificate, and the setting by which the command trusts it."""
    certificate = authority.issue_cert(name)
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    directives = f"ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.pem;"
    return directives, {"REQUESTS_CA_BUNDLE": str(folder / "ca.pem")}


def test_34_nginx_terminates_tls(
    command: Command, server: RuntimeApiServer, tmp_path: Path, authority: trustme.CA
) -> None:
    add_large_file(command)
    certificate, trust = issue(authority, tmp_path, "127.0.0.1")
    with run_nginx(tmp_path, certificate + proxy_to(server, timeout="1m"), tls=True) as port:
        use(command, port, scheme="https", **trust)
        command.run("all").succeed()
        assert len(server.builds) == 1
        command.run("upload", "--force", REQUESTS_CA_BUNDLE="").fail(NOT_STARTED, "ertificate", "REQUESTS_CA_BUNDLE")
        assert server.count(POST) == 1


@pytest.mark.parametrize("lingering", ["on", "off"])
def test_44_nginx_refuses_a_large_body_over_tls(
    command: Command, server: RuntimeApiServer, tmp_path: Path, authority: trustme.CA, lingering: str
) -> None:
    add_large_file(command)
    certificate, trust = issue(authority, tmp_path, "127.0.0.1")
    limits = f"client_max_body_size 10k; lingering_close {lingering};"
    with run_nginx(tmp_path, certificate + proxy_to(server, limits), tls=True) as port:
        use(command, port, scheme="https", **trust)
        expect_not_started(command, server, "HTTP 413", "EXCLUDE")


def test_34_plain_http_to_a_tls_port_of_nginx_starts_nothing(
    command: Command, server: RuntimeApiServer, tmp_path: Path, authority: trustme.CA
) -> None:
    certificate, _ = issue(authority, tmp_path, "127.0.0.1")
    with run_nginx(tmp_path, certificate + proxy_to(server, timeout="1m"), tls=True) as port:
        use(command, port)
        expect_not_started(command, server, "HTTP 400")


NAME = "runtime-api.example.com"


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    return context


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_35_tinyproxy_gives_a_tunnel_and_never_sees_the_key(
    command: Command, tmp_path: Path, authority: trustme.CA, tls: ssl.SSLContext, variable: str
) -> None:
    """The name exists nowhere: tinyproxy hands it to a second proxy, which knows where it is."""
    issue(authority, tmp_path, NAME)
    with RuntimeApiServer(tls=tls) as server, RuntimeApiServer() as second:
        second.always(f"CONNECT {NAME}:443", tunnel_to(server.port))
        lines = (f'Upstream http 127.0.0.1:{second.port} "{NAME}"', "BasicAuth me pass-of-proxy")
        with run_tinyproxy(tmp_path, *lines) as port:
            command.environment |= {
                "RUNTIME_API_URL": f"https://{NAME}",
                "RUNTIME_API_KEY": KEY,
                "REQUESTS_CA_BUNDLE": str(tmp_path / "ca.pem"),
                variable: f"http://me:pass-of-proxy@127.0.0.1:{port}",
            }
            command.run("all").succeed()
            wrong = {variable: f"http://me:wrong-pass@127.0.0.1:{port}"}
            ended = command.run("upload", "--force", **wrong).fail(NOT_STARTED, f"the proxy http://127.0.0.1:{port}")
        assert "wrong-pass" not in ended.err
        assert len(server.builds) == 1
        assert {request.method for request in second.requests} == {"CONNECT"}
        assert not [request for request in second.requests if "x-api-key" in request.headers]


def test_35_tinyproxy_that_refuses_the_port_starts_nothing(
    command: Command, server: RuntimeApiServer, tmp_path: Path
) -> None:
    with run_tinyproxy(tmp_path, "ConnectPort 563") as port:
        command.use(server, RUNTIME_API_URL=f"https://{NAME}", https_proxy=f"http://127.0.0.1:{port}")
        expect_not_started(command, server, "403", f"through the proxy http://127.0.0.1:{port}")
