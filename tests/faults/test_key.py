"""Rows 62, 63, 64 and 75: where the API key must not go: to a proxy, into an archive, to another server, to a child."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import threading
import urllib.parse
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.checkouts import PROJECTS, commit_all
from tests.runtime_api import KEY, RuntimeApiServer
from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.commands import Command

pytestmark = pytest.mark.fault

VIRTUAL = {"virtual_time": True}
PACKED = "openhands-sdk/openhands/sdk"


@contextmanager
def listen() -> Iterator[tuple[str, list[bytes]]]:
    """Give the address of a listener that poses as a proxy, and everything that it is sent."""
    received: list[bytes] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(5)
            with connection:
                received.append(connection.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", received
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


VARIABLES = ("HTTP_PROXY", "http_proxy", "Http_Proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
SPELLINGS = ("http://{}", "{}", "http://me:pa55word@{}", "HTTP://{}/", "https://{}", "socks5://{}", "socks5h://{}")


@pytest.mark.parametrize("spelling", rest_is_slow(SPELLINGS, 2))
def test_62_request_to_this_machine_never_reaches_a_proxy(
    command: Command, server: RuntimeApiServer, spelling: str
) -> None:
    command.use(server)
    with listen() as (address, received):
        proxies = dict.fromkeys(VARIABLES, spelling.format(address))
        for task in ("all", "doctor", "wait", "logs"):
            command.run(task, **proxies).succeed()
        for variable in VARIABLES:
            command.run("upload", "--force", **{variable: spelling.format(address)}).succeed()
        assert not received
    server.builds.clear()


NAMES = ("localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.1.2.3", "[::ffff:127.0.0.1]")


@pytest.mark.parametrize("host", [*NAMES, "127.1", "2130706433", "0x7f.1", "0.0.0.0"])
def test_62_this_machine_is_recognised_however_it_is_written(
    command: Command, server: RuntimeApiServer, host: str
) -> None:
    command.use(server, RUNTIME_API_URL=f"http://{host}:{server.port}", ALLOW_HTTP="true")
    with listen() as (address, received):
        command.run("all", order=VIRTUAL, **dict.fromkeys(VARIABLES, f"http://{address}"), NO_PROXY="example.com")
        assert not received
    assert server.builds or not server.requests


@pytest.mark.parametrize("no_proxy", ["", "example.com", "-", " , ,"])
def test_62_no_list_of_exceptions_changes_that(command: Command, server: RuntimeApiServer, no_proxy: str) -> None:
    command.use(server)
    with listen() as (address, received):
        proxies = dict.fromkeys(VARIABLES, f"http://{address}")
        command.run("all", **proxies, NO_PROXY=no_proxy, no_proxy=no_proxy).succeed()
        assert not received


NON_ASCII = "schl\u00fcssel+gr\u00f6\u00dfer/42"


def write_forms(key: str) -> dict[str, bytes]:
    """Return files that contain the key on their third line, by the form in which they do."""

    def surround(form: str) -> str:
        return f"first\nsecond\n  value = {form};\nfourth\n"

    raws = {"utf-8": key.encode(), "latin-1": key.encode("latin-1")}
    forms = {
        **{f"plain in {name}": surround("\0").encode().replace(b"\0", raw) for name, raw in raws.items()},
        "utf-16-le": surround(key).encode("utf-16-le"),
        "utf-16-be": surround(key).encode("utf-16-be"),
        "utf-16 with a mark": surround(key).encode("utf-16"),
        "\\u in JSON": surround(json.dumps(key)).encode(),
        "\\u throughout": surround("".join(f"\\u{ord(char):04x}" for char in key)).encode(),
        "\\u in capitals": surround("".join(f"\\u{ord(char):04X}" for char in key)).encode(),
    }
    for name, raw in raws.items():
        texts = {"hex": raw.hex(), "capital hex": raw.hex().upper(), "URL": urllib.parse.quote(raw, safe="")}
        texts["URL in small letters"] = re.sub("%..", lambda match: match[0].lower(), texts["URL"])
        texts["URL with slashes"] = urllib.parse.quote(raw)
        texts["URL form"] = urllib.parse.quote_plus(raw)
        for shift in range(3):
            texts[f"base64 after {shift}"] = base64.b64encode(b"u" * shift + raw + b":more").decode()
            texts[f"base64url after {shift}"] = base64.urlsafe_b64encode(b"u" * shift + raw).decode()
        forms |= {f"{form} of {name}": surround(text).encode() for form, text in texts.items()}
    return forms


def test_63_key_beyond_ascii_reaches_the_server(command: Command, server: RuntimeApiServer) -> None:
    command.secret = NON_ASCII
    command.use(server)
    command.run("all").succeed()
    assert {request.headers["x-api-key"] for request in server.requests} == {NON_ASCII}


@pytest.mark.parametrize("key", [KEY, NON_ASCII], ids=["ascii", "non-ascii"])
def test_63_key_in_a_packed_file_is_found_in_every_form(
    command: Command, server: RuntimeApiServer, subtests: pytest.Subtests, key: str
) -> None:
    path = command.checkout / PACKED / "config.txt"
    command.secret = key
    command.planted.add(path)
    command.use(server)
    forms = {content: form for form, content in write_forms(key).items()}
    for content, form in forms.items():
        with subtests.test(form):
            path.write_bytes(content)
            ended = command.run("all").fail(3, f"{PACKED}/config.txt", "line 3")
            assert key not in ended.err
            assert not [name for name in command.list_output() if name.endswith(".gz")]
    assert not server.requests


def test_64_url_from_the_tree_does_not_get_the_key_of_the_environment(
    command: Command, server: RuntimeApiServer
) -> None:
    (command.checkout / ".env").write_text(f"RUNTIME_API_URL={server.url}\n")
    for task in ("all", "upload", "wait", "logs", "doctor"):
        command.run(task, RUNTIME_API_KEY=KEY).fail(2, "RUNTIME_API_KEY", "environment", "RUNTIME_API_URL", ".env")
    assert not server.connections


def test_64_allowed_hosts_from_the_tree_do_not_get_it_either(command: Command, server: RuntimeApiServer) -> None:
    (command.checkout / ".env").write_text("ALLOWED_HOSTS=evil.example.com\n")
    command.use(server)
    command.run("all").fail(2, "RUNTIME_API_KEY", "environment", "ALLOWED_HOSTS", ".env")
    assert not server.connections


def test_64_url_of_a_higher_layer_gets_the_key_of_a_lower_one(command: Command, server: RuntimeApiServer) -> None:
    (command.checkout / ".env").write_text(f"RUNTIME_API_KEY={KEY}\nRUNTIME_API_URL=http://127.0.0.1:9\n")
    command.planted.add(command.checkout / ".env")
    command.run("all", RUNTIME_API_URL=server.url).succeed()
    command.run("upload", "--force", "--runtime-api-url", server.url).succeed()
    assert len(server.builds) == 2
    server.builds.clear()


@pytest.mark.parametrize("mark", ["", "uv.lock", "pyproject.toml"])
def test_64_nothing_above_the_checkout_is_read(command: Command, server: RuntimeApiServer, mark: str) -> None:
    above = command.world / ".env"
    above.write_text(f"RUNTIME_API_URL={server.url}\nRUNTIME_API_KEY={KEY}\nCUSTOM_TAGS=stolen\nTARGET=nonsense\n")
    command.planted.add(above)
    if mark:
        shutil.copy(command.checkout / "uv.lock", command.world / mark)
    for folder in (command.checkout, command.checkout / "openhands-sdk" / "openhands"):
        command.run("all", folder=folder).succeed()
        assert command.read_state("version")["tags"] == ["python"]
    assert not server.connections


def test_64_nothing_above_a_nested_checkout_is_read(command: Command, server: RuntimeApiServer) -> None:
    outer = command.checkout / ".env"
    outer.write_text(f"RUNTIME_API_URL={server.url}\nRUNTIME_API_KEY={KEY}\n")
    command.planted.add(outer)
    inner = shutil.copytree(PROJECTS / "workspace-today", command.checkout / "inner")
    commit_all(inner)
    command.outputs = [inner / "runtime-build"]
    command.run("all", folder=inner).succeed()
    assert not server.connections


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("kind", ["file", "link"])
def test_64_file_of_another_user_is_refused(command: Command, server: RuntimeApiServer, kind: str) -> None:
    path = command.checkout / ".env"
    if kind == "link":
        path.symlink_to(command.world / "theirs")
    (command.world / "theirs" if kind == "link" else path).write_text("CUSTOM_TAGS=theirs\n")
    os.chown(path, 12345, 12345)
    for task in ("all", "version", "doctor", "clean"):
        command.run(task).fail(2, ".env", "another user", "12345")
    assert command.list_output() == []


STAND_IN = """#!/bin/sh
{{ echo "$0 $*"; env; }} >>{log}
{then}
"""


def test_75_no_child_gets_the_key(command: Command, server: RuntimeApiServer) -> None:
    folder, log = command.world / "bin", command.world / "children"
    folder.mkdir()
    for name in ("git", "docker", "podman", "buildah", "docker-buildx"):
        then = f'exec {shutil.which("git")} "$@"' if name == "git" else "echo 28.0.1"
        (folder / name).write_text(STAND_IN.format(log=log, then=then))
        (folder / name).chmod(0o755)
    command.use(server, PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")
    (command.checkout / "new.txt").write_text("not committed")
    for task in ("version", "all", "doctor", "context --explain new.txt", "logs"):
        command.run(*task.split(), changing=("children",)).succeed()
    for engine in ("docker", "buildx", "podman", "buildah"):
        for task in ("build", "verify"):  # which fail: no stand-in builds anything
            command.run(task, "--engine", engine, changing=("children",))
    text = log.read_text()
    seen = {os.path.basename(line.split()[0]) for line in text.splitlines() if line.startswith(str(folder))}
    assert seen >= {"git", "docker", "podman", "buildah"}
    assert KEY not in text
    assert "RUNTIME_API_KEY" not in text


def test_75_no_child_gets_the_key_under_another_name(command: Command) -> None:
    folder, log = command.world / "bin", command.world / "children"
    folder.mkdir()
    (folder / "git").write_text(STAND_IN.format(log=log, then=f'exec {shutil.which("git")} "$@"'))
    (folder / "git").chmod(0o755)
    (command.checkout / ".env").write_text("RUNTIME_API_URL=https://runtime.invalid\nRUNTIME_API_KEY=${MY_KEY}\n")
    variables = {"MY_KEY": KEY, "MY_HEADER": f"X-API-Key: {KEY}", "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    command.run("version", changing=("children",), **variables).succeed()
    assert "MY_" not in log.read_text()
