"""Which proxy and which certificate authorities the environment names; nothing is read from it here."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def choose_proxy(url: str, environment: Mapping[str, str]) -> str | None:
    """Return the URL of the proxy for a request, or None. Requests to this machine never go through one."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if _is_this_machine(host):
        return None
    if any(_matches(entry, host, parts.port) for entry in _read(environment, "no_proxy").split(",")):
        return None
    proxy = _read(environment, f"{parts.scheme}_proxy") or _read(environment, "all_proxy")
    return (proxy if "://" in proxy else f"http://{proxy}") if proxy else None


def is_usable(proxy: str) -> bool:
    """Return whether a proxy is one that we can talk to: SOCKS is not."""
    try:
        parts = urlsplit(proxy)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def name_proxy(proxy: str) -> str:
    """Return scheme, host and port of a proxy, without user and password."""
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('/')[0]}"


def find_ca_file(environment: Mapping[str, str]) -> str | None:
    """Return the file or folder of certificate authorities to use instead of the default, or None."""
    return next((path for name in _CA_VARIABLES if (path := environment.get(name))), None)


def _read(environment: Mapping[str, str], name: str) -> str:
    return (environment.get(name) or environment.get(name.upper()) or "").strip()


def _is_this_machine(host: str) -> bool:
    address = _parse_address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified  # 0.0.0.0 connects to this machine too


def _matches(entry: str, host: str, port: int | None) -> bool:
    """Return whether an entry of NO_PROXY covers the host: `*`, a domain, host:port, an address or a network."""
    entry = entry.strip().lower()
    if entry == "*":
        return True
    address = _parse_address(host)
    if address is not None and "/" in entry:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    domain = entry.removeprefix("*").lstrip(".")
    hosts = {host, f"{host}:{port}", f"[{host}]", f"[{host}]:{port}"}
    return bool(domain) and any(name == domain or name.endswith(f".{domain}") for name in hosts)


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:  # `127.1`, `0x7f.1` and `2130706433` are addresses as well, to whatever connects
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None
