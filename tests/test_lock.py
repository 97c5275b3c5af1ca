"""The lock, held by real processes."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from buildkit.lock import hold_lock

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from buildkit.lock import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold_elsewhere(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_while_the_first_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold_elsewhere(path) as holder:
        with pytest.raises(BlockingIOError), hold_lock(path):
            pytest.fail("two hold it")
        assert path.exists()
        holder.communicate()
    with hold_lock(path):
        assert path.exists()
    assert not path.exists()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold_elsewhere(path) as holder:
        holder.kill()
    assert path.exists()
    with hold_lock(path):
        pass
    assert not path.exists()


def test_a_link_or_a_folder_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    for name in ("folder", "link"):
        with pytest.raises(OSError, match=name), hold_lock(tmp_path / name):
            pytest.fail(name)
    assert not (tmp_path / "elsewhere").exists()
