"""The server killed at random moments while clients submit: nothing is lost, and each idempotency key is one build."""

from __future__ import annotations

import hashlib
import http.client
import queue
import random
import re
import signal
import socket
import sqlite3
import threading
import time
from contextlib import ExitStack, suppress
from html import unescape
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest

from tests.builders import wait_for
from tests.serving import Served, format_json, format_multipart, pack

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

KEY = "key-for-the-tests-that-kill-servers"
KILLS, BUILDS, CLIENTS = 100, 30, 3
# Some kills come while the server starts, the others while it works.
STARTING_S, WORKING_S, SHARE_STARTING = 0.8, 0.7, 0.15
INTERRUPTED = "interrupted 3 times"
ORDER = ("QUEUED", "RUNNING", "SUCCESS", "INTERNAL_ERROR")
WORDS = {"Queued": "QUEUED", "Running": "RUNNING", "Succeeded": "SUCCESS", "Internal error": "INTERNAL_ERROR"}
ROW = re.compile(r'<tr>\s*<td>.*?>([A-Z][a-z ]+)</span>.*?href="/builds/(\w+)"', re.DOTALL)


class Ended(NamedTuple):
    """How a build has ended, which never changes again."""

    status: str
    image: str | None
    error: str | None
    attempts: int


class Clients:
    """Clients that repeat each request until it has a response, and then once more; `with` waits for them."""

    def __init__(self, server: Served) -> None:
        self._server = server
        self._numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._given_up = threading.Event()
        self.ids: dict[str, set[str]] = {}
        self.unexpected: list[Any] = []
        self._threads = [threading.Thread(target=self._work) for _ in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._given_up.set()
        for _thread in self._threads:
            self._numbers.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, number: int) -> None:
        self._numbers.put(number)

    def _work(self) -> None:
        while (number := self._numbers.get()) is not None:
            for _ in range(2):
                self._submit(number)

    def _submit(self, number: int) -> None:
        context = pack({"a": f"{number}" * 20_000}, f"FROM scratch\nCOPY a /\nRUN sleep 0.{number % 4}\n")
        form = (format_json, format_multipart)[number % 2](context, name_image(number))
        while not self._given_up.wait(0.02):
            try:
                answer = self._server.post(form, Idempotency_Key=f"key-{number}")
            except (OSError, http.client.HTTPException):
                continue
            if answer.status in {200, 202}:
                self.ids.setdefault(name_image(number), set()).add(answer.record["build_id"])
            else:
                self.unexpected.append(answer)
            return


def name_image(number: int) -> str:
    return f"app:{number}"


def find_port(random_: random.Random) -> str:
    """Return a free port that the system gives to no connection, or a client could take it while no server runs."""
    while True:
        port = random_.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return str(port)


class Sweep:
    """One server, killed again and again, and what was seen of its builds."""

    def __init__(self, folder: Path, random_: random.Random) -> None:
        port = find_port(random_)
        self.server = Served(
            folder, settings={"RUNTIME_API_KEY": KEY, "SERVE_PORT": port, "RUNTIME_API_URL": "http://127.0.0.1"}
        )
        self.server.install_engine()
        self.server.url, self.server.key = f"http://127.0.0.1:{port}", KEY
        self.clients = Clients(self.server)
        self.ended: dict[str, Ended] = {}
        self._random = random_

    def run(self) -> None:
        """Start and kill the server, with its builds spread over the time."""
        submitted = 0
        for kill in range(KILLS):
            while submitted * KILLS < (kill + 1) * BUILDS:
                self.clients.submit(submitted)
                submitted += 1
            self.server.launch()
            if self._random.random() < SHARE_STARTING:
                time.sleep(self._random.uniform(0, STARTING_S))
            else:
                self.server.wait_until_listening()
                self.check_pages()
                time.sleep(self._random.uniform(0, WORKING_S))
            assert self.server.stop(signal.SIGKILL) == -signal.SIGKILL
            self.check_data()

    def check_data(self) -> None:
        """Check what the killed server has left: whole contexts, whole lines, and every build that it accepted."""
        data = self.server.data
        if not (data / "builds.sqlite3").exists():
            return
        database = sqlite3.connect(data / "builds.sqlite3")
        database.row_factory = sqlite3.Row
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        tables = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'builds'").fetchone()[0]
        rows = {row["id"]: row for row in database.execute("SELECT * FROM builds")} if tables else {}
        database.close()
        assert len({row["idempotency_key"] for row in rows.values()}) == len(rows)
        for ids in list(self.clients.ids.values()):
            assert ids <= rows.keys()
        for row in rows.values():
            context = (data / f"contexts/{row['context_sha256']}.tar.gz").read_bytes()
            assert hashlib.sha256(context).hexdigest() == row["context_sha256"]
            log = data / f"logs/{row['id']}.log"
            assert not log.exists() or log.read_bytes()[-1:] in {b"", b"\n"}
        for path in (data / "contexts").glob("[!.]*"):
            assert path.name == f"{hashlib.sha256(path.read_bytes()).hexdigest()}.tar.gz"

    def list_builds(self) -> dict[str, dict[str, Any]]:
        """Return the builds that the server lists, by ID; what has ended is as it was."""
        builds = {
            build["build_id"]: build for build in self.server.call("GET", "/builds", limit="500").record["builds"]
        }
        for build_id, build in builds.items():
            if build["status"] not in ORDER[:2]:
                ended = Ended(build["status"], build.get("image"), build.get("error"), build["attempts"])
                assert self.ended.setdefault(build_id, ended) == ended
        return builds

    def check_pages(self) -> None:
        """Check that the page shows what the server lists for programs, and lists all that it has accepted."""
        accepted = [build_id for ids in list(self.clients.ids.values()) for build_id in ids]
        before = self.list_builds()
        answer = self.server.call("GET", "/", headers={"Accept": "text/html"})
        after = self.list_builds()
        assert answer.status == 200
        shown = {build_id: WORDS[word] for word, build_id in ROW.findall(answer.body.decode())}
        assert set(accepted) <= before.keys() <= shown.keys() <= after.keys()
        for build_id, build in before.items():
            assert rank(build) <= ORDER.index(shown[build_id]) <= rank(after[build_id])
        if before:
            self.check_page(self._random.choice(list(before)))

    def check_page(self, build_id: str) -> None:
        """Check the page of one build, and its log."""
        first = self.server.status(build_id)
        answer = self.server.call("GET", f"/builds/{build_id}", headers={"Accept": "text/html"})
        assert answer.status == 200
        html = unescape(answer.body.decode())
        if (build := self.server.status(build_id)) == first and first["status"] in ORDER[2:]:
            assert f"<code>{build_id}</code>" in html
            assert build.get("image", INTERRUPTED) in html
        log = self.server.call("GET", "/build_logs", build_id=build_id)
        assert log.status == 200
        if first["status"] in ORDER[2:]:
            assert log.body.endswith(b"\n")


def rank(build: dict[str, Any]) -> int:
    return ORDER.index(build["status"])


def test_a_server_that_is_killed_again_and_again_keeps_every_build(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    sweep = Sweep(tmp_path, random.Random(seed))
    with ExitStack() as stack:
        stack.callback(sweep.server.stop)
        with sweep.clients:
            sweep.run()
            sweep.server.start()
        assert not sweep.clients.unexpected
        assert sorted(sweep.clients.ids) == sorted(map(name_image, range(BUILDS)))
        assert all(len(ids) == 1 for ids in sweep.clients.ids.values()), seed
        assert wait_for(lambda: len(sweep.list_builds()) == len(sweep.ended) == BUILDS, 60), seed
        sweep.check_pages()
        logs = [sweep.server.call("GET", "/build_logs", build_id=build_id).body for build_id in sweep.ended]
    for ended in sweep.ended.values():
        assert ended.status == "SUCCESS" or (ended.attempts == 3 and INTERRUPTED in str(ended.error)), seed
    assert "SUCCESS" in {ended.status for ended in sweep.ended.values()}
    assert max(ended.attempts for ended in sweep.ended.values()) > 1, "no kill hit a build"
    assert any(b"the server was killed" in log for log in logs)
    assert not (sweep.server.engine / "built-twice-at-once").exists()
