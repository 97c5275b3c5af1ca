"""A real Chromium, and what tests do first in it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
# Without these, Chromium looks up its maker's hosts.
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

needs_chromium = pytest.mark.skipif(
    not CHROMIUM.exists() and not os.environ.get("RUNTIME_BUILD_REQUIRE_ENGINE"),
    reason="Chromium is not installed (Debian's package chromium)",
)


@contextlib.contextmanager
def launch_chromium() -> Iterator[Browser]:
    """Give a browser, closed at the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        yield browser
        browser.close()


def log_in(page: Page, url: str, key: str) -> None:
    """Open the list of builds as somebody who has a key."""
    page.goto(url)
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Builds")).to_be_visible()
