"""Rows 76 to 78: an archive that changes while it is sent, a slow uplink, and an image that is none."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.misbehaviour import answer
from tests.steps import Steps
from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.commands import Command
    from tests.runtime_api import Exchange, RuntimeApiServer

    Change = Callable[[Path], object]

pytestmark = pytest.mark.fault

POST, STATUS = "POST /build", "GET /build_status"
VIRTUAL = {"virtual_time": True}


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset, os.SEEK_END)
        file.write(data)


CHANGES: dict[str, Change] = {
    "last byte": lambda path: overwrite(path, -1, b"\xff"),
    "near the end": lambda path: overwrite(path, -100_000, os.urandom(16)),
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "cut to nothing": lambda path: os.truncate(path, 0),
    "rewritten": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
}


@pytest.fixture
def packed(command: Command, server: RuntimeApiServer) -> Command:
    """The command, with a packed archive that is larger than what the kernel holds for a connection."""
    (command.checkout / "openhands-sdk/openhands/sdk/big.bin").write_bytes(os.urandom(16_000_000))
    command.run("all").succeed()
    command.use(server)
    return command


def change_while_sent(change: Change, path: Path) -> Callable[[Exchange], None]:
    """Read the beginning of the body, change the archive, and read the rest."""

    def behave(exchange: Exchange) -> None:
        head = len(exchange.read_body(1_000_000))
        change(path)
        while piece := exchange.connection.recv(256 * 1024):
            head += len(piece)
            exchange.request.body += piece
        with exchange.server.lock:
            exchange.server.whole_bodies += head >= int(exchange.request.headers["content-length"])

    return behave


@pytest.mark.parametrize("upload_format", rest_is_slow(["json", "multipart"], 1))
@pytest.mark.parametrize("change", CHANGES)
def test_76_archive_that_changes_while_it_is_sent_starts_nothing(
    packed: Command, server: RuntimeApiServer, change: str, upload_format: str
) -> None:
    archive = packed.output / packed.read_state("context")["archive"]
    server.script(POST, change_while_sent(CHANGES[change], archive))
    packed.run("upload", "--upload-format", upload_format).fail(3, archive.name, "runtime-build context")
    assert (server.count(POST), server.whole_bodies, server.builds) == (1, 0, [])
    assert not (packed.output / "upload.json").exists()


@pytest.mark.parametrize("change", CHANGES)
def test_76_archive_that_has_changed_before_is_not_sent(packed: Command, server: RuntimeApiServer, change: str) -> None:
    CHANGES[change](packed.output / packed.read_state("context")["archive"])
    packed.run("upload").fail(3, "runtime-build context")
    assert server.whole_bodies == 0
    assert not (packed.output / "upload.json").exists()


def test_76_archive_that_is_replaced_is_sent_as_it_was_opened(packed: Command, server: RuntimeApiServer) -> None:
    archive = packed.output / packed.read_state("context")["archive"]
    digest = packed.read_state("context")["archive_sha256"]

    def replace(exchange: Exchange) -> None:
        exchange.read_body(1_000_000)
        archive.with_name("other").write_bytes(b"another archive")
        archive.with_name("other").replace(archive)
        head, exchange.request.body = exchange.request.body, b""
        length = int(exchange.request.headers["content-length"]) - len(head)
        exchange.request.headers["content-length"] = str(length)
        exchange.request.body = head + exchange.read_body()
        exchange.answer(200, {"build_id": exchange.server.start_build(exchange.request).build_id})

    server.script(POST, replace)
    packed.run("upload").succeed()
    assert [build.archive_sha256 for build in server.builds] == [digest]


def read_slowly(bytes_per_s: int) -> Callable[[Exchange], None]:
    """Read the body at a steady rate, as a narrow uplink lets it through."""

    def behave(exchange: Exchange) -> None:
        exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        length, pause_s = int(exchange.request.headers["content-length"]), 0.05
        body = exchange.read_body(0)
        while len(body) < length and not exchange.server.closing.wait(pause_s):
            piece = exchange.connection.recv(int(bytes_per_s * pause_s))
            if not piece:
                return
            body += piece
        exchange.request.body = body
        exchange.answer(200, {"build_id": exchange.server.start_build(exchange.request).build_id})

    return behave


@pytest.mark.slow
@pytest.mark.parametrize("upload_format", ["json", "multipart"])
def test_77_slow_steady_uplink_is_never_a_stall(command: Command, server: RuntimeApiServer, upload_format: str) -> None:
    """At 40 kB/s, what the kernel holds alone takes longer than the minute without progress that is allowed."""
    (command.checkout / "openhands-sdk/openhands/sdk/big.bin").write_bytes(os.urandom(3_000_000))
    server.always(POST, read_slowly(40_000))
    command.use(server, UPLOAD_FORMAT=upload_format)
    command.start("all").wait(300).succeed()
    assert len(server.builds) == 1


@pytest.mark.slow
def test_77_only_time_without_progress_counts(runtime_api: RuntimeApiServer, tmp_path: Path) -> None:
    """The same, with a limit of one second: none of it passes without progress."""
    archive = tmp_path / "archive.tar.gz"
    archive.write_bytes(os.urandom(3_000_000))
    steps = Steps(runtime_api.url, limits={"stall_timeout_s": 1})
    runtime_api.always(POST, read_slowly(400_000))
    started = time.monotonic()
    assert steps.submit(archive).build_id == "build-1"
    assert time.monotonic() - started > 3


INVALID = (
    "--privileged",
    "$(id)",
    "a;id",
    "https://example.com/image:1",
    "a b",
    "../image",
    "A/B:c",
    "x" * 5000,
    "a:b:c",
)


@pytest.mark.parametrize(
    "image", rest_is_slow([5, ["a/b:c"], {"name": "a/b:c"}, "`id`", "image:tag\n", "-v/:/host", *INVALID], 6)
)
def test_78_image_that_is_not_a_reference_is_never_the_result(
    command: Command, server: RuntimeApiServer, image: Any
) -> None:
    server.always(STATUS, answer(200, {"status": "SUCCESS", "image": image}))
    command.use(server)
    ended = command.run("all").succeed()
    wanted = command.read_state("upload")["target_image"]
    assert ended.result == wanted
    assert command.read_state("wait")["image"] == wanted
    (warning,) = [line for line in ended.err.splitlines() if "warning: " in line]
    quoted = image.encode("unicode_escape").decode()[:200] if isinstance(image, str) else str(image).replace("'", '"')
    assert quoted in warning
    assert len(warning) < 500


def test_78_reference_with_everything_is_the_result(command: Command, server: RuntimeApiServer) -> None:
    image = "registry.example.com:5000/team/app:1.2@sha256:" + "0a" * 32
    server.always(STATUS, answer(200, {"status": "SUCCESS", "image": image}))
    command.use(server)
    assert command.run("all").succeed().result == image
