"""Same commit, same tar: whoever packs it, wherever it lies, whenever it was checked out, whatever Python packs it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.checkouts import run_git
from tests.commands import PACKAGE_ROOT, Command
from tests.pythons import find_other_pythons
from tests.sweeps import rest_is_slow

THIS = (sys.executable, "-m", "buildkit")
NOBODY = 65534
# Everything is imported while the interpreter can still be read; the checkout is packed by somebody else.
AS_NOBODY = f"""
import codecs, importlib, os, pkgutil, sys
import buildkit
for found in pkgutil.walk_packages(buildkit.__path__, "buildkit."):
    importlib.import_module(found.name)
import dotenv, isal.isal_zlib, packaging.specifiers
codecs.lookup("unicode_escape")
os.setgid({NOBODY})
os.setuid({NOBODY})
sys.argv[0] = "runtime-build"
importlib.import_module("buildkit.__main__").main()
"""


class Packed(NamedTuple):
    """What a run of `all` left."""

    archive: bytes
    record: dict[str, Any]


def pack(checkout: Path, *arguments: str, program: tuple[str, ...] = THIS, **environment: str) -> Packed:
    command = Command(checkout, {"TARGET": "source-minimal", **environment}, program)
    command.run("all", *arguments).succeed()
    record = command.read_state("context")
    return Packed((command.output / record["archive"]).read_bytes(), record)


def clone(repository: Path, target: Path, umask: int) -> Path:
    """Check out again, under another umask and with other times on everything."""
    target.parent.mkdir(parents=True)
    subprocess.run(["git", "clone", "-q", f"file://{repository}", str(target)], check=True, umask=umask)
    chance = random.Random(umask)
    for path in target.rglob("*"):
        if ".git" not in path.relative_to(target).parts:
            moment = chance.randrange(1, 2_000_000_000)
            os.utime(path, (moment, moment), follow_symlinks=False)
    return target


@pytest.fixture
def packed(git_repo: Path) -> Packed:
    """The checkout, packed as everybody does."""
    return pack(git_repo)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_checkouts_at_other_paths_and_times_and_umasks_give_the_same_bytes(
    git_repo: Path, packed: Packed, tmp_path: Path, umask: int
) -> None:
    other = clone(git_repo, tmp_path / f"an other påth {umask}" / "x", umask)
    assert pack(other) == packed


ENVIRONMENTS = [
    {
        "TZ": "Pacific/Kiritimati",
        "PYTHONHASHSEED": "1",
        "COLUMNS": "20",
        "LANG": "tr_TR.UTF-8",
        "LC_ALL": "tr_TR.UTF-8",
    },
    {"PYTHONUTF8": "0", "LANG": "POSIX", "PYTHONIOENCODING": "ascii"},
    {"LANG": "C", "LC_ALL": "C"},
    {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"},
    {"TZ": "Pacific/Kiritimati"},
    {"PYTHONHASHSEED": "1", "COLUMNS": "20"},
]


@pytest.mark.parametrize("environment", rest_is_slow(ENVIRONMENTS, 2))
def test_locale_time_zone_and_hash_seed_change_nothing(git_repo: Path, packed: Packed, environment: Any) -> None:
    assert pack(git_repo, "--no-clean-output", **environment) == packed
    shutil.rmtree(git_repo / "runtime-build")
    assert pack(git_repo, **environment) == packed


def test_second_run_over_its_own_output_is_the_same(git_repo: Path, packed: Packed) -> None:
    assert pack(git_repo) == packed
    assert pack(git_repo, "--output-dir", "runtime-build") == packed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_packs_the_same_bytes(git_repo: Path, packed: Packed) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        other = clone(git_repo, Path(folder) / "home" / "src", 0o022)
        for path in (other.parent, other, *other.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        assert pack(other, program=(sys.executable, "-c", AS_NOBODY), PYTHONDONTWRITEBYTECODE="1") == packed
        assert (other / "runtime-build" / "context.json").stat().st_uid == NOBODY


def test_without_the_compressor_the_tar_is_the_same(git_repo: Path, packed: Packed, tmp_path: Path) -> None:
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "isal.py").write_text("raise ImportError")
    path = f"{tmp_path / 'absent'}:{PACKAGE_ROOT}"
    record = pack(git_repo, PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1").record
    assert record["compressor"]["name"] == "zlib"
    assert packed.record["compressor"]["name"] == "isal"
    assert record["context_sha256"] == packed.record["context_sha256"]


@pytest.mark.skipif(not find_other_pythons(), reason="this machine has no other Python from 3.11 on")
def test_other_pythons_give_the_same_tar(git_repo: Path, packed: Packed) -> None:
    # What they lack of compiled modules has a way round: zlib for isal, plain Python for the rest.
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    path = ":".join([str(PACKAGE_ROOT), *libraries])
    for python in find_other_pythons():
        program = (python, "-m", "buildkit")
        record = pack(git_repo, program=program, PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1").record
        assert record["context_sha256"] == packed.record["context_sha256"], python


def test_time_that_is_set_is_the_only_one(git_repo: Path, packed: Packed, tmp_path: Path) -> None:
    first = pack(git_repo, SOURCE_DATE_EPOCH="1000000000")
    other = clone(git_repo, tmp_path / "other" / "src", 0o077)
    assert pack(other, SOURCE_DATE_EPOCH="1000000000") == first
    assert first.record["context_sha256"] != packed.record["context_sha256"]


def test_trees_outside_git_are_the_same_whenever_they_were_unpacked(source_tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "unpacked" / "later"
    shutil.copytree(source_tree, other)
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
    assert pack(source_tree) == pack(other)


def test_state_holds_no_place_and_no_clock(git_repo: Path, packed: Packed, tmp_path: Path) -> None:
    for step in ("version", "dockerfile", "context"):
        text = (git_repo / "runtime-build" / f"{step}.json").read_text()
        assert str(tmp_path) not in text
        assert json.loads(text)["schema"] == 1
    other = clone(git_repo, tmp_path / "other" / "src", 0o022)
    pack(other)
    for step in ("version", "dockerfile", "context"):
        here, there = (folder / "runtime-build" / f"{step}.json" for folder in (git_repo, other))
        assert here.read_bytes() == there.read_bytes()


def test_commit_is_what_makes_it_another(git_repo: Path, packed: Packed) -> None:
    run_git(git_repo, "commit", "-q", "--allow-empty", "-m", "nothing changed but the commit")
    assert pack(git_repo).record["archive"] != packed.record["archive"]
