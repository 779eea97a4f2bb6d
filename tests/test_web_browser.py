"""The pages in a real browser: light and dark, phone and desktop, without errors and without barriers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from sightline.web.access import Permission
from sightline.web.app import create_app
from tests.browsers import THEMES, WIDTHS, chromium, expect_none, served, watched
from tests.web_demo import RUN_ID, write_demo
from tests.web_world import letting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow  # a browser is

PAGES = ["/sightline/", f"/sightline/runs/ingest_birds/{RUN_ID}"]


@dataclass
class FakeAirflow:
    """Airflow's public API as far as the cards use it, beside the pages as Airflow mounts them."""

    paused: set[str] = field(default_factory=lambda: {"ingest_birds", "train_birds"})
    runs: list[dict[str, Any]] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    def app(self) -> FastAPI:
        app = FastAPI()
        app.mount("/sightline", create_app(letting(*Permission, airflow="")))
        app.get("/api/v2/dags/{dag_id}")(lambda dag_id: {"is_paused": dag_id in self.paused})
        app.patch("/api/v2/dags/{dag_id}")(self.pause)
        app.get("/api/v2/dags/{dag_id}/dagRuns")(self.list_runs)
        app.post("/api/v2/dags/{dag_id}/dagRuns")(self.trigger)
        app.post("/api/v2/backfills")(self.backfill)
        return app

    def pause(self, dag_id: str, asked: dict[str, Any]) -> dict[str, Any]:
        (self.paused.add if asked["is_paused"] else self.paused.discard)(dag_id)
        return asked

    def list_runs(self, dag_id: str) -> dict[str, Any]:
        return {"dag_runs": [run for run in self.runs if run["dag_id"] == dag_id]}

    def trigger(self, dag_id: str, asked: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((dag_id, asked))
        run = {"dag_id": dag_id, "dag_run_id": "manual__1", "state": "success"}
        self.runs.append(run)
        return run

    def backfill(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(asked)
        return {"id": 1}


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as found:
        yield found


@pytest.fixture
def airflow() -> FakeAirflow:
    return FakeAirflow()


@pytest.fixture
def home(own_places: Path, airflow: FakeAirflow) -> Iterator[str]:
    write_demo(own_places)
    with served(airflow.app()) as address:
        yield address


def test_every_page_is_sound_in_both_themes_and_widths(browser: "Browser", home: str) -> None:
    for theme in THEMES:
        for width in WIDTHS:
            with watched(browser, home, theme, width) as found:
                for path in PAGES:
                    found.open(path)
                    expect_none(found.page, "…")  # Airflow has been asked
                    found.judge()


@pytest.mark.parametrize("theme", THEMES)
def test_no_page_has_a_barrier(browser: "Browser", home: str, theme: str) -> None:
    with watched(browser, home, theme) as found:
        for path in PAGES:
            found.open(path)
            found.judge_barriers()


def test_a_label_is_shown_as_it_is_written_and_does_nothing(browser: "Browser", home: str) -> None:
    with watched(browser, home) as found:
        page = found.open("/sightline/")
        assert page.locator("img[alt='<script>alert(1)</script>']").count() >= 1
        page.evaluate("Promise.all([...document.images].map((one) => one.decode()))")


def test_a_partition_is_run_and_the_dag_let_run(
    browser: "Browser", home: str, airflow: FakeAirflow
) -> None:
    with watched(browser, home) as found:
        page = found.open("/sightline/")
        card = page.locator("[data-dataset=birds]")
        card.get_by_text("paused").wait_for()
        card.get_by_role("button", name="Run").press("Enter")
        page.locator("#run input[name=day]").fill("2026-11-04")
        found.judge_barriers()  # of the dialog, too
        page.locator("#run").get_by_role("button", name="Run").click()
        page.get_by_text("ingest_birds was started for 2026-11-04").wait_for()
        card.get_by_text("success").wait_for()
        assert not found.errors
    assert airflow.asked == [
        ("ingest_birds", {"logical_date": None, "partition_key": "2026-11-04", "conf": {}})
    ]
    assert not airflow.paused  # neither the ingest nor the training that follows it


def test_a_dataset_is_paused_and_let_run(
    browser: "Browser", home: str, airflow: FakeAirflow
) -> None:
    airflow.paused.remove("ingest_birds")
    with watched(browser, home) as found:
        page = found.open("/sightline/")
        card = page.locator("[data-dataset=birds]")
        card.get_by_text("training paused").wait_for()
        card.get_by_role("button", name="Unpause").click()
        page.get_by_text("train_birds and ingest_birds are let run.").wait_for()
        assert not airflow.paused
        card.get_by_role("button", name="Pause").click()
        page.get_by_text("ingest_birds is paused.").wait_for()
        card.get_by_text("paused", exact=True).wait_for()
    assert airflow.paused == {"ingest_birds"}


def test_days_are_backfilled(browser: "Browser", home: str, airflow: FakeAirflow) -> None:
    with watched(browser, home) as found:
        page = found.open("/sightline/")
        page.locator("[data-dataset=birds]").get_by_role("button", name="Backfill").click()
        dialog = page.locator("#backfill")
        dialog.get_by_label("First day").fill("2026-11-01")
        dialog.get_by_label("Last day").fill("2026-11-03")
        dialog.get_by_role("button", name="Backfill").click()
        page.get_by_text("A backfill of ingest_birds from 2026-11-01 to 2026-11-03").wait_for()
    assert airflow.asked[0]["from_date"] == "2026-11-01T00:00:00Z"
    assert airflow.asked[0]["to_date"] == "2026-11-03T23:59:59Z"


def test_what_airflow_refuses_is_told_in_its_words(browser: "Browser", own_places: Path) -> None:
    write_demo(own_places)
    app = FastAPI()  # with the pages, and no API beside them
    app.mount("/sightline", create_app(letting(*Permission, airflow="")))
    with served(app) as home, watched(browser, home) as found:
        page = found.open("/sightline/")
        page.locator("[data-dataset=digits]").get_by_role("button", name="Run").click()
        page.locator("#run").get_by_role("button", name="Run").click()
        page.locator("#said.is-error").get_by_text("Not Found").wait_for()


def test_the_theme_follows_the_page_around(browser: "Browser", home: str) -> None:
    with watched(browser, home) as found:
        page = found.open("/sightline/")
        page.evaluate(
            """() => { document.body.innerHTML = '<iframe src="/sightline/" title="pages"></iframe>';
            document.documentElement.className = "dark"; }"""
        )
        inner = page.frame_locator("iframe")
        inner.locator("html.dark").wait_for()
        dark = inner.locator("body").evaluate("(body) => getComputedStyle(body).backgroundColor")
        page.evaluate("document.documentElement.className = 'light'")
        inner.locator("html.light").wait_for()
        light = inner.locator("body").evaluate("(body) => getComputedStyle(body).backgroundColor")
        assert dark != light


def test_a_report_looks_as_it_was_made_and_runs_no_script(browser: "Browser", home: str) -> None:
    with watched(browser, home) as found:
        page = found.open("/sightline/datasets/birds/reports/latest.html")
        colour = page.locator("h1").evaluate("(one) => getComputedStyle(one).color")
        assert colour == "rgb(255, 0, 0)"
        assert page.title() == "Report"
        assert any("Content Security Policy" in error for error in found.errors)
