"""The real server in a process of its own, with a stand-in for its engine, and a plain HTTP client."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

from tests.processes import PACKAGE_ROOT, PROGRAM

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCKERFILE = "FROM localhost/base:1\nCOPY . /app\n"
SLOW = f"{DOCKERFILE}RUN sleep 30\n"
_STAND_IN = Path(__file__).with_name("stand_in_docker.py")
_START_S = 30.0


class Answer(NamedTuple):
    """A response, with its headers by name in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.body)
        return record


def pack(files: Mapping[str, str | bytes] | None = None, dockerfile: str = DOCKERFILE) -> bytes:
    """Return a tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in {"Dockerfile": dockerfile, **(files or {})}.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def format_json(context: bytes, target_image: str = "app:1", **more: Any) -> tuple[bytes, str]:
    """Return the body and the content type of the JSON form."""
    record = {"context": base64.b64encode(context).decode(), "target_image": target_image, **more}
    return json.dumps(record).encode(), "application/json"


def format_multipart(context: bytes, target_image: str = "app:1", *tags: str) -> tuple[bytes, str]:
    """Return the body and the content type of the multipart form."""
    fields = [("target_image", target_image), *(("tags", tag) for tag in tags)]
    parts = [f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields]
    head = '--B\r\nContent-Disposition: form-data; name="context"; filename="context.tar.gz"\r\n\r\n'
    body = head.encode() + base64.b64encode(context) + b"\r\n" + "".join(parts).encode() + b"--B--\r\n"
    return body, "multipart/form-data; boundary=B"


@dataclass
class Served:
    """A server that runs; `with` stops it.

    Attributes:
        folder: Its working directory, with the data in `runtime-server` and the engine's files in `engine`.
        settings: Environment variables in addition to the usual ones.
        authority: Of the server's certificate.
    """

    folder: Path
    flags: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    url: str = ""
    key: str = ""
    authority: Path | None = None

    def __enter__(self) -> Self:
        self.install_engine()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def engine(self) -> Path:
        return self.folder / "engine"

    @property
    def data(self) -> Path:
        return self.folder / "runtime-server"

    @property
    def environment(self) -> dict[str, str]:
        usual = {
            "PATH": f"{self.folder}/bin{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(PACKAGE_ROOT),
            "SERVE_PORT": "0",
            "ENGINE": "docker",
            "STAND_IN_DOCKER": str(self.engine),
        }
        return usual | self.settings

    def install_engine(self) -> None:
        for name in ("home", "bin", "engine"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        program = self.folder / "bin/docker"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {_STAND_IN} "$@"\n')
        program.chmod(0o755)

    def start(self) -> None:
        """Start the process and wait until it listens."""
        self.launch()
        self.wait_until_listening()

    def launch(self) -> None:
        """Start the process."""
        self._stdout, self._stderr = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        command = [*PROGRAM, "serve", *self.flags]
        streams = {"stdin": subprocess.DEVNULL, "stdout": self._stdout, "stderr": self._stderr}
        self.process = subprocess.Popen(command, cwd=self.folder, env=self.environment, **streams)  # type: ignore[call-overload]  # a mapping of streams

    def wait_until_listening(self) -> None:
        deadline = time.monotonic() + _START_S
        while not (lines := self.read_out().splitlines()):
            assert self.process.poll() is None, self.read_err()
            assert time.monotonic() < deadline, self.read_err()
            time.sleep(0.02)
        (self.url,) = lines
        shown = re.search(r"RUNTIME_API_KEY=(\S+)", self.read_err())
        self.key = shown[1] if shown else self.key or self.settings.get("RUNTIME_API_KEY", "")

    def run(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run the task once more in the same directory, to its end."""
        command = [*PROGRAM, "serve", *flags]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )

    def read_out(self) -> str:
        return os.pread(self._stdout.fileno(), 1 << 20, 0).decode()

    def read_err(self) -> str:
        return os.pread(self._stderr.fileno(), 1 << 24, 0).decode()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code: int = self.process.wait(30)
        if not self._stdout.closed:
            err = self.read_err()
            self._stdout.close()
            self._stderr.close()
            assert "Traceback" not in err, err
        return code

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **query: str,
    ) -> Answer:
        """Return the response to a request that carries the key."""
        connection = self.connect()
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            connection.request(method, target, body, {"X-API-Key": self.key, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        if parts.scheme == "https":
            tls = ssl.create_default_context(cafile=self.authority)
            return http.client.HTTPSConnection(str(parts.hostname), parts.port, timeout=30, context=tls)
        return http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)

    def post(self, form: tuple[bytes, str], **headers: str) -> Answer:
        """Return the response to `POST /build`."""
        body, content_type = form
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("POST", "/build", body, {"Content-Type": content_type, **named})

    def build(self, dockerfile: str = DOCKERFILE, target_image: str = "app:1") -> str:
        """Return the ID of a build that the server has accepted."""
        answer = self.post(format_json(pack(dockerfile=dockerfile), target_image))
        assert answer.status == 200, answer
        return str(answer.record["build_id"])

    def status(self, build_id: str) -> dict[str, Any]:
        answer = self.call("GET", "/build_status", build_id=build_id)
        assert answer.status == 200, answer
        return answer.record

    def list_stored(self) -> list[str]:
        """Return the files of contexts, whole or not."""
        return sorted(path.name for path in (self.data / "contexts").rglob("*") if path.is_file())

    def wait(self, build_id: str, *statuses: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """Return the state of a build once it has one of the statuses; by default, one in which it has ended."""
        wanted = statuses or ("SUCCESS", "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED")
        deadline = time.monotonic() + timeout_s
        while (state := self.status(build_id))["status"] not in wanted:
            assert time.monotonic() < deadline, (state, self.read_err())
            time.sleep(0.05)
        return state
