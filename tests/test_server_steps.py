"""The steps of a build, as they are read from the logs of each engine, and BuildKit's JSON as lines."""

from __future__ import annotations

import base64
import json

import pytest

from buildkit.engines.progress import JsonProgress
from buildkit.server.steps import Step, parse_steps, read_title

BUILDKIT = """\
[runtime-build] building a:1 with docker (attempt 1 of 3)
#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 72B done
#1 DONE 0.1s
#2 [builder 1/2] FROM debian
#2 CACHED
#3 [builder 2/2] RUN make
#3 0.312 one
#4 [stage-1 2/2] COPY a /a
#3 [builder 2/2] RUN make
#3 0.412 #9 DONE 1.0s
#4 DONE 2.5s
#3 ERROR: exit code: 2
------
""".splitlines()


def test_buildkits_lines_become_steps_with_states_durations_and_line_numbers() -> None:
    assert parse_steps(BUILDKIT) == [
        Step(
            "[internal] load build definition from Dockerfile",
            "internal",
            "done",
            0.1,
            [(3, "transferring dockerfile: 72B done")],
        ),
        Step("[builder 1/2] FROM debian", "builder", "cached"),
        Step(
            "[builder 2/2] RUN make",
            "builder",
            "failed",
            None,
            [(8, "one"), (11, "#9 DONE 1.0s"), (13, "exit code: 2")],
        ),
        Step("[stage-1 2/2] COPY a /a", "stage-1", "done", 2.5),
        Step("", "", "done", None, [(1, BUILDKIT[0]), (14, "------")]),
    ]


def test_a_growing_log_has_a_running_step_and_a_new_attempt_begins_afresh() -> None:
    assert [step.state for step in parse_steps(BUILDKIT[:8])] == ["done", "cached", "running", "done"]
    again = [*BUILDKIT, BUILDKIT[0].replace("attempt 1", "attempt 2"), "#1 [1/2] FROM debian"]
    assert [step.title for step in parse_steps(again)] == ["[1/2] FROM debian", ""]


@pytest.mark.parametrize(
    ("note", "state"),
    [("SUCCESS", "done"), ("FAILURE: why", "failed"), ("CANCELLED", "cancelled"), ("interrupted: x", "cancelled")],
)
def test_no_step_is_running_once_the_build_has_ended(note: str, state: str) -> None:
    assert parse_steps(["#1 [1/1] RUN x", f"[runtime-build] {note}"])[0].state == state


def test_podmans_lines_become_steps() -> None:
    log = [
        "[1/2] STEP 1/2: FROM debian",
        "[1/2] STEP 2/2: RUN make",
        "#5 DONE 1s",
        "--> Using cache abc",
        "[2/2] STEP 1/2: FROM debian",
    ]
    log += ["STEP 2/2: RUN false", 'Error: error building at STEP "RUN false": exit status 1']
    steps = parse_steps(log)
    assert [(step.stage, step.state) for step in steps] == [
        ("1/2", "done"),
        ("1/2", "cached"),
        ("2/2", "done"),
        ("", "failed"),
    ]
    assert steps[1].lines[0] == (3, "#5 DONE 1s")


def test_only_the_end_of_a_long_step_is_kept() -> None:
    (step,) = parse_steps(["#1 [1/1] RUN make", *(f"#1 0.1 line {number}" for number in range(10_000))])
    assert step.dropped + len(step.lines) == 10_000
    assert len(step.lines) < 1000
    assert step.lines[-1] == (10_001, "line 9999")


def test_the_title_of_a_step_is_read_from_its_first_line() -> None:
    assert read_title("#7 [2/3] RUN make") == "[2/3] RUN make"
    assert read_title("#7 exporting to image") == "exporting to image"
    assert read_title("STEP 2/3: RUN make") == "STEP 2/3: RUN make"
    assert [read_title(line) for line in ("#7 0.1 [2/3] RUN", "#7 DONE 1.0s", "hello", "")] == [None] * 4


@pytest.mark.parametrize("indent", [None, 2])
def test_json_progress_becomes_the_lines_of_plain_progress(indent: int | None) -> None:
    def at(second: float) -> str:
        return f"2025-11-02T12:00:{second:012.9f}Z"

    def log(text: bytes, second: float) -> dict[str, object]:
        return {"logs": [{"vertex": "v1", "data": base64.b64encode(text).decode(), "timestamp": at(second)}]}

    vertex = {"digest": "v1", "name": "[2/2] RUN make \\\n  all", "started": at(1)}
    records: list[dict[str, object]] = [
        {"vertexes": [{"digest": "v1", "name": "[2/2] RUN make"}]},
        {"vertexes": [vertex]},
        log(b"half", 1.25),
        log(b" line\n\x1b[31mred\n" + b"x" * 40_000 + b"\nno end", 1.5),
        {"vertexes": [{"digest": "v2", "name": "[1/2] FROM a", "started": at(1), "completed": at(1), "cached": True}]},
        {"vertexes": [{**vertex, "completed": at(3), "error": "exit code: 2"}]},
    ]
    output = "\n".join(json.dumps(record, indent=indent) for record in records) + "\nERROR: failed to solve\n{broken}"
    translate = JsonProgress()
    lines = [text for line in output.encode().split(b"\n") for text in translate(line)]
    assert lines[:3] == ["#1 [2/2] RUN make \\ all", "#1 0.500 half line", "#1 0.500 \x1b[31mred"]
    assert sum(line.count("x" * 100) for line in lines[3:6]) >= 390
    assert lines[6:] == [
        "#2 [1/2] FROM a",
        "#2 CACHED",
        "#1 2.000 no end",
        "#1 ERROR: exit code: 2",
        "ERROR: failed to solve",
        "{broken}",
    ]


def test_a_record_that_breaks_off_hides_nothing_after_it() -> None:
    translate = JsonProgress()
    output = [b"{", b' "vertexes": [', b"ERROR: rpc error: code = Unavailable", b'{"logs": null}', b"end"]
    lines = [text for line in output for text in translate(line)]
    assert lines == ['{ "vertexes": [', "ERROR: rpc error: code = Unavailable", "end"]
