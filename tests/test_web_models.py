"""The pages of models: what they show, the photos behind a cell, and who may let a model serve."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from sightline import models, publishing
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, ReduceSpec
from sightline.evaluation import evaluate
from sightline.web.access import Permission, Visitor
from sightline.web.app import create_app
from sightline.web.views import lineage_drawing
from tests.champions import DATASET, head_champion, store_photos, tuned_champion
from tests.conftest import make_task, store_partition, write_dataset

pytestmark = pytest.mark.usefixtures("one_torch_thread")
PAGES = "/datasets/photos/models"


@dataclass(frozen=True)
class Person:
    name: str
    actions: tuple[Permission, ...]

    def may(self, permission: Permission, dataset: str) -> bool:
        return permission in self.actions


@dataclass(frozen=True)
class Only:
    person: Person
    airflow: str | None = None

    async def visitor(self, request: Request) -> Visitor:
        return self.person


ANN = Person("ann", (Permission.SEE, Permission.ACT))
VERA = Person("vera", (Permission.SEE,))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, str]]:
    """Places with a champion, and a model beside it that was made with another setting."""
    places = tmp_path_factory.mktemp("made")
    (places / "datasets").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SIGHTLINE_STORAGE", str(places / "data"))
        spec = write_dataset(places, "photos", DATASET)
        return places / "data", make_models(spec)


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


@pytest.fixture
def versions(
    spec: DatasetSpec, own_places: Path, made: tuple[Path, tuple[str, str]]
) -> tuple[str, str]:
    """The same for each test, in its own places."""
    shutil.copytree(made[0], own_places / "data")
    return made[1]


def make_models(spec: DatasetSpec) -> tuple[str, str]:
    catalog = store_photos(spec)
    first = head_champion(catalog, spec, "logistic_regression").version
    other = spec.model_copy(update={"reduce": ReduceSpec(components=3)})
    model = models.require_model(catalog, first)
    plan = models.make_plan(other, catalog, model["backbone_id"])
    models.write_plan(catalog, plan)
    models.save_classifier(catalog, plan.version, models.load_classifier(catalog, model))
    moved = {"version": plan.version, "created_at": "2026-01-02T00:00:00+00:00"}
    models.write_model(catalog, {**model, **moved, "spec": other.model_dump(mode="json")})
    task, record = make_task("evaluate")
    evaluate(other, catalog, task, record, plan)
    for version in (first, plan.version):
        known = models.require_model(catalog, version)
        models.write_model(catalog, {**known, "seed": 0, "reduction": None})
    return first, plan.version


def client_of(person: Person) -> TestClient:
    return TestClient(create_app(Only(person)))


def test_the_models_are_listed_and_the_champion_is_marked(versions: tuple[str, str]) -> None:
    page = client_of(ANN).get(PAGES)
    first, second = versions
    assert page.status_code == 200
    assert page.text.index(second) < page.text.index(f'value="{first}"')  # the newest first
    champion = re.search(r'<tr class="is-champion">.*?</tr>', page.text, re.DOTALL)
    assert champion and first in champion[0] and second not in champion[0]
    assert "Who served" in page.text
    assert "style=" not in page.text  # the pages' policy forbids it


def test_a_model_is_shown_whole(versions: tuple[str, str]) -> None:
    page = client_of(ANN).get(f"{PAGES}/{versions[0]}")
    assert page.status_code == 200
    for title in (
        "Card", "Where it comes from", "Principal components", "Confusion matrix",
        "Quality by class", "Calibration", "Worst mistakes",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in page.text, title
    assert "style=" not in page.text
    assert '<g class="is-model">' in page.text
    assert f'<a href="{PAGES}" aria-current="page">Models</a>' in page.text
    assert page.text.count('aria-current="page"') == 1


def test_a_fine_tuned_network_is_shown_with_its_course_and_its_study(
    spec: DatasetSpec, versions: tuple[str, str], catalog: Catalog
) -> None:
    version = tuned_champion(catalog, spec)
    model = models.require_model(catalog, version)
    epoch = {"number": 1, "images_per_second": 9.0, "seconds": 1.0}
    epoch |= {f"{kind}{name}": 0.5 for kind in ("", "validation_") for name in ("loss", "accuracy")}
    tuning = {**model["fine_tuning"], "history": [epoch], "best_epoch": 1}
    models.write_model(catalog, {**model, "fine_tuning": tuning, "seed": 0, "reduction": None})
    setting = {"study": "run-1", "workers": 1, "batch_size": 8, "epochs": 1, "accuracy": 0.5}
    setting |= {"images_per_second": 3.0, "efficiency": 1.0, "seconds": 2.0, "cost": 0.0}
    store_partition(catalog.scaling, [setting], "run-1")
    page = client_of(ANN).get(f"{PAGES}/{version}")
    assert page.status_code == 200
    assert "<h2>Training</h2>" in page.text
    assert "<h2>Scaling study</h2>" in page.text
    assert "This model has not been evaluated." in page.text
    drawn = lineage_drawing.draw(catalog, model, "champion")
    assert "backbone to 00001-tuned" in drawn.sentence
    assert "features" not in drawn.sentence


def test_each_cell_of_the_confusion_matrix_opens_its_photos(
    versions: tuple[str, str], catalog: Catalog
) -> None:
    client = client_of(VERA)
    page = client.get(f"{PAGES}/{versions[0]}").text
    cells = re.findall(r'href="([^"]+/photos\?[^"]+)" aria-label="(\d+) photos? of', page)
    assert sum(int(count) for _, count in cells) == 7
    for address, count in cells:
        photos = client.get(address.replace("&amp;", "&"))
        assert photos.text.count('<li>\n  <a class="tile"') == int(count)
        assert photos.text.count("data:image/") == int(count)
    strange = {"truth": "<script>'", "predicted": '"א'}
    empty = client.get(f"{PAGES}/{versions[0]}/photos", params=strange)
    assert empty.status_code == 200
    assert "<script>'" not in empty.text


def test_two_models_stand_side_by_side(versions: tuple[str, str]) -> None:
    left, right = versions
    page = client_of(VERA).get(f"{PAGES}/compare", params={"left": left, "right": right})
    assert page.status_code == 200
    assert "On the 7 test images that both have seen" in page.text
    assert "chance alone may explain the difference" in page.text
    assert re.search(r"reduce.components</th><td>4</td><td>3</td>", page.text)


@pytest.mark.parametrize("version", ["v9", "..%2F..%2Fphotos", "%2E%2E%2Fmodels"])
def test_what_is_not_there_is_not_found(versions: tuple[str, str], version: str) -> None:
    client = client_of(ANN)
    assert client.get(f"{PAGES}/{version}").status_code == 404
    assert client.post(f"{PAGES}/{version}/promote", json={"reason": "why"}).status_code in (
        404,
        409,
    )
    assert client.get(f"{PAGES}/compare?left=v8&right=v9").status_code == 404


def test_a_person_lets_a_model_serve_and_is_remembered(
    versions: tuple[str, str], catalog: Catalog
) -> None:
    first, second = versions
    client = client_of(ANN)
    said = client.post(f"{PAGES}/{second}/promote", json={"reason": "It knows b better."})
    assert said.json() == {"detail": f"{second} serves in place of {first}."}
    told = models.champion_history(catalog)[-1]
    assert (told["version"], told["action"], told["by"]) == (second, "promoted", "ann")
    assert told["reason"] == "It knows b better."
    again = client.post(f"{PAGES}/{second}/promote", json={"reason": "once more"})
    assert (again.status_code, "already" in again.json()["detail"]) == (409, True)
    back = client.post("/datasets/photos/roll-back", json={"reason": "It does not."})
    assert back.json() == {"detail": f"{first} serves in place of {second}."}
    told = models.champion_history(catalog)[-1]
    assert (told["version"], told["action"], told["by"]) == (first, "rolled back", "ann")
    assert publishing.succession(models.champion_history(catalog)).withdrawn[second] == told
    none = client.post("/datasets/photos/roll-back", json={"reason": "further back"})
    assert (none.status_code, "follows no other" in none.json()["detail"]) == (409, True)


def test_a_viewer_and_another_site_change_nothing(
    versions: tuple[str, str], catalog: Catalog
) -> None:
    routes = (f"{PAGES}/{versions[1]}/promote", "/datasets/photos/roll-back")
    for route in routes:
        assert client_of(VERA).post(route, json={"reason": "because"}).status_code == 403
        theirs = client_of(ANN).post(
            route, json={"reason": "because"}, headers={"sec-fetch-site": "cross-site"}
        )
        assert theirs.status_code == 403
        assert client_of(ANN).post(route, json={"reason": ""}).status_code == 422
    assert len(models.champion_history(catalog)) == 1
    page = client_of(VERA).get(f"{PAGES}/{versions[1]}").text
    assert "data-serve" not in page
    assert "data-serve" in client_of(ANN).get(f"{PAGES}/{versions[1]}").text


def test_a_model_of_strange_names_is_escaped(
    spec: DatasetSpec, versions: tuple[str, str], catalog: Catalog
) -> None:
    evil: Any = "<script>alert(1)</script>"
    models.crown(catalog, versions[1], by=evil, reason=evil)
    models.crown(catalog, versions[0], by="ann")
    for address in (PAGES, f"{PAGES}/{versions[1]}"):
        assert "<script>alert" not in client_of(ANN).get(address).text


def test_before_the_first_model_the_page_says_so(spec: DatasetSpec) -> None:
    page = client_of(ANN).get(PAGES)
    assert page.status_code == 200
    assert "No model yet: train_photos makes one" in page.text
