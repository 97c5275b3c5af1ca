"""Rows 66, 68, 72, 79 and 80: trees that change under the packer, and what in them could run."""

from __future__ import annotations

import mmap
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.checkouts import commit_all
from tests.faults.conftest import MEMORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.commands import Command

pytestmark = pytest.mark.fault

SDK = "openhands-sdk/openhands/sdk"
NOBODY = 65534


@contextmanager
def swapping(folder: Path, outside: Path) -> Iterator[None]:
    """Let a folder be a link to another one, every now and then."""
    stop, aside = threading.Event(), folder.with_name("aside")

    def swap() -> None:
        while not stop.is_set():
            folder.rename(aside)
            folder.symlink_to(outside)
            stop.wait(0.0005)
            folder.unlink()
            aside.rename(folder)
            stop.wait(0.0005)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def read_archive(path: Path) -> bytes:
    with tarfile.open(path) as archive:
        return b"".join(found.read() for member in archive if (found := archive.extractfile(member)))


@pytest.mark.parametrize("races", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_66_folder_that_becomes_a_link_lets_no_outside_bytes_in(command: Command, races: int) -> None:
    folder, outside = command.checkout / SDK / "swapped", command.world / "outside"
    for place, content in ((folder, "inside"), (outside, "OUTSIDE")):
        place.mkdir()
        for number in range(20):
            (place / f"{number:02}.txt").write_text(content)
    commit_all(command.checkout)
    command.run("all").succeed()
    packed = 0
    for _ in range(races):
        with swapping(folder, outside):
            ended = command.run("all", changing=("src/",))
        assert ended.code in {0, 3}, ended.err
        if ended.code == 0:
            packed += 1
            assert b"OUTSIDE" not in read_archive(command.checkout / ended.result)
    assert packed < races, "no race was won"


TRAPS = """
[core]
    fsmonitor = <fsmonitor>
    pager = <pager>
    alternateRefsCommand = <references>
[filter "evil"]
    clean = <clean>
    process = <process>
    smudge = <smudge>
    required = true
[diff]
    external = <external>
[diff "evil"]
    textconv = <textconv>
[alias]
    ls-files = <!alias>
    log = <!alias>
[log]
    showSignature = true
[gpg]
    program = <gpg>
"""


def arm(repository: Path, marks: Path) -> None:
    """Let everything that git could start for this repository leave a file in `marks`."""
    hooks = repository / ".git" / "traps"
    hooks.mkdir()
    for hook in ("post-index-change", "reference-transaction", "post-checkout", "pre-auto-gc"):
        (hooks / hook).write_text(f"#!/bin/sh\ntouch {marks / hook}\n")
        (hooks / hook).chmod(0o755)
    traps = re.sub(r"<(!?)([\w-]+)>", rf'"\1touch {marks}/\2 && cat"', TRAPS)
    with (repository / ".git" / "config").open("a") as config:
        config.write(f"{traps}[core]\n    hooksPath = {hooks}\n")


def test_68_nothing_of_the_tree_runs(command: Command) -> None:
    marks, nested = command.world / "marks", command.checkout / SDK / "nested"
    marks.mkdir()
    nested.mkdir()
    (command.checkout / ".gitattributes").write_text("* filter=evil diff=evil\n")
    commit_all(command.checkout)
    (nested / "module.py").touch()
    commit_all(nested)
    for repository in (command.checkout, nested):
        arm(repository, marks)
    (command.checkout / "README.md").write_text("edited")
    for path in (command.checkout / SDK).rglob("*.py"):
        os.utime(path)
    for arguments in ("all", "all", "version", "context --files", "context --explain README.md", "doctor"):
        command.run(*arguments.split()).succeed()
    command.run("all", ALLOW_DIRTY="false").fail(3)
    assert os.listdir(marks) == []
    subprocess.run(["git", "-C", command.checkout, "diff"], capture_output=True, check=False, timeout=20)
    assert os.listdir(marks), "the traps work"


@pytest.mark.skipif(MEMORY is None, reason="needs a file system in memory, which does not update mtime")
def test_72_cache_is_not_trusted_where_times_prove_nothing(command: Command) -> None:
    path = command.checkout / SDK / "mapped.bin"
    path.write_bytes(bytes(100_000))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    commit_all(command.checkout)
    command.run("all").succeed()
    first = command.read_state("context")["context_sha256"]
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[50_000] = 1  # which no time of the file tells
    command.run("version").succeed()
    command.run("dockerfile").succeed()
    command.run("context").succeed()
    assert command.read_state("context")["context_sha256"] != first


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("in_git", [True, False])
def test_79_excluding_what_cannot_be_read_works(command: Command, in_git: bool) -> None:
    closed = command.checkout / SDK / "closed"
    closed.mkdir()
    (closed / "file").touch()
    if not in_git:
        shutil.rmtree(command.checkout / ".git")
    for path in (command.world, *command.world.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    closed.chmod(0)
    try:
        ended = command.run("all", order={"uid": NOBODY}).fail(3, "closed", "EXCLUDE")
        (setting,) = re.findall(r"EXCLUDE=(\S+)", ended.err)
        command.run("all", order={"uid": NOBODY}, EXCLUDE=shlex.split(setting)[0].strip("`")).succeed()
    finally:
        closed.chmod(0o755)


@pytest.mark.parametrize("outside", ["/etc/passwd", "../../../../../precious", "{world}/precious"])
def test_80_link_that_leads_outside_is_refused_with_and_without_the_cache(command: Command, outside: str) -> None:
    (command.world / "precious").write_text("precious")
    link = command.checkout / SDK / "link.py"
    link.symlink_to("__init__.py")
    commit_all(command.checkout)
    command.run("all").succeed()
    link.unlink()
    link.symlink_to(outside.format(world=command.world))
    errors = set()
    for is_cached in (True, False):
        if not is_cached:
            (command.output / ".context-cache").unlink()
        ended = command.run("context").fail(3, f"{SDK}/link.py")
        errors.add(tuple(ended.err.splitlines()[-2:]))
    assert len(errors) == 1
