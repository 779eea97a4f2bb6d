"""A real browser at our pages: the system's Chromium, driven by Playwright, with axe-core to judge them."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi import FastAPI

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTHS = {"phone": 390, "desktop": 1280}  # pixels
THEMES = ("light", "dark")
WEIGHTY = ("serious", "critical")  # of axe-core's findings
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
OFFLINE = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """An application on a free port of this machine; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def chromium() -> Iterator["Browser"]:
    """The browser, or a skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium; Debian's package of that name will do")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page of the browser, and what went wrong in it."""

    page: "Page"
    home: str  # address of the only server that it may speak to
    errors: list[str] = field(default_factory=list)

    def open(self, path: str) -> "Page":
        """Go to a path of ours."""
        self.page.goto(f"{self.home}{path}")
        return self.page

    def judge(self) -> None:
        """No error, no word to another machine, and nothing wider than the window."""
        assert not self.errors, self.errors
        wide = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, f"{self.page.url} is {wide} pixels wider than the window"

    def judge_barriers(self) -> None:
        """Nothing that axe-core finds serious: contrast, names, alternative texts, what keys reach."""
        assert not find_barriers(self.page), self.page.url


@contextmanager
def watched(
    browser: "Browser", home: str, theme: Any = "light", width: str = "desktop"
) -> Iterator[Watched]:
    """A fresh page of a theme and a width, which notes console errors and words to other machines."""
    context = browser.new_context(
        color_scheme=theme, viewport={"width": WIDTHS[width], "height": 900}
    )
    page = context.new_page()
    page.set_default_timeout(10_000)
    found = Watched(page, home)
    page.on("console", lambda said: said.type == "error" and found.errors.append(said.text))
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("request", lambda request: _note_foreign(found, request.url))
    yield found
    context.close()


def expect_none(page: "Page", text: str) -> None:
    """Wait until a text stands nowhere on a page. (Playwright's waiting for a function needs eval, which our
    pages forbid.)"""
    from playwright.sync_api import expect

    expect(page.get_by_text(text)).to_have_count(0)


def find_barriers(page: "Page") -> list[str]:
    """What axe-core finds serious or critical, with where it stands."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core").Axe()
    found = axe.run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']} {[node['target'] for node in one['nodes']][:5]}"
        for one in found
        if one["impact"] in WEIGHTY
    ]


def _note_foreign(found: Watched, url: str) -> None:
    asked = urlsplit(url)
    if asked.scheme in ("http", "https") and asked.netloc != urlsplit(found.home).netloc:
        found.errors.append(f"a request left for {url}")
