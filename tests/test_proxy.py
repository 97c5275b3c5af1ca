"""Which proxy a request takes, and that the proxies work, with real sockets."""

from __future__ import annotations

import socket
import ssl

import pytest
import trustme

from buildkit.runtime_api.client import RuntimeApi
from buildkit.runtime_api.http import Network
from buildkit.runtime_api.proxy import choose_proxy, find_ca_file, is_usable, name_proxy
from buildkit.runtime_api.retry import Clock, RequestFailed
from buildkit.secret import ApiKey
from tests.misbehaviour import tunnel_to
from tests.runtime_api import KEY, RuntimeApiServer

PROXY = "http://proxy.example.com:3128"


def open_api(url: str, **environment: str) -> RuntimeApi:
    return RuntimeApi(url, ApiKey(KEY), network=Network(environment=environment), clock=Clock(sleep=lambda _: None))


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("http://a.example.com", {}, None),
        ("http://a.example.com", {"http_proxy": PROXY}, PROXY),
        ("http://a.example.com", {"HTTP_PROXY": PROXY}, PROXY),
        ("http://a.example.com", {"HTTPS_PROXY": PROXY}, None),
        ("https://a.example.com", {"HTTPS_PROXY": PROXY}, PROXY),
        ("https://a.example.com", {"ALL_PROXY": PROXY}, PROXY),
        ("https://a.example.com", {"all_proxy": "http://other", "https_proxy": PROXY}, PROXY),
        ("https://a.example.com", {"https_proxy": PROXY, "HTTPS_PROXY": "http://other"}, PROXY),
        ("https://a.example.com", {"https_proxy": "proxy.example.com:3128"}, PROXY),
    ],
)
def test_proxy_is_the_one_for_the_scheme_or_for_all(url: str, environment: dict[str, str], proxy: str | None) -> None:
    assert choose_proxy(url, environment) == proxy


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "localhost.", "api.localhost", "127.0.0.1", "127.8.9.1", "[::1]", "[::ffff:127.0.0.1]"],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_62_this_machine_is_never_reached_through_a_proxy(scheme: str, host: str) -> None:
    environment = {"http_proxy": PROXY, "https_proxy": PROXY, "all_proxy": PROXY}
    assert choose_proxy(f"{scheme}://{host}:8000/base", environment) is None


@pytest.mark.parametrize(
    ("entries", "url", "is_direct"),
    [
        ("*", "http://a.example.com", True),
        ("example.com", "http://a.example.com", True),
        (".example.com", "http://a.example.com", True),
        ("*.example.com", "http://a.example.com", True),
        ("other.com, A.EXAMPLE.COM", "http://a.example.com", True),
        ("a.example.com:8000", "http://a.example.com:8000", True),
        ("a.example.com:8000", "http://a.example.com", False),
        ("ample.com", "http://a.example.com", False),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("10.1.2.3", "http://10.1.2.3", True),
        ("fd00::/8", "http://[fd00::1]:8000", True),
        ("fd00::1", "http://[fd00::1]:8000", True),
        ("nonsense/8", "http://10.1.2.3", False),
        ("", "http://a.example.com", False),
    ],
)
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_no_proxy_names_hosts_that_are_reached_directly(name: str, entries: str, url: str, is_direct: bool) -> None:
    assert (choose_proxy(url, {"http_proxy": PROXY, name: entries}) is None) == is_direct


def test_proxy_is_named_without_user_and_password() -> None:
    assert name_proxy("http://me:p@ss/word@proxy.example.com:3128/x") == PROXY
    assert name_proxy("http://me:pa55@proxy.example.com:3128/x") == PROXY


@pytest.mark.parametrize("proxy", ["socks5://proxy:1080", "http://", "http://[::1", "http://h:99999", "ftp://proxy"])
def test_proxy_that_cannot_be_used_is_an_error_that_names_it(proxy: str) -> None:
    assert not is_usable(proxy)
    with pytest.raises(RequestFailed, match="cannot be used: it is not an http"):
        open_api("http://runtime-api.example.com", http_proxy=proxy).registry_prefix()


def test_user_and_password_go_to_the_proxy_and_nowhere_else(runtime_api: RuntimeApiServer) -> None:
    proxy = runtime_api.url.replace("//", "//me:pa%20ss@")
    api = open_api("http://runtime-api.example.com", http_proxy=proxy)
    assert api.registry_prefix() == runtime_api.prefix
    (request,) = runtime_api.requests
    assert request.headers["proxy-authorization"] == "Basic bWU6cGEgc3M="
    assert request.headers["host"] == "runtime-api.example.com"
    assert "authorization" not in request.headers


def test_tunnel_carries_the_key_only_inside_tls(runtime_api: RuntimeApiServer) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("runtime-api.example.com").configure_cert(context)

    with RuntimeApiServer(tls=context) as server, authority.cert_pem.tempfile() as bundle:
        runtime_api.always("CONNECT runtime-api.example.com:443", tunnel_to(server.port))
        environment = {"https_proxy": runtime_api.url.replace("//", "//me:pa55word@"), "SSL_CERT_FILE": bundle}
        assert open_api("https://runtime-api.example.com", **environment).registry_prefix() == server.prefix
        assert server.requests[0].headers["x-api-key"] == KEY
    (request,) = runtime_api.requests
    assert request.method == "CONNECT"
    assert "x-api-key" not in request.headers


def test_certificate_authorities_come_from_the_first_variable_that_is_set() -> None:
    assert find_ca_file({}) is None
    assert find_ca_file({"SSL_CERT_FILE": "c", "CURL_CA_BUNDLE": "b"}) == "b"
    assert find_ca_file({"SSL_CERT_FILE": "c", "CURL_CA_BUNDLE": "b", "REQUESTS_CA_BUNDLE": "a"}) == "a"


def test_missing_file_of_certificate_authorities_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(RequestFailed, match=r"/no/such/file\.pem cannot be read: No such file") as caught:
            open_api(url, REQUESTS_CA_BUNDLE="/no/such/file.pem").registry_prefix()
    assert "REQUESTS_CA_BUNDLE" in caught.value.fix
