"""What a terminal shows, whatever it is: narrow, without colours, without Unicode, or read aloud line by line."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    from tests.commands import Command

ROOT = Path(__file__).parent.parent
# What a wait and an upload draw, long enough for a frame of each.
DRAW = """
import time
from buildkit.ui import Ui
ui = Ui()
ui.report("\\u2705 done \\xfc")
with ui.live("[runtime-build]") as show:
    show("RUNNING", "step 12 of 40: RUN apt-get install a-package-with-quite-a-long-name")
    time.sleep(0.3)
    show("FAILURE", "")
    time.sleep(0.3)
with ui.progress("uploading") as progress:
    progress(1_000_000, 20_000_000)
    time.sleep(0.3)
ui.fail("it failed", "look", 6, as_json=False)
"""
COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m")
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_on_terminal(columns: int, command: list[str], folder: Path, **environment: str) -> bytes:
    """Return all that a command writes to a terminal of that width."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    own = kept | environment
    with subprocess.Popen(command, cwd=folder, env=own, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        written = bytearray()
        try:
            while piece := os.read(ours, 65536):
                written += piece
        except OSError:  # the other end is closed
            pass
        os.close(ours)
    assert process.returncode is not None
    return bytes(written)


def draw(folder: Path, columns: int = 100, **environment: str) -> str:
    written = run_on_terminal(columns, [sys.executable, "-c", DRAW], folder, **environment)
    return written.decode("cp1252" if "PYTHONIOENCODING" in environment else "utf-8")


def list_frames(text: str) -> list[str]:
    """Return what was on a line at any time, without sequences."""
    return [SEQUENCE.sub("", frame).strip() for frame in re.split(r"[\r\n]+", text)]


def test_a_terminal_draws_in_colour_and_in_words(tmp_path: Path) -> None:
    text = draw(tmp_path)
    frames = list_frames(text)
    assert COLOUR.search(text)
    for word in ("RUNNING step 12 of 40", "FAILURE", "uploading"):
        assert any(word in frame for frame in frames), word
    assert frames[-3:] == ["error: it failed", "fix:   look", ""]


def test_without_colours_all_words_are_there(tmp_path: Path) -> None:
    text = draw(tmp_path, NO_COLOR="1")
    assert not COLOUR.search(text)
    assert "RUNNING" in text
    assert "FAILURE" in text


def test_on_forty_columns_a_drawn_line_stays_one_line(tmp_path: Path) -> None:
    text = draw(tmp_path, 40)
    assert "\x1b[2K\x1b[1A" not in text, "a frame of two lines would have to go back up"
    assert max(map(len, list_frames(text))) <= 40
    assert any("0:00:00 [runtime-build] RUNNING" in frame for frame in list_frames(text))


def test_a_dumb_terminal_gets_lines_and_no_sequences(tmp_path: Path) -> None:
    assert draw(tmp_path, TERM="dumb").splitlines() == [
        "[runtime-build] \u2705 done \xfc",
        "error: it failed",
        "fix:   look",
    ]


@pytest.mark.parametrize(("encoding", "shown"), [("cp1252", "\xfc"), ("ascii", "\\xfc")])
def test_what_the_encoding_lacks_is_escaped_and_nothing_is_drawn_with_it(
    tmp_path: Path, encoding: str, shown: str
) -> None:
    text = draw(tmp_path, PYTHONIOENCODING=encoding)
    assert f"\\u2705 done {shown}" in text
    assert text.count("\\u") == 1
    assert "RUNNING" in text


@pytest.mark.parametrize(
    "environment", rest_is_slow([{"NO_COLOR": "1"}, {}, {"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}], 1)
)
@pytest.mark.parametrize("arguments", ["all", "doctor", "context --files", "context --diff", "--help all", "--list"])
def test_the_command_works_on_a_narrow_terminal(
    command: Command, tmp_path: Path, environment: dict[str, str], arguments: str
) -> None:
    command.run("all").succeed()
    program = [sys.executable, "-m", "buildkit", *arguments.split()]
    text = run_on_terminal(40, program, command.checkout, TARGET="source-minimal", **environment).decode("latin-1")
    assert text
    assert "Traceback" not in text
    assert "internal error" not in text
    if environment.keys() & {"NO_COLOR", "TERM"}:
        assert not COLOUR.search(text)
