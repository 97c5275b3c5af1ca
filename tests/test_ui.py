"""What goes to which stream, and that a stream which cannot take it changes nothing."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from buildkit.models import Finding
from buildkit.secret import ApiKey
from buildkit.ui import Ui

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "a-key-of-some-length"
USE = f"""
from buildkit.ui import Ui
from buildkit.secret import ApiKey
ui = Ui(key=ApiKey({KEY!r}))
"""


def run(code: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Return a process that used a ui and ended; pytest's own streams are none that can be closed or full."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **options.pop("environment", {})}
    return subprocess.run([sys.executable, "-c", USE + code], env=environment, check=False, **options)


@pytest.fixture
def full() -> Iterator[int]:
    """A descriptor to which nothing can be written."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


def test_results_go_to_stdout_and_the_story_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    ui = Ui()
    ui.report("packed")
    ui.warn("dirty")
    ui.show("result")
    out, err = capsys.readouterr()
    assert out == "result\n"
    assert err == "[runtime-build] packed\n[runtime-build] warning: dirty\n"


def test_no_result_is_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    Ui().show("")
    assert capsys.readouterr().out == ""


def test_error_is_two_lines_and_with_json_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    Ui().fail("it\nfailed", "look", 6, as_json=False)
    assert capsys.readouterr() == ("", "error: it\\nfailed\nfix:   look\n")
    Ui().fail("it failed", "look", 6, as_json=True)
    out, _ = capsys.readouterr()
    assert json.loads(out) == {"schema": 1, "error": "it failed", "fix": "look", "exit_code": 6}


def test_control_characters_are_escaped_in_everything(capsys: pytest.CaptureFixture[str]) -> None:
    ui = Ui()
    ui.report("a\x1b[2Jb\nc")
    ui.show("one\ntwo\x07")
    out, err = capsys.readouterr()
    assert err == "[runtime-build] a\\x1b[2Jb\\nc\n"
    assert out == "one\ntwo\\x07\n"


def test_key_is_masked_in_everything(capsys: pytest.CaptureFixture[str]) -> None:
    ui = Ui(key=ApiKey(KEY))
    ui.report(f"the server said {KEY}")
    ui.show(f"image {KEY}")
    ui.fail(f"bad {KEY}", "x", 6, as_json=True)
    out, err = capsys.readouterr()
    assert KEY not in out + err
    assert "the server said ***" in err


def test_findings_are_a_table_with_the_fixes_of_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    Ui().show_findings(
        [Finding("git", ok=True, detail="fine"), Finding("source", ok=False, detail="gone", fix="get it")]
    )
    assert capsys.readouterr().err.splitlines() == [
        "[runtime-build] ok    git     fine",
        "[runtime-build] FAIL  source  gone",
        "[runtime-build]               fix: get it",
    ]
    Ui().show_findings([])


def test_outputs_hold_any_value_and_can_be_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "outputs"
    path.write_text("before=1\n")
    Ui(github_output=str(path)).publish(image="a\nb<<c", tags="", build_id=None)
    lines = path.read_text().splitlines()
    name, _, mark = lines[1].partition("<<")
    assert (lines[0], name, lines[2:4], lines[4], len(lines)) == ("before=1", "image", ["a", "b<<c"], mark, 5)


def test_outputs_hold_names_that_are_not_utf_8(tmp_path: Path) -> None:
    Ui(github_output=str(tmp_path / "outputs")).publish(archive="\udcff.tar.gz")
    assert b"\n\xff.tar.gz\n" in (tmp_path / "outputs").read_bytes()


def test_outputs_that_cannot_be_written_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Ui(github_output=str(tmp_path)).publish(image="x")
    assert "warning: GITHUB_OUTPUT cannot be written" in capsys.readouterr().err


def test_full_streams_change_nothing(full: int) -> None:
    code = "ui.report('x'); ui.show('y' * 100_000); ui.fail('a', 'b', 6, as_json=True)"
    assert run(code, stdout=full, stderr=full).returncode == 0


@pytest.mark.parametrize("number", [1, 2])
def test_closed_stream_changes_nothing_for_the_other(number: int) -> None:
    code = f"import os; os.close({number}); ui.report('told'); ui.show('shown'); ui.show('again')"
    done = run(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0
    assert (done.stdout, done.stderr) == ((b"", b"[runtime-build] told\n"), (b"shown\nagain\n", b""))[number - 1]


def test_reader_that_went_away_leaves_no_trace() -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("ui.show('x' * 1_000_000); ui.report('end')", stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"[runtime-build] end\n")


def test_what_the_encoding_lacks_is_escaped() -> None:
    done = run("ui.show('✅ ü')", stdout=subprocess.PIPE, environment={"PYTHONIOENCODING": "ascii"})
    assert done.stdout == b"\\u2705 \\xfc\n"


def test_short_progress_says_nothing_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with Ui().progress("packing") as progress:
        progress(1, 2)
        progress(2, 0)
    assert capsys.readouterr().err == ""


def run_on_terminal(code: str) -> tuple[subprocess.CompletedProcess[bytes], str]:
    """Return a process whose stderr was a terminal, and what it drew there."""
    ours, theirs = os.openpty()
    done = run(code, stderr=theirs, environment={"TERM": "xterm", "COLUMNS": "120"})
    os.close(theirs)
    drawn = io.BytesIO()
    try:
        while piece := os.read(ours, 65536):
            drawn.write(piece)
    except OSError:  # how a terminal tells that its other end is closed
        pass
    os.close(ours)
    return done, drawn.getvalue().decode()


def test_progress_on_a_terminal_is_drawn_and_taken_away() -> None:
    code = "with ui.progress('packing [bold]') as progress: progress(1_000_000, 2_000_000)"
    done, drawn = run_on_terminal(code)
    assert done.returncode == 0
    assert "packing [bold]" in drawn
    assert drawn.endswith("\x1b[2K")


def test_a_live_line_on_a_terminal_has_words_for_what_its_colours_say_and_is_taken_away() -> None:
    code = """
with ui.live("build b-[1]") as show:
    show("QUEUED", "number 3 in the queue")
    time.sleep(0.3)
    ui.report("Build status: RUNNING")
    show("RUNNING", "[7/9] RUN uv sync")
    time.sleep(0.3)
"""
    done, drawn = run_on_terminal("import time\n" + code)
    assert done.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    for words in ("build b-[1] QUEUED number 3 in the queue", "build b-[1] RUNNING [7/9] RUN uv sync"):
        assert words in text
    assert "[runtime-build] Build status: RUNNING" in text
    assert drawn.endswith("\x1b[2K")


def test_a_live_line_is_nothing_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with Ui().live("build b") as show:
        show("RUNNING", "step")
    assert capsys.readouterr().err == ""


def test_on_github_warnings_and_errors_are_annotations(capsys: pytest.CaptureFixture[str]) -> None:
    ui = Ui(annotates=True)
    ui.warn("100% of it\n::error::is odd")
    ui.fail("it broke", "mend it", 3, as_json=False)
    assert capsys.readouterr().err.splitlines() == [
        r"::warning title=runtime-build::100%25 of it\n::error::is odd",
        "::error title=runtime-build::it broke%0Amend it",
        "error: it broke",
        "fix:   mend it",
    ]
