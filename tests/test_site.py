"""The documentation site: built without a warning or a dead link, readable at every width, with a search that works."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from playwright.sync_api import TimeoutError, expect  # noqa: A004  # Playwright's own

from tests.browsing import launch_chromium, needs_chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

ROOT = Path(__file__).parent.parent
WIDTHS = (360, 768, 1440)
# What the reader's system prefers, and what the theme calls it.
SCHEMES: dict[Literal["light", "dark"], str] = {"light": "default", "dark": "slate"}


class Links(HTMLParser):
    """What a page links to and loads, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  # of any tag
        for name, value in attrs:
            if value and name in {"href", "src", "srcset"}:
                self.targets.append(value)
            elif value and name == "id":
                self.anchors.add(value)


class Files(SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name in the standard library
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, check=True, timeout=120)
    return folder / "site"


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    """The address of the site on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def page(url: str) -> Iterator[Page]:
    """A tab; an error on the console, a missing file and a request to another host are failures."""
    problems: list[str] = []
    with launch_chromium() as browser:
        page = browser.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("response", lambda answer: problems.append(answer.url) if answer.status >= 400 else None)
        page.on(
            "request", lambda asked: problems.append(asked.url) if not asked.url.startswith((url, "data:")) else None
        )
        yield page
    assert not problems


def list_pages(site: Path) -> list[str]:
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))


def test_every_link_and_anchor_leads_somewhere(site: Path) -> None:
    pages = {name: Links((site / name).read_text("utf-8")) for name in list_pages(site)}
    checked = 0
    for name, links in pages.items():
        for link in links.targets:
            target, anchor = urldefrag(urljoin(name, link))
            if "://" in target or target.startswith(("data:", "mailto:")) or name == "404.html":
                continue  # 404.html is shown at any address, so its links start at the root
            assert (site / unquote(target)).exists(), f"{name}: {link}"
            if anchor and target in pages:
                checked += 1
                assert unquote(anchor) in pages[target].anchors, f"{name}: {link}"
    assert checked


@pytest.mark.slow
@pytest.mark.browser
@needs_chromium
def test_pages_fit_every_width_and_have_their_pictures(site: Path, url: str, page: Page) -> None:
    for name in list_pages(site):
        page.goto(url + name, wait_until="networkidle")
        backgrounds = set()
        for scheme, theme in SCHEMES.items():
            page.emulate_media(color_scheme=scheme)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} at {width}"
            expect(page.locator(f"body[data-md-color-scheme={theme}]")).to_be_attached()
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.wait_for_function("[...document.images].every(image => image.complete)")
            broken = page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)")
            assert broken == [], name
        assert len(backgrounds) == 2, name


@pytest.mark.slow
@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("429", "429: the server is busy"),
        ("dockerignore", "Why Docker's rules for .dockerignore"),
        ("private key", "A private key is packed"),
        ("exit code", "Exit codes"),
    ],
)
def test_search_finds_the_page_that_answers(url: str, page: Page, words: str, first: str) -> None:
    page.goto(url, wait_until="networkidle")
    search = page.get_by_role("combobox", name="Search")
    for _ in range(10):  # the key has an effect once the page's script is ready
        page.keyboard.press("Control+k")
        with contextlib.suppress(TimeoutError):
            search.wait_for(timeout=5000)
            break
    search.fill(words)
    expect(page.locator("a[href*='h=']").first).to_contain_text(first, use_inner_text=True, timeout=30_000)
