"""The pages of models, and Try it, in a real browser: chosen, compared, approved, promoted, handed in."""

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from PIL import Image

from sightline import models
from sightline.catalog import Catalog, open_catalog
from sightline.web.access import Permission
from sightline.web.app import create_app
from sightline.web.try_it import serving_of
from tests.browsers import THEMES, WIDTHS, chromium, served, watched
from tests.champions import DATASET
from tests.conftest import write_dataset
from tests.test_web_models import make_models
from tests.web_world import letting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow  # a browser is

MODELS = "/sightline/datasets/photos/models"
TRY_IT = "/sightline/datasets/photos/try-it"


@dataclass
class Waiting:
    """Airflow's public API as far as an approval needs it."""

    is_asked: bool = False
    answers: list[Any] = field(default_factory=list)

    def list(self, dag_id: str) -> dict[str, Any]:
        task = {"dag_id": dag_id, "dag_run_id": "run: 1/2", "task_id": "approve", "map_index": -1}
        detail = {
            "subject": "Shall the new model of photos serve?",
            "body": "It passes the gate. <b>0.9</b>",
            "options": ["Approve", "Reject"],
            "task_instance": {**task, "state": "awaiting_input"},
        }
        return {"hitl_details": [detail] if self.is_asked and not self.answers else []}

    def answer(self, run: str, answer: dict[str, Any]) -> dict[str, Any]:
        self.answers.append((run, answer["chosen_options"]))
        return {}

    def app(self) -> FastAPI:
        app = FastAPI()
        app.mount("/sightline", create_app(letting(*Permission, airflow="")))
        app.get("/api/v2/dags/{dag_id}/dagRuns/~/hitlDetails")(self.list)
        path = "/api/v2/dags/train_photos/dagRuns/{run:path}/taskInstances/approve/-1/hitlDetails"
        app.patch(path)(self.answer)
        return app


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, str]]:
    places = tmp_path_factory.mktemp("made")
    (places / "datasets").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SIGHTLINE_STORAGE", str(places / "data"))
        return places / "data", make_models(write_dataset(places, "photos", DATASET))


@pytest.fixture
def versions(own_places: Path, made: tuple[Path, tuple[str, str]]) -> tuple[str, str]:
    write_dataset(own_places, "photos", DATASET)
    shutil.copytree(made[0], own_places / "data")
    return made[1]


@pytest.fixture
def catalog(versions: tuple[str, str]) -> Catalog:
    return open_catalog("photos")


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


@pytest.fixture
def home(versions: tuple[str, str], waiting: Waiting) -> Iterator[str]:
    app = waiting.app()
    with served(app) as address:
        yield address
    pages = next(route for route in app.routes if getattr(route, "path", "") == "/sightline")
    serving_of(pages.app).predictor.close()  # type: ignore[attr-defined]


def pages(versions: tuple[str, str]) -> list[str]:
    left, right = versions
    model = f"{MODELS}/{left}"
    compared = f"{MODELS}/compare?left={left}&right={right}"
    return [MODELS, model, compared, f"{model}/photos?truth=a&predicted=a", TRY_IT]


def test_every_page_is_sound_in_both_themes_and_widths(
    browser: "Browser", home: str, versions: tuple[str, str]
) -> None:
    for theme in THEMES:
        for width in WIDTHS:
            with watched(browser, home, theme, width) as found:
                for path in pages(versions):
                    found.open(path)
                    found.judge()


@pytest.mark.parametrize("theme", THEMES)
def test_no_page_has_a_barrier(
    browser: "Browser", home: str, versions: tuple[str, str], theme: str
) -> None:
    with watched(browser, home, theme) as found:
        for path in pages(versions):
            found.open(path)
            found.judge_barriers()


def test_two_models_are_chosen_and_compared(
    browser: "Browser", home: str, versions: tuple[str, str]
) -> None:
    with watched(browser, home) as found:
        page = found.open(MODELS)
        page.get_by_role("button", name="Compare two").click()
        page.get_by_text("Choose two models to compare; 1 chosen.").wait_for()
        page.get_by_label(f"Compare {versions[1]}").check()
        page.get_by_role("button", name="Compare two").click()
        page.get_by_role("heading", name="Two models side by side").wait_for()
        assert f"left={versions[0]}&right={versions[1]}" in page.url
        found.judge()


def test_a_model_is_promoted_with_a_reason_and_rolled_back(
    browser: "Browser", home: str, versions: tuple[str, str], catalog: Catalog
) -> None:
    with watched(browser, home) as found:
        page = found.open(f"{MODELS}/{versions[1]}")
        page.get_by_role("button", name="Promote …").click()
        page.get_by_role("button", name="Do it").click()  # without a reason the dialog stays
        page.get_by_label("Why?").fill("It knows b better.")
        page.get_by_role("button", name="Do it").click()
        page.get_by_text(f"{versions[1]} serves in place of {versions[0]}.").wait_for()
        page.locator("h1 .badge", has_text="champion").wait_for()  # the page is read again
        told = models.champion_history(catalog)[-1]
        assert (told["by"], told["reason"]) == ("ann", "It knows b better.")
        page = found.open(MODELS)
        page.get_by_role("button", name="Roll back …").click()
        page.get_by_label("Why?").fill("It does not.")
        page.get_by_role("button", name="Do it").click()
        page.get_by_text(f"{versions[0]} serves in place of {versions[1]}.").wait_for()
        found.judge()


def test_a_model_that_waits_is_approved_through_airflow(
    browser: "Browser", home: str, waiting: Waiting
) -> None:
    waiting.is_asked = True
    with watched(browser, home) as found:
        page = found.open(MODELS)
        page.get_by_text("Shall the new model of photos serve?").wait_for()
        page.get_by_text("<b>0.9</b>").wait_for()
        page.get_by_role("button", name="Approve").click()
        page.get_by_text("Your answer, Approve, is with Airflow").wait_for()
        assert waiting.answers == [("run: 1/2", ["Approve"])]
        page.locator("#approvals").wait_for(state="hidden")
        found.judge()


def test_a_photo_is_handed_in_and_answered(browser: "Browser", home: str, tmp_path: Path) -> None:
    photo, text = tmp_path / "photo.png", tmp_path / "text.png"
    drawn = io.BytesIO()
    Image.new("RGB", (60, 50), "teal").save(drawn, "PNG")
    photo.write_bytes(drawn.getvalue())
    text.write_text("<h1>no photo</h1>")
    with watched(browser, home, "dark", "phone") as found:
        page = found.open(TRY_IT)
        page.set_default_timeout(60_000)  # the predictor imports torch first
        page.set_input_files("#file", photo)
        page.locator("#top li").nth(1).wait_for()
        for picture in ("#photo", "#seen", "#neighbours img"):
            assert page.locator(picture).first.evaluate(
                "one => one.decode().then(() => one.naturalWidth)"
            )
        assert page.evaluate("document.activeElement.id") == "verdict"
        found.judge()
        page.set_input_files("#camera", text)
        page.get_by_text("This photo cannot be looked at").wait_for()
        assert page.locator("#result").is_hidden()
        assert (
            found.errors == [found.errors[0]] and "422" in found.errors[0]
        )  # the browser's own note


def test_an_answer_has_no_barrier(browser: "Browser", home: str, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (60, 50), "teal").save(photo)
    with watched(browser, home, "dark", "phone") as found:
        page = found.open(TRY_IT)
        page.set_default_timeout(60_000)
        page.set_input_files("#file", photo)
        page.locator("#top li").nth(1).wait_for()
        found.judge_barriers()
