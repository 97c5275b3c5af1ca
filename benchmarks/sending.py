"""`python -m benchmarks.sending`: an upload beside `requests` with `json=`, and how waiting sees the end of a build."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.__main__ import PACKAGE_ROOT
from buildkit.runtime_api.polling import choose_interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MEASURE = """
import json, resource, sys, time
from pathlib import Path
{setup}
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, started = peak(), time.perf_counter()
{work}
print(json.dumps([time.perf_counter() - started, (peak() - before) / 1024]))
"""
_POST = """
data = base64.b64encode(Path(sys.argv[1]).read_bytes()).decode()
requests.post(sys.argv[2] + "/build", json={"context": data, "target_image": "a:b"}, timeout=300)
"""
_OUR_IMPORTS = """
import os
from buildkit.runtime_api.client import RuntimeApi
from buildkit.runtime_api.submit import start_build
from buildkit.runtime_api.upload import ArchivePart, UploadAttempt
from buildkit.secret import ApiKey
from buildkit.ui import Ui
"""
_START = """
descriptor = os.open(sys.argv[1], os.O_RDONLY)
attempt = UploadAttempt(ArchivePart.of_whole(descriptor, "archive", sys.argv[3]), ["a:b"], {form!r})
start_build(RuntimeApi(sys.argv[2], ApiKey("x" * 20)), attempt, Ui())
"""
_CASES = {
    "requests with `json=`": ("import base64, requests", _POST),
    "`UPLOAD_FORMAT=json`": (_OUR_IMPORTS, _START.format(form="json")),
    "`UPLOAD_FORMAT=multipart`": (_OUR_IMPORTS, _START.format(form="multipart")),
}
_LONGEST_S = 1800
_BUILDS = 2000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the archive that is sent")
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args(arguments)
    peer, *ours = measure_uploads(given.megabytes, given.pairs)
    print(f"| upload of {given.megabytes} MB over loopback | ratio | s | MB over the imports |\n|---|---:|---:|---:|")
    for name, samples in (peer, *ours):
        ratios = [own[0] / other[0] for own, other in zip(samples, peer[1], strict=True)]
        seconds, megabytes = (statistics.median(column) for column in zip(*samples, strict=True))
        print(f"| {name} | {statistics.median(ratios):.2f} | {seconds:.2f} | {megabytes:.1f} |")
    requests, steady, late = simulate_waiting()
    print(
        f"\nWaiting, over {_BUILDS} builds of 2 s to 30 min: the end is seen within 5 % of a build's length or 1.5 s in"
    )
    print(f"{1 - late / _BUILDS:.1%} of them, with {requests / steady:.2f} of the requests of polling every 5 s.")


def measure_uploads(megabytes: int, pairs: int) -> list[tuple[str, list[tuple[float, float]]]]:
    """Return seconds and megabytes of each run of each case, the cases taking turns; the peer comes first."""
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in _CASES}
    with tempfile.TemporaryDirectory() as folder, serve_sink() as url:
        archive = Path(folder) / "archive"
        content = random.Random(1).randbytes(1_000_000) * megabytes
        archive.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        del content
        for turn in range(pairs + 1):
            for name, (setup, work) in _CASES.items():
                code = _MEASURE.format(setup=setup, work=work)
                command = [sys.executable, "-c", code, str(archive), url, sha256]
                done = subprocess.run(command, cwd=PACKAGE_ROOT, capture_output=True, text=True, check=True)
                if turn:  # the first one warms up
                    seconds, used = json.loads(done.stdout)
                    samples[name].append((seconds, used))
    return list(samples.items())


@contextmanager
def serve_sink() -> Iterator[str]:
    """Give the URL of a server that reads what comes and answers as a Runtime API does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def simulate_waiting() -> tuple[int, int, int]:
    """Return our requests, those of polling every 5 s, and how many ends were seen late; by a clock of its own."""
    draw = random.Random(2)
    requests = steady = late = 0
    for _ in range(_BUILDS):
        length_s = 2 * (_LONGEST_S / 2) ** draw.random()
        elapsed_s = 0.0
        requests += 1
        while elapsed_s < length_s:
            elapsed_s += choose_interval(elapsed_s, draw.random())
            requests += 1
        steady += 1 + int(-(-length_s // 5))
        late += elapsed_s - length_s > max(0.05 * length_s, 1.5)
    return requests, steady, late


def _accept(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            _answer(connection)


def _answer(connection: socket.socket) -> None:
    """Read one request to its end and answer it."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    head, _, rest = head.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    left = int(lengths[0]) - len(rest)
    buffer = bytearray(1 << 20)
    while left > 0:
        left -= connection.recv_into(buffer)
    body = b'{"build_id": "abc"}'
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))


if __name__ == "__main__":
    main()
