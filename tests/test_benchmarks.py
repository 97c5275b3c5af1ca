"""The benchmarks work: a tiny run of everything, of which nothing but its shape is asserted."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from benchmarks import sending
from benchmarks.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_smoke_run_prints_a_table_and_draws_both_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--smoke", "--trees", "b", "--keep", str(tmp_path / "kept"), "--plots", str(tmp_path)])
    out = capsys.readouterr().out
    assert re.search(r"^### b: 4\d files, ", out, re.MULTILINE)
    for case in (
        "**`context`, first run**",
        "**`context`, nothing changed**",
        "`git archive`",
        "an empty invoke program",
    ):
        assert case in out
    assert str(tmp_path) not in out
    bars = (tmp_path / "peers.svg").read_text(encoding="utf-8")
    assert "an empty invoke program" in bars
    assert "git archive" in bars
    drawn = ET.fromstring((tmp_path / "growth.svg").read_text(encoding="utf-8"))
    lines = [group for group in drawn.iter("{http://www.w3.org/2000/svg}g") if group.get("id", "").startswith("line2d")]
    assert len(lines) >= 8


def test_a_tree_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--trees", "d"])
    assert "no such tree: d" in capsys.readouterr().err


def test_a_small_upload_and_the_simulated_waiting_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    sending.main(["--megabytes", "1", "--pairs", "1"])
    out = capsys.readouterr().out
    assert len(re.findall(r"^\| .* \| \d+\.\d+ \| \d+\.\d+ \| -?\d+\.\d+ \|$", out, re.MULTILINE)) == 3
    assert re.search(r"^\d+\.\d% of them, with \d\.\d+ of the requests", out, re.MULTILINE)


def test_waiting_sees_the_end_in_time_with_fewer_requests_than_every_five_seconds() -> None:
    requests, steady, late = sending.simulate_waiting()
    assert not late
    assert requests < steady
