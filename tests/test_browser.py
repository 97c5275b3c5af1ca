"""The page in a real Chromium: what it does with and without scripts, and the screenshots of the docs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsing import launch_chromium, log_in, needs_chromium
from tests.pages import PageServer
from tests.sweeps import rest_is_slow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.commands import Command

# `UPDATE_SCREENSHOTS=1 pytest -m browser` renews the images of the docs; otherwise a run leaves the checkout alone.
IMAGES = Path(__file__).parent.parent / "docs/images" if os.environ.get("UPDATE_SCREENSHOTS") else None
SIZES = {"wide": (1280, 800), "narrow": (390, 844)}
PREFIX = "registry.example.com/runtime/agent-server"
BASES = ("nikolaik/python-nodejs:python3.12-nodejs22", "python:3.13-slim")

pytestmark = [pytest.mark.browser, needs_chromium]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for all tests."""
    with launch_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A server with a build in every state."""
    folder = tmp_path_factory.mktemp("server")
    with PageServer(folder) as server:
        fill(server, folder)
        yield server


@pytest.fixture
def page(browser: Browser, server: PageServer) -> Iterator[Page]:
    """A tab with a session; a script that is blocked or fails is an error."""
    with browser.new_context() as context:
        page = context.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        log_in(page, server.url, server.key)
        problems.clear()  # the login page comes with 401, which Chromium reports
        yield page
        assert not problems


def list_source() -> dict[str, bytes]:
    """Return this repository's own package, as the content of a context."""
    root = Path(__file__).parent.parent
    paths = [path for folder in ("buildkit", "templates", "tests") for path in (root / folder).rglob("*.*")]
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in paths
        if path.is_file() and "__pycache__" not in str(path)
    }


def format_log(*, fails: bool, ended: bool = True) -> list[str]:
    """Return a log as BuildKit writes it."""
    lines = [
        "#1 [internal] load build definition from Dockerfile",
        "#1 DONE 0.0s",
        "#4 [base 1/3] FROM docker.io/nikolaik/python-nodejs:python3.12-nodejs22",
        "#4 CACHED",
        "#5 [base 2/3] RUN apt-get update && apt-get install -y --no-install-recommends git curl tmux tini",
        "#5 CACHED",
        "#6 [deps 1/2] COPY pyproject.toml uv.lock ./",
        "#6 DONE 0.1s",
        "#7 [deps 2/2] RUN uv sync --frozen --no-install-workspace --no-dev",
        "#7 0.412 \x1b[2mUsing CPython 3.12.11\x1b[0m",
        *(
            f"#7 {number / 10 + 0.5:.3f}  \x1b[32m+\x1b[39m package-{number}\x1b[2m==1.{number}.0\x1b[0m"
            for number in range(40)
        ),
        "#7 DONE 21.4s",
        "#8 [builder 1/2] COPY openhands openhands",
        "#8 DONE 0.4s",
        "#9 [builder 2/2] RUN python -m PyInstaller --noconfirm agent-server.spec",
        "#9 0.731 INFO: PyInstaller: 6.16.0",
        "#9 1.204 INFO: Analyzing openhands/agent_server/__main__.py",
    ]
    if fails:
        lines += [
            '#9 9.870 \x1b[33mWARNING: Hidden import "tiktoken_ext" not found\x1b[0m',
            "#9 12.05 Traceback (most recent call last):",
            '#9 12.05   File "/agent-server/agent-server.spec", line 31, in <module>',
            "#9 12.05     datas += collect_data_files('openhands.sdk')",
            "#9 12.05 \x1b[1;31mModuleNotFoundError: No module named 'openhands.sdk'\x1b[0m",
            '#9 ERROR: process "/bin/sh -c python -m PyInstaller agent-server.spec" did not complete: exit code: 1',
        ]
    elif ended:
        lines += [
            "#9 DONE 97.2s",
            "#10 [binary 1/1] COPY --from=builder /dist/agent-server /usr/local/bin/",
            "#10 DONE 0.8s",
            "#11 exporting to image",
            "#11 DONE 4.1s",
        ]
    return lines


def fill(server: PageServer, folder: Path) -> None:
    """Add builds, the newest last."""
    store, source = server.server.store, list_source()
    older = {path: data for path, data in source.items() if "page" not in path}
    for number in range(6):
        image = f"{PREFIX}:{0x5063520 + number * 4711:07x}-python"
        build = server.claim(server.add(image, older, base_image=BASES[number % 2], owner=("ci", "dana")[number % 2]))
        server.write_log(build, format_log(fails=False))
        store.finish(build, "SUCCESS", image=f"{image}@sha256:{'ab' * 32}")
    failed = server.claim(server.add(f"{PREFIX}:91ab3f0-dev", source, base_image=BASES[0], owner="dana"))
    server.write_log(failed, format_log(fails=True))
    store.finish(failed, "FAILURE", error="RUN python -m PyInstaller --noconfirm agent-server.spec: exit code 1")
    slow = server.claim(server.add(f"{PREFIX}:77ce021-python-source", source, base_image=BASES[1]))
    store.finish(slow, "TIMEOUT", error="the build took longer than 1800 s")
    server.server.cancel(server.add(f"{PREFIX}:77ce021-staging", source, base_image=BASES[1]).id)
    running = server.claim(server.add(f"{PREFIX}:c2d4e6f-python", source, base_image=BASES[0]))
    server.write_log(running, format_log(fails=False, ended=False))
    store.note_step(running, "[builder 2/2] RUN python -m PyInstaller --noconfirm agent-server.spec")
    server.add(f"{PREFIX}:c2d4e6f-python-source-minimal", source, base_image=BASES[1])
    age(folder / "builds.sqlite3")


def age(path: Path) -> None:
    """Make the builds as old and as slow as builds are."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE builds SET created_at = created_at - (11.5 - number) * (11.5 - number) * 200")
        connection.execute("UPDATE builds SET started_at = created_at + 3 WHERE started_at IS NOT NULL")
        connection.execute("UPDATE builds SET finished_at = started_at + 61 + number * 47 % 131 WHERE finished_at > 0")
        connection.execute("UPDATE builds SET finished_at = started_at + 1800 WHERE status = 'TIMEOUT'")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_screenshots(browser: Browser, server: PageServer, size: str, scheme: str, tmp_path: Path) -> None:
    width, height = SIZES[size]
    viewport = {"width": width, "height": height}
    with browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce") as context:  # type: ignore[arg-type]  # plain texts and a plain dict
        page = context.new_page()
        log_in(page, server.url, server.key)
        failed = server.find("FAILURE").id
        for name, path in {"builds": "/", "build": f"/builds/{failed}", "map": f"/builds/{failed}/context"}.items():
            page.goto(server.url + path)
            overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0, f"{name} is {overflow} pixels wider than the screen"
            page.screenshot(path=(IMAGES or tmp_path) / f"{name}-{size}-{scheme}.png")


@pytest.mark.slow
def test_every_page_works_without_scripts(browser: Browser, server: PageServer) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        log_in(page, server.url, server.key)
        page.get_by_role("link").filter(has_text=":91ab3f0-dev").click()
        expect(page.locator(".failure")).to_contain_text("No module named 'openhands.sdk'")
        page.get_by_role("link", name="Context").click()
        folder = page.locator(".map-view:last-of-type svg.map > a").first
        target = folder.get_attribute("href")
        folder.click(position={"x": 12, "y": 8})
        expect(page.locator(f".map-view{target}")).to_be_visible()
        expect(page.locator(".map-view:last-of-type")).to_be_hidden()
        page.locator(f".map-view{target}").get_by_role("link", name="all files").click()
        expect(page.locator(".map-view:last-of-type")).to_be_visible()
        page.go_back()
        page.goto(f"{server.url}/builds/{server.find('CANCELLED').id}")
        page.get_by_role("button", name="Build again").click()
        expect(page.get_by_text("Queued")).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".badge")).to_have_text("Cancelled")


def test_the_list_updates_itself_and_is_filtered(page: Page, server: PageServer) -> None:
    build = server.add_without_context(target_image="registry.example.com/new/thing:1")
    expect(page.get_by_role("link").filter(has_text="new/thing:1")).to_be_visible(timeout=10_000)
    server.server.cancel(build.id)
    expect(page.get_by_role("row").filter(has_text="new/thing:1")).to_contain_text("Cancelled", timeout=10_000)
    page.get_by_label("Status").select_option("FAILURE")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("row")).to_have_count(2)


@pytest.mark.slow
def test_a_log_is_followed_until_the_build_ends_unless_the_reader_scrolls(page: Page, server: PageServer) -> None:
    build = server.claim(server.add_without_context(target_image="registry.example.com/app:followed"))
    server.write_log(build, (f"line {number}" for number in range(1, 301)))
    page.goto(f"{server.url}/builds/{build.id}/log")
    expect(page.locator("#L300")).to_be_in_viewport()
    server.write_log(build, ["\x1b[31m<b>line 301</b>\x1b[0m"])
    expect(page.locator("#L301 code .ansi-fg-1")).to_have_text("<b>line 301</b>")
    expect(page.locator("#L301")).to_be_in_viewport()
    page.mouse.wheel(0, -4000)
    expect(page.get_by_role("button", name="Follow the log")).to_be_visible()
    server.write_log(build, ["line 302"])
    expect(page.locator("#L302")).to_be_attached()
    expect(page.locator("#L302")).not_to_be_in_viewport()
    page.get_by_role("button", name="Follow the log").click()
    expect(page.locator("#L302")).to_be_in_viewport()
    server.server.store.finish(build, "SUCCESS", image="registry.example.com/app:followed")
    expect(page.locator(".badge")).to_have_text("Succeeded", timeout=10_000)


def test_a_running_build_shows_new_steps_and_keeps_what_was_opened(page: Page, server: PageServer) -> None:
    build = server.claim(server.add_without_context(target_image="registry.example.com/app:running"))
    server.write_log(build, ["#1 [app 1/2] COPY . .", "#1 0.1 copied", "#1 DONE 0.1s", "#2 [app 2/2] RUN make"])
    page.goto(f"{server.url}/builds/{build.id}")
    page.get_by_text("COPY . .").click()
    expect(page.get_by_text("copied")).to_be_visible()
    page.evaluate("document.activeElement.blur()")
    server.write_log(build, ["#2 1.0 making it"])
    expect(page.get_by_text("making it")).to_be_visible(timeout=10_000)
    expect(page.get_by_text("copied")).to_be_visible()
    server.server.store.finish(build, "SUCCESS")
    expect(page.locator(".badge")).to_have_text("Succeeded", timeout=10_000)


@pytest.mark.slow
def test_a_hundred_thousand_lines_do_not_hang_the_browser(page: Page, server: PageServer) -> None:
    build = server.claim(server.add_without_context(target_image="registry.example.com/app:long"))
    server.write_log(
        build, ["#1 [app 1/1] RUN make", *(f"#1 {number / 100:.2f} line {number}" for number in range(100_000))]
    )
    for path in (f"/builds/{build.id}", f"/builds/{build.id}/log", f"/builds/{build.id}/log?from=50000#L50020"):
        page.goto(server.url + path)
        assert page.evaluate("document.querySelectorAll('*').length") < 10_000
        assert page.evaluate("1 + 1") == 2
    expect(page.locator("#L50020")).to_be_in_viewport()
    page.get_by_label("Search the log").fill("line 77777")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="77779").click()
    expect(page.locator("#L77779")).to_be_in_viewport()


@pytest.mark.parametrize(
    "text", rest_is_slow(["<script>window.hacked = 1</script>", '"><img src=x onerror="window.hacked=1">'], 1)
)
def test_nothing_from_outside_runs(page: Page, server: PageServer, text: str) -> None:
    build = server.claim(
        server.add(f"app:{text}", {"<svg onload='window.hacked=1'>": "x", f"a/{text.replace('/', '')}": "xx"})
    )
    server.write_log(build, [f"#1 [{text} 1/1] RUN {text}", f"#1 0.1 \x1b[31m{text}", text])
    server.server.store.finish(build, "FAILURE", error=text)
    for path in ("/", f"/builds/{build.id}", f"/builds/{build.id}/log", f"/builds/{build.id}/context"):
        page.goto(server.url + path)
        assert page.get_by_text(text.partition("<")[0] or "<script>").first
        assert page.evaluate("window.hacked") is None


def test_the_map_of_a_context_is_one_file_that_needs_nothing_else(browser: Browser, command: Command) -> None:
    path = command.checkout / "map.html"
    assert command.run("context", "--map", "map.html", changing=("src/map.html",)).succeed().result == "map.html"
    with browser.new_context(java_script_enabled=False, offline=True) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        expect(page.locator(".map-view:last-of-type")).to_be_visible()
        page.locator(".map-view:last-of-type svg.map > a").first.click(position={"x": 12, "y": 8})
        expect(page.locator(".map-view:target")).to_be_visible()
