"""A Runtime API for many images: it starts one build for each key, and knows which images it has."""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.runtime_api import RuntimeApiServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.runtime_api import Exchange

FEATURES = {"name": "runtime-build", "version": "1", "features": ["idempotency"]}


class BulkApi:
    """What the server knows, and how it behaves.

    Attributes:
        images: Those that it has.
        polls: How often a build is still running when it is asked for.
        fails: Tells from a target image whether its build fails.
        trouble: Tells from a request's name what goes wrong with it, or nothing.
    """

    def __init__(self, server: RuntimeApiServer) -> None:
        self.server = server
        self.polls = 0
        self.images: set[str] = set()
        self.fails: Callable[[str], bool] = lambda _: False
        self.trouble: Callable[[str], str] = lambda _: ""
        self._by_key: dict[str, str] = {}
        self._by_id: dict[str, str] = {}
        self._left: dict[str, int] = {}
        for name, behave in {
            "GET /": lambda exchange: exchange.answer(200, FEATURES),
            "POST /build": self._start,
            "GET /build_status": self._tell_status,
            "GET /image_exists": self._tell_existence,
        }.items():
            server.always(name, self._guard(name, behave))

    @property
    def started(self) -> list[str]:
        """The target image of every build."""
        return [build.target_image for build in self.server.builds]

    def settle(self) -> None:
        """Let every build that is running end with the next poll."""
        self._left = dict.fromkeys(self._left, 0)

    def _guard(self, name: str, behave: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
        def answer(exchange: Exchange) -> None:
            match self.trouble(name):
                case "429":
                    exchange.read_body()
                    exchange.answer(429, {"detail": "slow down"}, {"Retry-After": "0"})
                case "reset":
                    exchange.connection.close()
                case "lost":
                    exchange.read_body()
                    exchange.connection.close()
                case _:
                    behave(exchange)

        return answer

    def _start(self, exchange: Exchange) -> None:
        length = int(exchange.request.headers["content-length"])
        if len(exchange.read_body()) < length:
            return
        key = exchange.request.headers["idempotency-key"]
        with self.server.lock:
            known = self._by_key.get(key)
        if known is None:
            build = self.server.start_build(exchange.request)
            known = self._by_key[key] = build.build_id
            self._by_id[known], self._left[known] = build.target_image, self.polls
        exchange.answer(200, {"build_id": known})

    def _tell_status(self, exchange: Exchange) -> None:
        build_id = exchange.request.query["build_id"]
        image = self._by_id[build_id]
        if self._left[build_id]:
            self._left[build_id] -= 1
            exchange.answer(200, {"status": "RUNNING"})
        elif self.fails(image):
            exchange.answer(200, {"status": "FAILURE", "error": "a step failed"})
        else:
            self.images.add(image)
            exchange.answer(200, {"status": "SUCCESS", "image": image})

    def _tell_existence(self, exchange: Exchange) -> None:
        exchange.answer(200, {"exists": exchange.request.query["image"] in self.images})


@contextmanager
def run_bulk_api() -> Iterator[BulkApi]:
    """Give such a server."""
    with RuntimeApiServer() as server:
        yield BulkApi(server)


def make_trouble(shares: dict[str, float], seed: int = 1) -> Callable[[str], str]:
    """Return what goes wrong with a request, in these shares of all."""
    chance = random.Random(seed)

    def choose(_: str) -> str:
        drawn = chance.random()
        for kind, share in shares.items():
            if drawn < share:
                return kind
            drawn -= share
        return ""

    return choose


def read_events(text: str) -> list[dict[str, Any]]:
    """Return the events of a journal; every line must be one."""
    return [json.loads(line) for line in text.splitlines()]
