"""Seeded mutations of all that comes from outside; each ends in time, without a traceback, a control or a secret."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import string
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from e2b_dockerfile_utils import PatternMatcher

from buildkit.errors import SettingError
from buildkit.precedence import load_settings
from buildkit.reference import check_tag, parse_reference
from buildkit.source.dockerignore import parse_dockerignore
from buildkit.source.gitignore import parse_gitignore
from tests.misbehaviour import send
from tests.runtime_api import KEY
from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.commands import Command
    from tests.runtime_api import Exchange, RuntimeApiServer

pytestmark = pytest.mark.fault

INSIDE = "openhands-sdk/openhands/sdk"
SPICE = [
    "\0",
    "\n",
    "\r",
    "\x1b[31m",
    "\u202e",
    "\ud800",
    "$",
    "${X}",
    "\\",
    "'",
    '"',
    "=",
    "#",
    " ",
    "\t",
    "/",
    "..",
    ":",
    "@",
    "é",
    "\u0661",
    "*",
    "**",
    "!",
    "[",
    "]",
    "[^",
    "?",
    "{{",
    "%",
    KEY,
]


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """Fail what is still going on after so many seconds."""

    def give_up(*_: object) -> None:
        raise AssertionError(f"hangs for {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def find_refusal(call: Callable[[], object]) -> str:
    """Return what a call refuses and why; empty where it takes what it is given. Any other error is raised."""
    try:
        call()
    except SettingError as error:
        return error.message + error.fix
    return ""


def mix(draw: random.Random, words: list[str], most: int = 12) -> str:
    """Return words and spice in any order."""
    return "".join(draw.choice(words if draw.random() < 0.6 else SPICE) for _ in range(draw.randrange(most)))


def mutate(draw: random.Random, data: bytes) -> bytes:
    """Return bytes with a few of them cut, doubled, changed or spiced."""
    mutated = bytearray(data)
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(mutated) + 1)
        kind = draw.randrange(4)
        if kind == 0:
            del mutated[at : at + draw.randrange(40)]
        elif kind == 1:
            mutated[at:at] = mutated[at : at + draw.randrange(40)]
        elif kind == 2:
            mutated[at:at] = draw.choice(SPICE).encode("utf-8", "surrogatepass")
        else:
            mutated[at:at] = bytes(draw.randrange(256) for _ in range(draw.randrange(6)))
    return bytes(mutated)


def odd_json(draw: random.Random, depth: int = 0) -> Any:
    """Return a JSON value of any type, with names that the client knows."""
    simple: list[Any] = [None, True, 0, -1, 1.5, 10**30, "", "SUCCESS", "RUNNING", "x" * 5000, mix(draw, ["a", "b"])]
    if depth > 3 or draw.random() < 0.4:
        return draw.choice(simple)
    if draw.random() < 0.3:
        return [odd_json(draw, depth + 1) for _ in range(draw.randrange(4))]
    names = ["status", "build_id", "image", "error", "detail", "message", "url", "registry_prefix", "logs"]
    return {draw.choice(names): odd_json(draw, depth + 1) for _ in range(draw.randrange(5))}


def odd_answer(draw: random.Random) -> bytes:
    """Return the bytes of an answer, mutated in its body, its head, or both."""
    body = json.dumps(odd_json(draw)).encode()
    status = draw.choice([100, 103, 200, 201, 202, 204, 302, 400, 404, 413, 429, 500, 503, 599, 777])
    extra = draw.choice(
        ["", "Retry-After: -5\r\n", "Content-Encoding: gzip\r\n", "Transfer-Encoding: chunked\r\n", "Location: //x\r\n"]
    )
    head = f"HTTP/1.1 {status} OK\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode()
    kind = draw.randrange(4)
    if kind == 0:
        return head + body
    if kind == 1:
        return head + mutate(draw, body)
    if kind == 2:
        return mutate(draw, head) + body
    return mutate(draw, head + body)


@pytest.mark.parametrize("name", ["POST /build", "GET /build_status", "GET /registry_prefix", "GET /build_logs"])
@pytest.mark.parametrize("seed", rest_is_slow(range(8), 2))
def test_49_mutated_answers_end_in_two_lines(command: Command, server: RuntimeApiServer, name: str, seed: int) -> None:
    draw = random.Random(f"{name} {seed}")

    def misbehave(exchange: Exchange) -> None:
        send(odd_answer(draw))(exchange)

    server.always(name, misbehave)
    if name == "GET /build_logs":
        server.statuses[0] = "FAILURE"
    command.use(server, BUILD_TIMEOUT="60")
    for _ in range(2):
        run = command.run("all", "--force", order={"virtual_time": True})
        assert run.code in (0, 2, 4, 5, 6, 7), run.err
        if run.code:
            run.expect(run.code)
    server.builds.clear()  # --force asks for as many as it likes


ENV_WORDS = [
    "TARGET",
    "BASE_IMAGE",
    "CUSTOM_TAGS",
    "RUNTIME_API_KEY",
    "export ",
    "=source\n",
    "=",
    "\n",
    "a",
    "'",
    '"',
    "debian",
    "# x\n",
]


def test_2_mutated_env_files_are_read_or_refused(tmp_path: Path) -> None:
    draw = random.Random(2)
    with deadline(60):
        for _ in range(1500):
            text = mix(draw, ENV_WORDS, 30).encode("utf-8", "surrogatepass")
            (tmp_path / ".env").write_bytes(text)
            refusal = find_refusal(partial(load_settings, {}, {}, tmp_path, {}))
            assert refusal.isprintable(), text
            assert f"RUNTIME_API_KEY={KEY}" not in refusal, text


@pytest.mark.parametrize("seed", rest_is_slow(range(12), 4))
def test_2_mutated_env_file_of_a_run_shows_no_key(command: Command, seed: int) -> None:
    draw = random.Random(seed)
    path = command.checkout / ".env"
    whole = (
        f"TARGET=source\nRUNTIME_API_URL=https://example.invalid\nRUNTIME_API_KEY='{KEY}'\nCUSTOM_TAGS=a,b\n".encode()
    )
    path.write_bytes(mutate(draw, whole).replace(b"TARGET=source", b"TARGET=source", 1))
    command.planted.add(path)
    run = command.run("version")
    assert run.code in (0, 2), run.err


def test_6_mutated_references_and_tags_are_taken_or_refused() -> None:
    draw = random.Random(6)
    words = [
        "a",
        "b1",
        "docker.io",
        "localhost",
        ":5000",
        "/",
        ":",
        "latest",
        "@sha256:",
        "0" * 64,
        "-",
        "_",
        "__",
        ".",
    ]
    allowed = set(string.ascii_letters + string.digits + "._-/:@[]+")
    with deadline(60):
        for _ in range(6000):
            text = mix(draw, words)
            for parse in (parse_reference, check_tag):
                refusal = find_refusal(partial(parse, text))
                assert refusal.isprintable()
                if not refusal:
                    assert str(parse(text)) == text
                    assert set(text) <= allowed


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "a/" * 50_000, "a-" * 50_000, "a." * 50_000, "[" * 50_000, "a:" * 50_000]
)
def test_6_long_reference_is_refused_at_once(text: str) -> None:
    with deadline(5):
        for parse in (parse_reference, check_tag):
            with pytest.raises(SettingError) as caught:
                parse(text)
            assert len(caught.value.message) < 1000


PATHS = ["a", "a/b", "a/b/c.py", "src/[x]", "é/ü", "a" * 200, "x/" * 50 + "y"]


def test_28_mutated_ignore_files_decide_or_are_refused() -> None:
    draw = random.Random(28)
    words = ["a", "b", "*.py", "**/", "/", "!", "x", "\n", "[a-z]", "[!a]", "src", "?"]
    with deadline(120):
        for _ in range(800):
            text = mix(draw, words, 25)
            for parse in (
                partial(parse_dockerignore, text, ".dockerignore"),
                partial(parse_gitignore, text.split("\n"), "EXCLUDE"),
            ):
                refusal = find_refusal(parse)
                assert refusal.isprintable()
                for path in () if refusal else PATHS:
                    parse().excludes(path)


@pytest.mark.parametrize(
    "pattern", ["*a" * 40, "**/" * 40 + "x", "a*" * 60 + "b", "[a-z]*" * 30, "**a" * 30, "?*" * 40]
)
def test_28_pattern_that_could_backtrack_is_decided_in_time(command: Command, pattern: str) -> None:
    (command.checkout / ".dockerignore").write_text(pattern + "\n")
    deep = command.checkout / INSIDE / "/".join(["a" * 40] * 5)
    deep.mkdir(parents=True)
    (deep / ("a" * 200)).write_text("x")
    run = command.run("version")
    assert run.code in (0, 2), run.err


@pytest.mark.parametrize("pattern", ["*a" * 40, "a*" * 60 + "b", "[a-z]*" * 30, "?*" * 40, "**/a*/" * 20 + "b"])
def test_28_pattern_of_gits_that_could_backtrack_is_decided_in_time(command: Command, pattern: str) -> None:
    (command.checkout / ".gitignore").write_text(pattern + "\n")
    deep = command.checkout / INSIDE / "/".join(["a" * 40] * 5)
    deep.mkdir(parents=True)
    (deep / ("a" * 200)).write_text("x")
    command.run("version").expect(0)


def test_28_pattern_that_ends_in_time_matches_what_docker_matches() -> None:
    draw = random.Random(31)
    words = ["a", "b", "/", "*", "**/", "*", "?", "/**/", "[ab]", "[^a]"]
    for _ in range(3000):
        pattern = "".join(draw.choices(words, k=draw.randrange(3, 12)))
        with contextlib.suppress(SettingError):
            rules, plain = parse_dockerignore(pattern, ".dockerignore"), PatternMatcher([pattern])
            for _ in range(8):
                path = re.sub("/+", "/", "".join(draw.choices("aab/", k=draw.randrange(1, 12)))).strip("/")
                assert rules.excludes(path) == plain.matches(path), (pattern, path)


@pytest.mark.parametrize("seed", rest_is_slow(range(6), 2))
def test_24_random_file_names_are_packed_or_refused(command: Command, seed: int) -> None:
    draw = random.Random(seed)
    folder = os.fsencode(command.checkout / INSIDE)
    for _ in range(60):
        length = draw.choice([1, 3, 20, 99, 101, 255])
        low = 1 if seed % 2 else 32
        name = bytes(draw.randrange(low, 256) for _ in range(length)).replace(b"/", b"_")
        if name not in (b".", b".."):
            with open(folder + b"/" + name, "wb") as file:
                file.write(name)
    run = command.run("all")
    assert run.code in (0, 3), run.err
    run.expect(run.code)
    command.run("context", "--files")
