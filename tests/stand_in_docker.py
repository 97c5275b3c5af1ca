"""A small program in the place of docker: it keeps what it built as files, and does what the Dockerfile asks for.

`RUN sleep N` takes that long, `RUN fail` fails, and `RUN lose` fails because the engine has gone away. `RUN on BASE …`
does so only for that base image. Its folder is `STAND_IN_DOCKER`; while a file `down` is in it, no engine responds.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import signal
import sys
import tarfile
import time
from pathlib import Path

FOLDER = Path(os.environ["STAND_IN_DOCKER"])
GONE = "Cannot connect to the Docker daemon at unix:///nowhere. Is the docker daemon running?"


def main(arguments: list[str]) -> int:
    return fail(GONE) if (FOLDER / "down").exists() else execute(arguments)


def execute(arguments: list[str]) -> int:  # noqa: PLR0911 - one case for each command
    match arguments:
        case ["version", *_]:
            say(json.dumps({"Client": {"Version": "20.10.24"}, "Server": {"Version": "20.10.24"}}))
            return 0
        case ["build", *options]:
            return build(options)
        case ["image", "inspect", "--format={{json .RepoDigests}}", image]:
            say(json.dumps([f"{image.rpartition(':')[0]}@sha256:{'0' * 64}"]))
            return 0
        case ["image", "inspect", image]:
            return inspect(image)
        case ["images", _]:
            for path in sorted(FOLDER.glob("name-*")):
                say(path.read_text())
            return 0
        case ["info", *_]:
            say(str(FOLDER))
            return 0
        case ["run", *_, image, "-c", _]:
            known = json.loads((FOLDER / "libraries").read_text())
            (FOLDER / "examined").open("a").write(f"{image}\n")
            say(f"libc: {known[image]}\npython: Python 3.12.1")
            return 0
        case ["push", image]:
            (FOLDER / "pushed").open("a").write(f"{image}\n")
            return 0
    return fail(f"unknown command: {arguments}")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def build(options: list[str]) -> int:
    given = [option.partition("=")[::2] for option in options]
    receipt = Path(next(value for name, value in given if name == "--iidfile"))
    lock = store(next(value for name, value in given if name == "--tag")).with_suffix(".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        (FOLDER / "built-twice-at-once").open("a").write(f"{options}\n")
    with gzip.open(sys.stdin.buffer) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as tar:
        files = {m.name.removeprefix("./"): (f.read() if (f := tar.extractfile(m)) else b"") for m in tar}
    lines = files["Dockerfile"].decode().splitlines()
    base = next((value.removeprefix("BASE_IMAGE=") for name, value in given if name == "--build-arg"), "")
    with (FOLDER / "begun").open("a") as begun:
        begun.write(f"{base}\n")
    for number, line in enumerate(lines, 1):
        say(f"#{number} [{number}/{len(lines)}] {line}")
        code = run(number, line, base)
        if code:
            return code
    image_id = "sha256:" + hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
    for name, value in given:
        if name == "--tag":
            record = {"Id": image_id, "Created": "2026-01-01T00:00:00Z", "Size": sum(map(len, files.values()))}
            store(value).write_text(json.dumps([record]))
            (FOLDER / f"name-{store(value).name}").write_text(value)
    with (FOLDER / "built").open("a") as built:
        built.write(f"{image_id}\n")
    receipt.write_text(image_id)
    return 0


def run(number: int, line: str, base: str = "") -> int:
    match line.split():
        case ["RUN", "on", wanted, *words]:
            return run(number, " ".join(["RUN", *words])) if base.endswith(wanted) else 0
        case ["RUN", "limit"] if not (FOLDER / "limited").exists():
            (FOLDER / "limited").touch()
            return fail("ERROR: failed to solve: toomanyrequests: rate exceeded")
        case ["RUN", "refuse", *words]:
            return fail("ERROR: " + " ".join(words))
        case ["RUN", "sleep", seconds]:
            time.sleep(float(seconds))
        case ["RUN", "fail"]:
            say(f"#{number} it does not work\n#{number} ERROR: process did not complete: exit code: 1")
            return 1
        case ["RUN", "lose"] if not (FOLDER / "lost").exists():
            (FOLDER / "lost").touch()
            return fail("ERROR: failed to receive status: rpc error: code = Unavailable desc = error reading: EOF")
        case ["RUN", "print", count]:
            for row in range(int(count)):
                say(f"#{number} row {row}")
    return 0


def inspect(image: str) -> int:
    if not store(image).exists():
        return fail(f"Error: No such image: {image}")
    say(store(image).read_text())
    return 0


def store(image: str) -> Path:
    name = image if ":" in image.rpartition("/")[2] else f"{image}:latest"
    return FOLDER / f"image-{hashlib.sha256(name.encode()).hexdigest()}"


def fail(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(130))
    sys.exit(main(sys.argv[1:]))
