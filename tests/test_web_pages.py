"""The pages as an application: its frame, errors and headers, its cards, and documents served safely."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.testclient import TestClient

from sightline import storage
from sightline.catalog import Catalog
from sightline.errors import StorageError, TrainingError
from sightline.web.access import Acting, Entering, Open, Permission, Seeing, Visitor
from sightline.web.app import PAGES, create_app
from sightline.web.documents import document_policy
from sightline.web.views.cards import read_card, read_night
from sightline.web.views.runs import read_run
from sightline.web.views.sparkline import draw_sparkline
from tests.conftest import write_dataset
from tests.web_demo import BY_FOLDER, LABELS, RUN_ID, write_demo

HTML = {"accept": "text/html"}


@dataclass(frozen=True)
class Ada:
    """May look at birds, and at nothing else."""

    name: str = "ada"

    def may(self, permission: Permission, dataset: str) -> bool:
        return permission is Permission.SEE and dataset == "birds"


@dataclass(frozen=True)
class LetsAdaIn:
    airflow: str | None = "/base"

    async def visitor(self, request: Request) -> Visitor:
        return Ada()


@dataclass(frozen=True)
class LetsNobodyIn:
    airflow: str | None = "/base"

    async def visitor(self, request: Request) -> Visitor:
        raise HTTPException(401, "Not authenticated")


trouble = APIRouter()


@trouble.post("/datasets/{dataset}/change")
def change(visit: Acting, number: int) -> int:
    return number


@trouble.post("/datasets/{dataset}/guess")
def guess(visit: Seeing, number: int) -> int:
    if number == 0:
        raise TrainingError("There is no champion.")
    return 100 // (number - 1)


@trouble.get("/stored")
def stored(visitor: Entering) -> None:
    raise StorageError("The store is away.")


@pytest.fixture
def catalog(own_places: Path) -> Catalog:
    return write_demo(own_places)


@pytest.fixture
def open_pages(catalog: Catalog) -> TestClient:
    return TestClient(create_app(Open(), [*PAGES, trouble]), raise_server_exceptions=False)


@pytest.fixture
def mounted(catalog: Catalog) -> TestClient:
    """As Airflow mounts the pages, itself below a path."""
    airflow = FastAPI(root_path="/base")
    airflow.mount("/sightline", create_app(LetsAdaIn()))
    return TestClient(airflow)


def test_a_card_tells_the_dataset_at_a_glance(catalog: Catalog) -> None:
    card = read_card("birds")
    assert (card.images, card.classes, card.rejects) == (22, 6, 3)
    assert card.champion == "00004-abcdef01"
    assert card.accuracy == 0.932
    assert card.trend == (0.81, 0.86, 0.9, 0.894, 0.932)
    assert {sample.label for sample in card.samples} == set(LABELS)
    assert card.is_daily
    night = read_night(catalog)
    assert night is not None
    assert (night.images, night.rejects, night.known) == (22, 3, 1_204)


def test_a_dataset_that_was_never_run_has_an_empty_card(catalog: Catalog) -> None:
    card = read_card("digits")
    assert (card.images, card.classes, card.night, card.champion) == (0, 0, None, None)
    assert card.problem is None


def test_a_table_that_cannot_be_read_is_told_on_its_card(
    catalog: Catalog, open_pages: TestClient
) -> None:
    log = storage.join(catalog.images.url, "_delta_log", "00000000000000000001.json")
    storage.write_bytes(log, b"not json")
    problem = read_card("birds").problem
    assert problem is not None
    assert "images" in problem
    assert "digits" in open_pages.get("/").text


def test_who_has_not_logged_in_is_shown_where(own_places: Path) -> None:
    page = TestClient(create_app(LetsNobodyIn())).get("/", headers=HTML)
    assert page.status_code == 401
    assert 'href="/base/api/v2/auth/login?next=/"' in page.text


def test_datasets_with_photos_stand_first(open_pages: TestClient, own_places: Path) -> None:
    write_dataset(own_places, "aardvarks", BY_FOLDER)
    shown = re.findall(r'data-dataset="(\w+)"', open_pages.get("/").text)
    assert shown == ["birds", "aardvarks", "broken", "digits"]


def test_a_broken_file_is_told_on_its_card(open_pages: TestClient) -> None:
    assert "unknown backbone &#39;resnet5&#39;" in open_pages.get("/").text


def test_what_is_written_in_a_label_is_not_taken_for_html(open_pages: TestClient) -> None:
    page = open_pages.get("/").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "שלום" in page


def test_addresses_hold_below_any_prefix_and_only_the_permitted_is_listed(
    mounted: TestClient,
) -> None:
    page = mounted.get("/base/sightline/").text
    assert 'src="/base/sightline/datasets/birds/thumbnails/' in page
    assert 'href="/base/sightline/static/sightline.css?v=' in page
    assert 'data-airflow="/base"' in page
    assert "digits" not in page
    assert 'data-do="run"' not in page  # she may not


def test_strangers_learn_nothing_of_datasets_that_they_may_not_see(mounted: TestClient) -> None:
    for dataset in ("digits", "none"):
        answer = mounted.get(f"/base/sightline/datasets/{dataset}/reports/latest.html")
        assert answer.status_code == 403
        assert answer.json()["detail"] == f"ada may not see dataset '{dataset}'."
    assert mounted.get(f"/base/sightline/runs/ingest_digits/{RUN_ID}").status_code == 403


def test_a_photo_of_the_strip_is_small(open_pages: TestClient) -> None:
    sample = read_card("birds").samples[0]
    assert f"/datasets/birds/thumbnails/{sample.image_id}" in open_pages.get("/").text
    answer = open_pages.get(f"/datasets/birds/thumbnails/{sample.image_id}")
    assert answer.headers["content-type"] in ("image/jpeg", "image/png")


def test_every_answer_has_the_headers(open_pages: TestClient) -> None:
    for path in ("/", "/nowhere", "/static/sightline.css", "/static/nothing.js"):
        headers = open_pages.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; "), path
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    broken = open_pages.post("/datasets/birds/guess?number=1")
    assert broken.status_code == 500
    assert broken.headers["content-security-policy"].startswith("default-src 'self'; ")


def test_errors_are_a_page_for_people_and_json_for_programs(open_pages: TestClient) -> None:
    page = open_pages.get("/datasets/none/reports/latest.html", headers=HTML)
    assert page.status_code == 404
    assert "<h1>Not Found</h1>" in page.text
    assert "There is no dataset &#39;none&#39;." in page.text
    assert open_pages.get("/stored").status_code == 503
    for number, status, sentence in [
        ("0", 409, "There is no champion."),
        ("1", 500, "Something went wrong here; the server's log says what."),
        (
            "x",
            422,
            "number: Input should be a valid integer, unable to parse string as an integer.",
        ),
    ]:
        answer = open_pages.post(f"/datasets/birds/guess?number={number}")
        assert (answer.status_code, answer.json()["detail"]) == (status, sentence)


def test_anyone_may_look_and_change_nothing(open_pages: TestClient) -> None:
    assert open_pages.post("/datasets/birds/guess?number=2").json() == 100
    assert open_pages.post("/datasets/birds/change?number=2").status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a program
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://testserver"}, 200),
        ({"origin": "http://elsewhere.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_no_other_site_asks_for_a_change(
    open_pages: TestClient, headers: dict[str, str], status: int
) -> None:
    answer = open_pages.post("/datasets/birds/guess?number=2", headers=headers)
    assert answer.status_code == status
    assert open_pages.get("/", headers=headers).status_code == 200  # a link may come from anywhere


def test_documents_are_served_with_a_policy_of_their_own(open_pages: TestClient) -> None:
    for path in ("reports/latest.html", "reports/00004-abcdef01.html", "checks/index.html"):
        answer = open_pages.get(f"/datasets/birds/{path}")
        assert answer.status_code == 200, path
        assert answer.headers["content-security-policy"] == document_policy()
    assert "script-src 'unsafe-hashes' 'sha256-" in document_policy()
    assert "default-src 'none'" in document_policy()


@pytest.mark.parametrize(
    "path",
    [
        "reports/../models/champion.json",
        "reports/..%2Fmodels%2Fchampion.json",
        "checks/../models/champion.json",
        "checks/%2e%2e/models/champion.json",
        "checks/..%5Cmodels%5Cchampion.json",
        "checks//etc/passwd.html",
        "checks/%2Fetc%2Fpasswd.html",
        "checks/.hidden.html",
        "checks/index.html%00.txt",
        "checks/validations",
        "checks/",
        "reports/weights.safetensors",
        "reports/other.html",
    ],
)
def test_nothing_but_documents_is_served(
    open_pages: TestClient, catalog: Catalog, path: str
) -> None:
    assert storage.exists(catalog.champion)
    assert open_pages.get(f"/datasets/birds/{path}").status_code == 404


def test_a_run_tells_what_came_in_and_what_was_known(
    catalog: Catalog, open_pages: TestClient
) -> None:
    run = read_run(catalog, "ingest_birds", RUN_ID)
    assert run is not None
    assert run.totals["known"] == 1_204
    assert run.images_per_second == pytest.approx(22 / 31.4)
    assert [task.name for task in run.tasks][:2] == ["list_images", "fetch_images"]
    assert run.checks[0].missed == ["no image is tiny"]
    page = open_pages.get(f"/runs/ingest_birds/{RUN_ID}").text
    assert "Known, not fetched again" in page
    training = open_pages.get(f"/runs/train_birds/{RUN_ID}").text
    assert "/datasets/birds/reports/00004-abcdef01.html" in training


def test_a_run_without_records_and_one_of_another_dag_are_told_apart(
    open_pages: TestClient,
) -> None:
    assert "No task of this run has ended yet" in open_pages.get("/runs/ingest_birds/x").text
    assert "is not the DAG of a dataset" in open_pages.get("/runs/somebodys/x").text
    assert open_pages.get("/runs/ingest_none/x").status_code == 404


def test_the_pages_import_nothing_heavy() -> None:
    heavy = ("airflow", "torch", "pyspark", "great_expectations", "sklearn")
    asked = f"import sys, sightline.web.app; print([one for one in {heavy} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_line_goes_from_lowest_to_highest() -> None:
    line = draw_sparkline((0.5, 1.0, 0.75))
    assert line is not None
    assert line.points == "3.0,25.0 48.0,3.0 93.0,14.0"
    level = draw_sparkline((0.5, 0.5))
    assert level is not None
    assert level.points == "3.0,14.0 93.0,14.0"
    assert draw_sparkline((0.5,)) is None
