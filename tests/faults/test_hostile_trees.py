"""Rows 63 to 80 through the real command: trees that lead elsewhere, hang, or bring secrets and programs."""

from __future__ import annotations

import base64
import os
import tarfile
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.checkouts import commit_all, run_git

if TYPE_CHECKING:
    from tests.commands import Command

pytestmark = pytest.mark.fault

SDK = "openhands-sdk/openhands/sdk"
KEY = "schl\u00fcssel-0123456789"
API: dict[str, Any] = {"RUNTIME_API_URL": "https://builds.example.com", "RUNTIME_API_KEY": KEY}


def pack(command: Command, **settings: Any) -> None:
    for task in ("version", "dockerfile"):
        command.run(task, TARGET="source", **settings).succeed()


@pytest.mark.parametrize(
    "form",
    [
        KEY.encode(),
        KEY.encode("utf-16-le"),
        KEY.encode("utf-16-be"),
        *(base64.b64encode(before + KEY.encode() + b"\n") for before in (b"", b"u", b"us")),
        KEY.encode().hex().encode(),
        b"schl%C3%BCssel-0123456789",
        b"schl\\u00fcssel-0123456789",
    ],
)
def test_63_the_key_is_found_in_every_form(command: Command, form: bytes) -> None:
    (command.checkout / SDK / "settings.dat").write_bytes(b"first\n" + form + b"\n")
    commit_all(command.checkout)
    pack(command, **API)
    ended = command.run("context", **API).fail(3, "RUNTIME_API_KEY is in", f"{SDK}/settings.dat, line 2")
    assert KEY not in ended.err + ended.out


def test_65_secrets_stay_out_and_private_keys_are_a_warning(command: Command) -> None:
    secret, harmless = ("A.P8", "id_rsa.bak", "prod.env", ".npmrc", "x.tfstate"), (".npmrc.example", "id_rsa.pub")
    for name in (*secret, *harmless):
        (command.checkout / SDK / name).write_text("x")
    (command.checkout / SDK / "fixture.py").write_text('KEY = """\n-----BEGIN EC PRIVATE KEY-----\n"""\n')
    run_git(command.checkout, "add", "-f", ".")
    commit_all(command.checkout)
    pack(command)
    for _ in range(2):  # packed, then from the cache
        ended = command.run("context").succeed()
        assert f"a private key is packed: {SDK}/fixture.py, line 2" in ended.err
    with tarfile.open(command.checkout / ended.result) as archive:
        names = {os.path.basename(name) for name in archive.getnames()}
    assert not names & set(secret)
    assert names >= set(harmless)
    command.run("context", "--explain", f"{SDK}/prod.env").succeed()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (".gitignore", "hangs"),
        (".git/info/exclude", "hangs"),
        (".gitattributes", ".gitattributes is not a file"),
        (f"{SDK}/.gitattributes", f"{SDK}/.gitattributes is not a file"),
    ],
)
def test_69_a_fifo_ends_the_command_in_time(command: Command, place: str, message: str) -> None:
    (command.checkout / place).unlink(missing_ok=True)
    os.mkfifo(command.checkout / place)
    started = time.monotonic()
    command.run("version").fail(3, message)
    assert time.monotonic() - started < 10


def test_70_numbers_that_are_too_long_name_the_file(command: Command) -> None:
    with (command.checkout / "pyproject.toml").open("a") as file:
        file.write("\n[tool.x]\ny = " + "9" * 5000 + "\n")
    command.run("version").fail(3, "pyproject.toml cannot be read")


def test_73_a_missing_commit_is_an_error_and_never_unknown(command: Command) -> None:
    sha = run_git(command.checkout, "rev-parse", "HEAD")
    assert sha[:7] in command.run("version", GIT_OBJECT_DIRECTORY="/nowhere").succeed().out
    (command.checkout / ".git" / "objects" / sha[:2] / sha[2:]).unlink()
    command.run("version").fail(3, "git log failed")


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_73_a_flagged_file_is_compared_all_the_same(command: Command, flag: str) -> None:
    run_git(command.checkout, "update-index", flag, "README.md")
    (command.checkout / "README.md").write_text("edited")
    command.run("version", ALLOW_DIRTY="false").fail(3, "1 file differs from the commit: README.md")


def test_74_a_clone_with_other_line_endings_says_so(command: Command) -> None:
    run_git(command.checkout, "clone", "-q", "-c", "core.autocrlf=true", ".", str(command.checkout.parent / "clone"))
    arguments = ("--source-dir", str(command.checkout.parent / "clone"))
    command.run("version", *arguments, ALLOW_DIRTY="false").fail(3, "line endings: see core.autocrlf")
