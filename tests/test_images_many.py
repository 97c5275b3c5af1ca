"""Task `images` killed at any moment, and with as many images as people build in a night."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.bulk_api import make_trouble, run_bulk_api

if TYPE_CHECKING:
    from tests.commands import Command

pytestmark = pytest.mark.slow
BASE = "127.0.0.1:1/base"
KILLS, KILLED_IMAGES = 50, 40
MANY = 2438


def write_bases(command: Command, count: int) -> None:
    (command.checkout / "bases.txt").write_text("".join(f"{BASE}:{number}\n" for number in range(count)))


def check_journal(data: bytes) -> None:
    """Every line is an event, except for one that a kill has cut off, wherever that was."""
    lines = data.split(b"\n")
    torn = 0
    for line in filter(None, lines):
        try:
            event = json.loads(line)
        except ValueError:
            torn += 1
        else:
            assert event["event"]
    assert torn <= KILLS


def test_no_build_starts_twice_and_none_is_lost_wherever_a_run_is_killed(command: Command) -> None:
    chance = random.Random(20)
    kills = 0
    write_bases(command, KILLED_IMAGES)
    journal = command.output / "images.jsonl"
    while kills < KILLS:
        shutil.rmtree(command.output, ignore_errors=True)
        with run_bulk_api() as api:
            command.use(api.server)
            api.polls = 1
            code = -1
            while code:
                running = command.start("images", "--bases", "bases.txt", "--workers", "8")
                if kills < KILLS:
                    time.sleep(chance.uniform(0.1, 1.5))
                    running.signal(signal.SIGKILL)
                code = running.wait().code
                assert code in {0, -signal.SIGKILL}
                kills += code != 0
                if journal.exists():
                    check_journal(journal.read_bytes())
            assert len(api.started) == KILLED_IMAGES
            assert len(set(api.started)) == KILLED_IMAGES
            results = json.loads((command.output / "images.json").read_text())["images"]
            assert {result["reference"] for result in results} == set(api.started)
            assert {result["status"] for result in results} <= {"built", "already there"}


def test_the_outcome_of_every_image_of_a_night_is_known(command: Command) -> None:
    write_bases(command, MANY)
    with run_bulk_api() as api:
        command.use(api.server)
        planned = command.run("images", "--bases", "bases.txt", "--dry-run", "--json").succeed()
        references = {image["reference"]: image["name"] for image in planned.record["images"]}
        failing = set(random.Random(3).sample(sorted(references), MANY // 100))
        api.trouble = make_trouble({"429": 0.05, "reset": 0.005, "lost": 0.005})
        api.fails = lambda image: image in failing
        ended = command.start("images", "--bases", "bases.txt", "--workers", "16").wait(hang_s=1200)
        ended.fail(6, f"{len(failing)} of {MANY} images are missing")
        assert len(api.started) == len(set(api.started)) == MANY
        results = json.loads((command.output / "images.json").read_text())["images"]
        assert {result["name"] for result in results if result["status"] == "failed"} == {
            references[x] for x in failing
        }
        assert sum(result["status"] == "built" for result in results) == MANY - len(failing)
        assert set(ended.out.split()) == set(references) - failing
