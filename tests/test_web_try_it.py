"""Try it: uploads within their bounds, answers for pages and programs, a server that outlives bad photos."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from sightline import cli, models
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, load_dataset
from sightline.errors import ConfigError
from sightline.images import REASONS
from sightline.serving.predictor import Predictor
from sightline.serving.questions import Question
from sightline.web import uploads
from sightline.web.access import Open
from sightline.web.app import create_app
from sightline.web.prototype import create_prototype
from sightline.web.try_it import serving_of
from tests.browsers import served
from tests.champions import DATASET, head_champion, store_photos, stored, tuned_champion
from tests.conftest import catalog_of, write_dataset

pytestmark = pytest.mark.usefixtures("one_torch_thread")
PREDICT = "/sightline/api/predict"
DRAWN = io.BytesIO()
Image.new("RGB", (60, 50), "teal").save(DRAWN, "PNG")
PHOTO = DRAWN.getvalue()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with a champion, once for all tests."""
    places = tmp_path_factory.mktemp("photos")
    (places / "datasets").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        point_to(places, patched)
        spec = write_dataset(places, "photos", DATASET)
        head_champion(store_photos(spec), spec, "logistic_regression")
    return places


def point_to(places: Path, patched: pytest.MonkeyPatch) -> None:
    patched.setenv("SIGHTLINE_STORAGE", str(places / "data"))
    patched.setenv("SIGHTLINE_DATASETS", str(places / "datasets"))


@pytest.fixture(scope="module")
def predictor(places: Path) -> Iterator[Predictor]:
    """One process for all tests: importing torch takes it seconds."""
    with pytest.MonkeyPatch.context() as patched:
        point_to(places, patched)
        found = Predictor()
        with pytest.raises(ConfigError):
            found.ask(Question("nobody"), b"")
    yield found
    found.close()


@pytest.fixture
def spec(own_places: Path, places: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetSpec:
    point_to(places, monkeypatch)
    return load_dataset("photos")


@pytest.fixture
def catalog(spec: DatasetSpec) -> Catalog:
    return catalog_of(spec)


@pytest.fixture
def app(predictor: Predictor) -> FastAPI:
    """The pages, mounted as Airflow does it."""
    pages = create_app(Open())
    serving_of(pages).predictor = predictor
    outer = FastAPI()
    outer.mount("/sightline", pages)
    return outer


@pytest.fixture
def client(catalog: Catalog, app: FastAPI) -> TestClient:
    return TestClient(app)


def hand(client: Any, content: bytes = PHOTO, url: str = PREDICT, **fields: str) -> Any:
    data = {"dataset": "photos", **fields}
    return client.post(url, data=data, files={"file": ("a.png", content)})


def test_the_answer_is_the_champion_s_own_and_follows_it(
    client: TestClient, catalog: Catalog, spec: DatasetSpec
) -> None:
    published = {row["image_id"]: row["probabilities"] for row in stored(catalog.predictions)}
    row = next(row for row in stored(catalog.images) if row["image_id"] in published)
    answer = hand(client, row["content"], top="2", neighbours="1", pictures="true")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    shares = [one["probability"] for one in sorted(found["top"], key=lambda one: one["label"])]
    assert shares == pytest.approx(published[row["image_id"]], abs=1e-6)
    assert found["seen"].startswith("data:image/png;base64,")
    assert found["neighbours"][0]["picture"].startswith("data:image/")
    plain = hand(client).json()
    assert (plain["seen"], plain["neighbours"], len(plain["top"])) == (None, [], 2)
    first = plain["version"]
    second = tuned_champion(catalog, spec, views=("flips",))
    looked = hand(client).json()
    assert (looked["version"], looked["views"]) == (second, 2)
    assert hand(client, augmented="false").json()["views"] == 1
    models.crown(catalog, first)
    assert hand(client).json()["version"] == first


def test_what_is_asked_in_a_wrong_way_is_told(client: TestClient) -> None:
    assert hand(client, dataset="birds").status_code == 404
    wrong = hand(client, top="0")
    assert (wrong.status_code, "top: " in wrong.json()["detail"]) == (422, True)
    assert "colour: " in hand(client, colour="red").json()["detail"]
    assert client.post(PREDICT, json={}).status_code == 415
    none = client.post(PREDICT, data={"dataset": "photos"}, files={"other": PHOTO})
    assert none.json()["detail"] == "Hand in a photo in the form's field 'file'."
    broken = client.post(
        PREDICT, content=b"--x\r\n", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert broken.status_code in (400, 422)
    other = client.post(PREDICT, files={"file": PHOTO}, headers={"sec-fetch-site": "cross-site"})
    assert other.status_code == 403


def test_without_a_champion_it_is_said(client: TestClient, places: Path) -> None:
    write_dataset(places, "untrained", DATASET)
    answer = hand(client, dataset="untrained")
    assert (answer.status_code, "no champion" in answer.json()["detail"]) == (409, True)
    page = client.get("/sightline/datasets/untrained/try-it")
    assert "There is no champion to ask yet" in page.text


def test_bad_uploads_get_a_sentence_each_and_the_server_lives(
    client: TestClient, shared_data: Path
) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(50_000_000))
    made = {"a page": b"<!doctype html><h1>404</h1>", "zip.png": bomb.getvalue(), "empty": b""}
    nasty = {path.name: path.read_bytes() for path in (shared_data / "nasty").iterdir()}
    refused = 0
    for name, content in {**made, **nasty}.items():
        answer = hand(client, content)
        assert answer.status_code in (200, 422), (name, answer.text)
        if answer.status_code == 422:
            found = answer.json()
            assert found["reason"] in REASONS, name
            assert found["detail"].startswith("This photo cannot be looked at: "), name
            assert found["detail"].endswith("or WEBP."), name
            refused += 1
    assert refused >= len(made) + 14
    assert hand(client).status_code == 200


def test_a_hundred_megabytes_are_refused_while_they_come(
    catalog: Catalog, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a real server, whose client sends to the end and reads the sentence then."""
    with served(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        answer = hand(client, bytes(100_000_000))
        assert (answer.status_code, "larger than 24 MiB" in answer.json()["detail"]) == (413, True)
        monkeypatch.setattr(uploads, "READ_SECONDS", 0.3)
        began, pause = threading.Event(), threading.Event()

        def dripping() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            began.set()
            pause.wait(10)

        kind = {"content-type": "multipart/form-data; boundary=x"}
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(client.post, PREDICT, content=dripping(), headers=kind)
            began.wait(10)
            pause.wait(0.6)
            pause.set()
            assert slow.result().status_code == 408


def test_fifty_at_once_are_answered(catalog: Catalog, app: FastAPI) -> None:
    with (
        served(app) as address,
        httpx.Client(base_url=address, timeout=120) as client,
        ThreadPoolExecutor(50) as pool,
    ):
        answers = list(pool.map(lambda _: hand(client), range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({json.dumps(answer.json()["top"]) for answer in answers}) == 1


def test_programs_are_told_how_to_ask(client: TestClient) -> None:
    told = client.get("/sightline/api/openapi.json").json()
    operation = told["paths"]["/api/predict"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["required"]) == {"dataset", "file"}
    assert set(form["properties"]) == {
        "dataset", "top", "augmented", "neighbours", "pictures", "file",
    }  # fmt: skip
    assert {"200", "409", "413", "422", "503"} <= set(operation["responses"])


def test_no_torch_and_no_spark_is_in_the_server_s_process() -> None:
    code = (
        "import sys; from sightline.web.app import create_app; "
        "from sightline.web.access import Open; create_app(Open()); "
        "import sightline.web.prototype; "
        "print([one for one in ('torch', 'pyspark', 'airflow') if one in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(models.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"


def test_the_prototype_shows_its_datasets_alone_and_nobody_s_photos(
    catalog: Catalog, places: Path, predictor: Predictor
) -> None:
    write_dataset(places, "private", DATASET)
    alone = create_prototype(("photos",))
    serving_of(alone).predictor = predictor
    client = TestClient(alone)
    assert client.get("/").url.path == "/datasets/photos/try-it"
    assert client.get("/datasets/private/try-it").status_code == 403
    assert hand(client, url="/api/predict", dataset="private").status_code == 403
    answer = hand(client, url="/api/predict", neighbours="3", pictures="true").json()
    assert (answer["neighbours"], answer["seen"] is not None) == ([], True)
    routes = {route.name for route in alone.routes}  # type: ignore[attr-defined]
    assert routes == {"read_static", "read_openapi", "choose_dataset", "show_try_it", "predict"}
    both = TestClient(create_prototype(("photos", "private"), shows_photos=True))
    assert both.get("/").text.count("/try-it") == 2


def test_the_command_says_what_the_photo_shows(
    catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_signals: None
) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(PHOTO)
    assert cli.main(["predict", str(photo), "--dataset", "photos"]) == 0
    said = capsys.readouterr().out
    assert "█" in said and "Model 00001-" in said
    assert cli.main(["predict", str(photo), "--dataset", "photos", "--top", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["top"]) == 1
    assert cli.main(["predict", str(tmp_path / "none.jpg"), "--dataset", "photos"]) == 2
    assert "Cannot read" in capsys.readouterr().err
    photo.write_bytes(b"%PDF-1.4")
    assert cli.main(["predict", str(photo), "--dataset", "photos"]) == 1
    assert "PDF is not among JPEG" in capsys.readouterr().err


def test_the_page_is_served_alone_until_it_is_interrupted(catalog: Catalog) -> None:
    code = "import sys; from sightline.cli import main; sys.exit(main(['serve']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(models.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        assert process.stdout
        told = process.stdout.readline()
        assert told.startswith("Try photos: http://127.0.0.1:"), told
        with httpx.Client(base_url=told.split()[2], timeout=60, follow_redirects=True) as client:
            assert "Take a photo" in client.get("/").text
            assert hand(client, url="/api/predict", dataset="other").status_code == 403
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
