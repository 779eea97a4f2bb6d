"""The pages of a dataset in a real browser: sound, without barriers, and their clicks do what they say."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sightline import label_overrides, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.web.access import Permission
from sightline.web.app import create_app
from tests.browsers import THEMES, WIDTHS, chromium, served, watched
from tests.conftest import write_dataset
from tests.web_world import LABELS, SCRIPT, letting, make_world

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow  # a browser is

HOME = "/datasets/photos"
PAGES = ("", "/gallery?label=bus", "/rejects", "/duplicates", "/labels", "/map", "/quality")


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as found:
        yield found


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", "source: {type: folder, path: photos}\n")


@pytest.fixture
def rows(spec: DatasetSpec, catalog: Catalog) -> list[dict[str, Any]]:
    return make_world(spec, catalog)


@pytest.fixture
def home(rows: list[dict[str, Any]]) -> Iterator[str]:
    with served(create_app(letting(Permission.SEE, Permission.ACT))) as address:
        yield address


@pytest.mark.parametrize("theme", THEMES)
def test_every_page_is_sound_and_has_no_barrier(
    browser: "Browser", home: str, rows: list[dict[str, Any]], theme: str
) -> None:
    for width in WIDTHS:
        with watched(browser, home, theme, width) as found:
            for path in (*PAGES, f"/images/{rows[0]['image_id']}"):
                found.open(HOME + path).get_by_text("…").last.wait_for(state="hidden")
                found.judge()
                if width == "desktop":
                    found.judge_barriers()


def test_labels_are_decided_by_a_click_and_by_keys(
    browser: "Browser", home: str, catalog: Catalog, rows: list[dict[str, Any]]
) -> None:
    with watched(browser, home) as found:
        page = found.open(f"{HOME}/labels")
        page.locator("#doubt-1").get_by_role("button", name=f"It is {SCRIPT}").click()
        page.get_by_text(f"Kept: it is {SCRIPT}.").wait_for()
        page.locator("#doubt-1").wait_for(state="detached")
        page.locator("#doubt-2").get_by_role("button", name="Keep").press("Enter")
        page.locator("#doubt-2").wait_for(state="detached")
        page.locator("#doubt-3").get_by_label("Another class").fill("ferry")
        page.locator("#doubt-3").get_by_label("Another class").press("Enter")
        page.get_by_text("Kept: it is ferry.").wait_for()
        found.open(f"{HOME}/labels").get_by_role("button", name="Take back").last.wait_for()
        assert page.locator("#doubt-3").count() == 0
        found.judge()
    said = label_overrides.read(catalog, tables.current_version(catalog.label_overrides))
    labels = [said[row["image_id"]]["label"] for row in rows[:3]]
    assert labels == [SCRIPT, LABELS[1], "ferry"]


def test_a_correction_on_an_image_is_shown_and_taken_back(
    browser: "Browser", home: str, rows: list[dict[str, Any]]
) -> None:
    with watched(browser, home) as found:
        page = found.open(f"{HOME}/images/{rows[0]['image_id']}")
        page.get_by_label("What it shows").fill("ferry")
        page.get_by_role("button", name="Say so").click()
        page.get_by_text("ferry (corrected by ann").wait_for()
        page.get_by_role("button", name="Take back").click()
        page.get_by_text("corrected by ann").wait_for(state="detached")
        found.judge()


def test_the_map_shows_photos_and_leads_to_them(
    browser: "Browser", home: str, rows: list[dict[str, Any]]
) -> None:
    with watched(browser, home) as found:
        page = found.open(f"{HOME}/map")
        page.get_by_text("All 48 images").wait_for()
        canvas = page.locator("canvas")
        box = canvas.bounding_box()
        points = page.request.get(f"{home}{HOME}/map/points").json()
        assert box is not None
        side = min(box["width"], box["height"]) * 0.94
        x = box["x"] + box["width"] / 2 + (points["x"][0] - 0.5) * side
        y = box["y"] + box["height"] / 2 - (points["y"][0] - 0.5) * side
        page.mouse.move(x, y)
        picture = page.locator("figure img")
        picture.wait_for()
        picture.evaluate("(one) => one.decode()")
        before = canvas.evaluate("(one) => one.toDataURL()")
        page.mouse.wheel(0, -300)
        page.wait_for_function(
            "(before) => document.querySelector('canvas').toDataURL() !== before", arg=before
        )
        page.get_by_role("button", name="Whole map").click()
        page.get_by_role("button", name="bus").click()
        assert page.locator("[aria-pressed=true]").inner_text() == "bus"
        page.get_by_role("button", name="bus").click()
        page.mouse.click(x, y)
        page.wait_for_url(re.compile(r"/images/[0-9a-f]{64}$"))
        found.judge()


def test_the_gallery_filters_and_leads_to_an_image(browser: "Browser", home: str) -> None:
    with watched(browser, home) as found:
        page = found.open(f"{HOME}/gallery")
        page.get_by_label("Class").select_option(SCRIPT)
        page.get_by_label("Split").select_option("test")
        page.get_by_role("button", name="Show").click()
        page.get_by_text("2 images as chosen").wait_for()
        assert page.locator(".tile img").first.evaluate("(one) => one.naturalWidth") == 80
        page.locator(".tile a").first.click()
        page.get_by_role("heading", name="Most alike").wait_for()
        page.locator("[data-load] img").first.wait_for()
        found.judge()
