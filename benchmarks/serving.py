"""`python -m benchmarks.serving`: receiving a context, beside Starlette's `request.form()` of the same bytes."""

from __future__ import annotations

import argparse
import asyncio
import base64
import gzip
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.__main__ import PACKAGE_ROOT
from buildkit.archive import tar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.requests import Request

_PEER = "`request.form()`"
_FORMS = {_PEER: "multipart", "ours, multipart": "multipart", "ours, JSON": "json"}
_BOUNDARY = "0123456789abcdef"
_BLOCK_BYTES = 3 << 18


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the archive")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--text", action="store_true", help="files that compress to half, rather than not at all")
    parser.add_argument("--serve", choices=_FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve:
        _serve(given.serve, given.folder)
        return
    samples = measure(given.megabytes, given.pairs, is_text=given.text)
    print(
        f"| {given.megabytes} MB over loopback | ratio | s | s after the last byte | MB over idle |\n"
        "|---|---:|---:|---:|---:|"
    )
    for name, found in samples.items():
        ratio = statistics.median(own[0] / peer[0] for own, peer in zip(found, samples[_PEER], strict=True))
        total, after, used = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {name} | {ratio:.2f} | {total:.2f} | {after:.2f} | {used:.0f} |")


def measure(megabytes: int, pairs: int, *, is_text: bool) -> dict[str, list[tuple[float, float, float]]]:
    """Return seconds, seconds after the last byte, and megabytes of each run; the cases take turns."""
    samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in _FORMS}
    archive = base64.b64encode(b"".join(make_archive(megabytes, is_text=is_text)))
    for turn in range(pairs + 1):
        for name, form in _FORMS.items():
            found = _measure_once(name, form, archive)
            if turn:  # the first one warms up
                samples[name].append(found)
    return samples


def make_archive(megabytes: int, *, is_text: bool) -> Iterator[bytes]:
    """Yield a tar.gz of small files."""
    draw = random.Random(1)
    size = 20_000
    pieces = []
    for number in range(50):
        content = draw.randbytes(size // 2) + b"text and more " * (size // 28 + 1) if is_text else draw.randbytes(size)
        pieces.append(tar.format_file(f"src/{number}.py", size, 0, executable=False))
        pieces.append(content[:size] + tar.format_padding(size))
    member = gzip.compress(b"".join(pieces), 1)
    yield from [member] * (megabytes * 1_000_000 // len(member))
    dockerfile = b"FROM debian:12\n"
    end = tar.format_file("Dockerfile", len(dockerfile), 0, executable=False) + dockerfile
    yield gzip.compress(end + tar.format_padding(len(dockerfile)) + tar.format_end(0))


def _measure_once(name: str, form: str, archive: bytes) -> tuple[float, float, float]:
    command = [sys.executable, "-m", "benchmarks.serving", "--serve", name, "--folder"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([*command, folder], cwd=PACKAGE_ROOT, stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            port = int(process.stdout.readline()) if process.stdout else 0
            started = time.perf_counter()
            with socket.create_connection(("127.0.0.1", port)) as connection:
                for piece in format_request(form, archive):
                    connection.sendall(piece)
                sent = time.perf_counter()
                response = b"".join(iter(lambda: connection.recv(65536), b""))
            ended = time.perf_counter()
        finally:
            process.terminate()
            process.wait()
    head, _, body = response.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise RuntimeError(response.decode())
    return ended - started, ended - sent, json.loads(body)["used_bytes"] / 1e6


def format_request(form: str, archive: bytes, key: str = "") -> Iterator[bytes]:
    """Yield a `POST /build` in pieces.

    Args:
        archive: As base64 text.
    """
    if form == "json":
        kind, before, after = "application/json", b'{"target_image": "a:b", "context": "', b'"}'
    else:
        kind, part = (
            f"multipart/form-data; boundary={_BOUNDARY}",
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name=",
        )
        before = f'{part}"target_image"\r\n\r\na:b\r\n{part}"context"; filename="context.tar.gz"\r\n\r\n'.encode()
        after = f"\r\n--{_BOUNDARY}--\r\n".encode()
    size = len(before) + len(archive) + len(after)
    yield (
        f"POST /build HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-API-Key: {key}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
    ).encode() + before
    for start in range(0, len(archive), _BLOCK_BYTES):
        yield archive[start : start + _BLOCK_BYTES]
    yield after


def _serve(name: str, folder: Path) -> None:
    """Serve until terminated; the port is the only line of output."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def build(request: Request) -> JSONResponse:
        await (_spool_form(request) if name == _PEER else _receive(request, folder))
        return JSONResponse({"used_bytes": _read_peak() - idle})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        idle = _read_peak()
        config = uvicorn.Config(Starlette(routes=[Route("/build", build, methods=["POST"])]), log_level="warning")
        asyncio.run(uvicorn.Server(config).serve([listener]))


async def _spool_form(request: Request) -> None:
    async with request.form():
        pass


async def _receive(request: Request, folder: Path) -> None:
    from starlette.concurrency import run_in_threadpool

    from buildkit.server.bodies import BodyLimits, receive_body
    from buildkit.server.contexts import Contexts
    from buildkit.server.incoming import Limits
    from buildkit.server.upload import open_body

    with Contexts(folder / "contexts").receive(Limits()) as incoming:
        body = open_body(request.headers["content-type"])
        await receive_body(request, body.read, incoming.write, BodyLimits(1 << 40))
        body.close()
        await run_in_threadpool(incoming.finish)


def _read_peak() -> int:
    """Return the peak of this process alone; `ru_maxrss` begins with that of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


if __name__ == "__main__":
    main()
