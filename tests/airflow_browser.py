"""Airflow's UI in a real browser: logged in by its own form, our pages in its frame."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.browsers import WIDTHS, chromium

if TYPE_CHECKING:
    from playwright.sync_api import FrameLocator, Page

PATIENCE_MILLISECONDS = 60_000  # Airflow's UI is slow to begin with on a busy machine


@contextmanager
def logged_in(
    address: str, user: str, password: str, theme: Any = "light", width: str = "desktop"
) -> Iterator["Page"]:
    """A page of a person who has logged in to Airflow; a skip where there is no browser."""
    with chromium() as browser:
        size = {"width": WIDTHS[width], "height": 900}
        context = browser.new_context(color_scheme=theme, viewport=size)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MILLISECONDS)
        page.goto(f"{address}/auth/login")
        page.fill("input[name=username]", user)
        page.fill("input[name=password]", password)
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Sightline").wait_for()
        yield page
        context.close()


def frame_of(page: "Page") -> "FrameLocator":
    """What stands in Airflow's frame for pages of plugins."""
    return page.frame_locator("iframe")
