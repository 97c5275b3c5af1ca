"""The page in a real Chromium before a real engine: what people see while a build runs, fails or is cancelled."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsing import launch_chromium, log_in, needs_chromium
from tests.serving import Served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildkit.engines.engine import Engine

pytestmark = [pytest.mark.browser, needs_chromium]

KEY = "key-for-the-page-on-a-real-engine"
TIMEOUT_MS = 60_000
COLOURS = r"printf '\033[1;31mred\033[0m and \033[2K\033[32mgreen\033[0m\n'"
TICKS = "i=0; while [ $i -lt 150 ]; do i=$((i+1)); echo tick $i; done; sleep %d; echo the last tick"
HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


class Visitor(NamedTuple):
    """Somebody who is logged in, and the name of the image that the test builds."""

    page: Page
    image: str
    has_script: bool


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(docker_or_buildx: Engine, tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server on the engine of the session, which has the base image of these builds."""
    assert tiny_base == "localhost/tiny:1"
    inherited = {name: os.environ[name] for name in ("DOCKER_HOST", "DOCKER_CONFIG", "PATH")}
    chosen = {"ENGINE": docker_or_buildx.name, "RUNTIME_API_KEY": KEY}
    with Served(tmp_path_factory.mktemp("server"), ("--network", "host"), chosen | inherited) as server:
        yield server


@pytest.fixture
def visitor(request: pytest.FixtureRequest, browser: Browser, served: Served) -> Iterator[Visitor]:
    with browser.new_context(java_script_enabled=request.param) as context:
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        log_in(page, served.url, KEY)
        yield Visitor(page, f"localhost/visit-{time.time_ns()}:1", request.param)
        assert not problems


def format_dockerfile(*commands: str) -> str:
    """Return a Dockerfile whose steps are in no cache."""
    steps = "".join(f"RUN {command}\n" for command in commands)
    return f"FROM localhost/tiny:1 AS base\nENV NOW={time.time_ns()}\nFROM base AS app\n{steps}"


visits = pytest.mark.parametrize(
    ("docker_or_buildx", "visitor"),
    [("docker", True), ("docker", False), ("buildx", True)],
    ids=["docker", "docker without script", "buildx"],
    indirect=True,
)


@visits
def test_a_build_is_watched_from_the_list_to_its_end(served: Served, visitor: Visitor) -> None:
    page = visitor.page
    ticks = TICKS % (4 if visitor.has_script else 12)  # without script, a page reloads every five seconds
    served.build(format_dockerfile(COLOURS, ticks), visitor.image)
    page.get_by_role("link").filter(has_text=visitor.image).click()
    running = page.locator(".step.running")
    expect(running).to_contain_text("tick 150", timeout=TIMEOUT_MS)
    expect(running).to_have_attribute("open", "")
    expect(page.locator(".step.done").filter(has_text="printf").locator(".state")).to_have_text(re.compile(r"\d s"))
    page.get_by_role("link", name="Log", exact=True).click()
    expect(page.locator("#log")).to_contain_text("the last tick", timeout=TIMEOUT_MS)
    if visitor.has_script:
        expect(page.locator("li", has_text=re.compile("the last tick$")).last).to_be_in_viewport()
    expect(page.locator(".badge")).to_have_text("Succeeded", timeout=TIMEOUT_MS)
    expect(page.locator("#log .ansi-bold.ansi-fg-1").last).to_have_text("red")
    expect(page.locator("#log .ansi-fg-2").last).to_have_text("green")
    assert "x1b" not in page.content()
    page.get_by_label("Search the log").fill("TICK 77")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#log li")).to_have_count(1)
    page.locator("#log li a").click()
    expect(page.locator("li:target")).to_contain_text("tick 77")
    expect(page.locator("li:target")).to_be_in_viewport()


@visits
def test_a_failing_step_is_shown_with_its_output_and_nothing_of_it_runs(served: Served, visitor: Visitor) -> None:
    page = visitor.page
    build_id = served.build(format_dockerfile("true", f"echo '{HOSTILE}'; {COLOURS}; exit 3"), visitor.image)
    assert served.wait(build_id, timeout_s=60)["status"] == "FAILURE"
    page.goto(f"{served.url}/builds/{build_id}")
    failure = page.get_by_role("region", name="Error")
    expect(failure).to_contain_text(HOSTILE)
    expect(failure.locator(".ansi-fg-2").last).to_have_text("green")
    failed = page.locator(".step.failed")
    expect(failed).to_have_attribute("open", "")
    expect(failed.locator(".stage")).to_have_text("app")
    expect(page.locator(".step.done").filter(has_text="RUN true").locator(".log")).to_be_hidden()
    failed.locator("li").filter(has_text=HOSTILE).last.get_by_role("link").click()
    expect(page.locator("li:target")).to_contain_text(HOSTILE)
    for path in ("/", f"/builds/{build_id}", f"/builds/{build_id}/log", f"/builds/{build_id}/context"):
        page.goto(served.url + path)
        assert page.evaluate("window.hacked") is None
        expect(page.locator("img")).to_have_count(0)


@visits
def test_a_running_build_is_cancelled_and_built_again(served: Served, visitor: Visitor) -> None:
    page = visitor.page
    build_id = served.build(format_dockerfile("echo begun; sleep 300"), visitor.image)
    page.get_by_role("link").filter(has_text=visitor.image).click()
    expect(page.locator(".step.running")).to_contain_text("begun", timeout=TIMEOUT_MS)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".badge")).to_have_text("Cancelled", timeout=TIMEOUT_MS)
    expect(page.locator(".step.cancelled")).to_contain_text("sleep 300")
    page.get_by_role("button", name="Build again").click()
    expect(page.get_by_text("Repeats")).to_be_visible()
    assert build_id not in page.url
    expect(page.locator(".step.running")).to_contain_text("begun", timeout=TIMEOUT_MS)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".badge")).to_have_text("Cancelled", timeout=TIMEOUT_MS)
