"""Logs that grow, are read from any offset, and are cut if they are too long."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from buildkit.secret import ApiKey
from buildkit.server.logs import HEAD_BYTES, TAIL_BYTES, Logs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path / "logs")


def test_a_log_grows_and_is_read_from_an_offset(logs: Logs, tmp_path: Path) -> None:
    assert (logs.size("b1"), logs.read("b1", 0, 10)) == (0, b"")
    log = logs.open("b1")
    log.write("ü one")
    assert logs.read("b1", 0, 100) == "ü one\n".encode()
    log.write("two\n")
    log.close()
    log.close()
    log = logs.open("b1")
    log.write("queued again \udcff")
    log.close()
    assert logs.read("b1", 7, 100) == b"two\nqueued again ?\n"
    assert logs.read("b1", 7, 3) == b"two"
    assert logs.read("b1", 999, 3) == b""
    assert stat.S_IMODE((tmp_path / "logs" / "b1.log").stat().st_mode) == 0o600
    logs.delete("b1")
    logs.delete("b1")
    assert logs.size("b1") == 0


def test_head_and_tail_of_a_long_log_are_kept(logs: Logs) -> None:
    log = logs.open("b1")
    count = (HEAD_BYTES + 3 * TAIL_BYTES) // 100
    for number in range(count):
        log.write(f"{number:099}")
    before = logs.read("b1", 0, HEAD_BYTES * 2)
    log.close()
    after = logs.read("b1", 0, HEAD_BYTES * 2)
    assert after.startswith(before)  # an offset stays valid
    head, tail = after[: len(before)].splitlines(), after[len(before) :].splitlines()
    assert head[-1] == b"%099d" % (len(head) - 1)
    lost = count - len(head) - len(tail) + 1
    assert tail[0] == b"[%d lines (%d bytes) are left out: the log is too long]" % (lost, 100 * lost)
    assert tail[-1] == b"%099d" % (count - 1)
    assert len(after) < HEAD_BYTES + TAIL_BYTES + 200


def test_a_line_without_end_is_cut(logs: Logs) -> None:
    log = logs.open("b1")
    log.write("x" * 10_000_000)
    log.close()
    assert logs.size("b1") < 100_000
    assert logs.read("b1", 0, 100_000).endswith(b"x [the rest of this line is left out]\n")


def test_secrets_are_masked(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "logs", ApiKey("very-secret-key").scrub)
    log = logs.open("b1")
    log.write("the key is very-secret-key.")
    log.close()
    assert logs.read("b1", 0, 100) == b"the key is ***.\n"


@pytest.mark.parametrize("build_id", ["../x", "/etc/passwd", "a/b"])
def test_a_build_id_leads_nowhere_else(logs: Logs, build_id: str) -> None:
    with pytest.raises(OSError, match=r".+"):
        logs.read(build_id, 0, 10)
