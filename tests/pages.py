"""The server's application on a socket of its own, without an engine, with builds that a test makes up."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode

import uvicorn

from buildkit.secret import ApiKey
from buildkit.server.app import create_app
from buildkit.server.records import NewBuild, Query
from buildkit.server.server import Server, ServerOptions
from tests.serving import Answer, Served, pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from buildkit.server.records import Build

KEY = "a-key-for-the-page-of-tests"
OWNER = "ci"
HTML = {"Accept": "text/html"}


class PageServer:
    """Builds are added to its store and logs directly; nothing is built.

    Attributes:
        key: Opens a session in a browser.
    """

    def __init__(self, folder: Path) -> None:
        self.server = Server(folder, [], ServerOptions(key=ApiKey(KEY)))
        self.key = self.server.keys.create(OWNER)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._client = Served(folder, url=self.url)
        self._uvicorn = uvicorn.Server(uvicorn.Config(create_app(self.server), log_level="critical", lifespan="off"))
        self._thread = threading.Thread(target=self._uvicorn.run, args=([self._socket],), daemon=True)
        self.cookie = ""

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._uvicorn.started:
            time.sleep(0.01)
        self.cookie = self.log_in(self.key)
        return self

    def __exit__(self, *_: object) -> None:
        self._uvicorn.should_exit = True
        self._thread.join()
        self._socket.close()
        self.server.store.close()

    def log_in(self, key: str) -> str:
        """Return the cookie of a new session."""
        answer = self.post("/login", {"key": key}, cookie="")
        return answer.headers["set-cookie"].partition(";")[0]

    def get(self, path: str, *, cookie: str | None = None) -> tuple[int, str]:
        """Return status and text of what a browser gets."""
        headers = {**HTML, "Cookie": self.cookie if cookie is None else cookie}
        answer = self._client.call("GET", path, headers=headers)
        return answer.status, answer.body.decode()

    def post(self, path: str, fields: Mapping[str, str], *, cookie: str | None = None) -> Answer:
        """Return the response to a form."""
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Cookie": self.cookie if cookie is None else cookie,
        }
        return self._client.call("POST", path, urlencode(fields).encode("utf-8", "surrogatepass"), headers)

    def read_token(self, *, cookie: str | None = None) -> str:
        """Return the token of the forms of a session."""
        _, html = self.get("/", cookie=cookie)
        return html.partition('name="token" value="')[2].partition('"')[0]

    def add(self, image: str = "app:1", files: Mapping[str, str | bytes] | None = None, **new: str) -> Build:
        """Return a queued build."""
        values = {"target_image": image, "tags": (), "base_image": "python:3.13-slim", "owner": OWNER, **new}
        incoming = self.server.contexts.receive(self.server.options.limits)
        incoming.write(pack(files))
        sha256 = incoming.finish().sha256
        return self.server.store.add(NewBuild(**{"context_sha256": sha256, **values}), 10_000)  # type: ignore[arg-type]  # texts, except the tags

    def add_without_context(self, **new: str) -> Build:
        """Return a queued build whose context is not stored."""
        sha256 = hashlib.sha256(repr(new).encode()).hexdigest()
        values = {"target_image": "app:1", "base_image": "base:1", "owner": OWNER, "context_sha256": sha256, **new}
        return self.server.store.add(NewBuild(tags=(), **values), 10_000)

    def find(self, status: str) -> Build:
        """Return the newest build with a status."""
        return self.server.store.list(Query(status, limit=1))[0]

    def claim(self, build: Build) -> Build:
        """Return the build, now running."""
        claimed = self.server.store.claim("buildx", lambda other: other.id == build.id)
        assert claimed
        return claimed

    def write_log(self, build: Build, lines: Iterable[str]) -> None:
        """Append lines to a log."""
        with contextlib.closing(self.server.logs.open(build.id)) as log:
            for line in lines:
                log.write(line)
