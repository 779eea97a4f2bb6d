"""Each founding dataset's own YAML, from an empty storage to a champion and its report, in a real Airflow."""

import calendar
import datetime
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sightline import ledger, models, tables
from sightline.catalog import open_catalog
from tests.founding import (
    FLICKR_KEY,
    KAGGLE_TOKEN,
    airflow_up,
    environment,
    files_with,
    md5,
    sightline,
    sun397,
    write_dataset,
    write_weights,
)
from tests.servers.files import file_server
from tests.servers.flickr import FlickrServer, Photo, make_photos
from tests.servers.kaggle import cars, fruits, kaggle_server
from tests.servers.open_images import Bucket

pytestmark = pytest.mark.nightly

DAY = "2026-11-05"
CLASSES = ("bicycle", "bus", "car", "excavator", "motorbike", "scooter", "snowmobile", "train",
           "truck", "wagon")  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One Airflow, its places, and weights for all."""
    folder = tmp_path_factory.mktemp("founding")
    (folder / "datasets").mkdir()
    write_weights(folder / "torch")
    with airflow_up(folder):
        yield folder


@pytest.fixture(autouse=True)
def look_there(places: Path, own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look into the module's places rather than the test's own."""
    for name, value in environment(places).items():
        if name.startswith("SIGHTLINE_"):
            monkeypatch.setenv(name, value)


def count(dataset: str, statement: str) -> list[dict[str, Any]]:
    """Rows of SQL over the dataset's tables."""
    catalog = open_catalog(dataset)
    named = {table.name: table for table in catalog.tables}
    with tables.query(**named) as sql:
        return list(sql(statement).to_pylist())


def check_trained(dataset: str, images: int, at_least: float) -> None:
    """The images are there, each with its features, and a champion serves."""
    assert count(dataset, "SELECT count(*) n FROM images")[0]["n"] == images
    assert count(dataset, "SELECT count(*) n FROM features")[0]["n"] == images
    champion = models.read_champion(open_catalog(dataset))
    assert champion is not None
    assert champion["metrics"]["accuracy"] >= at_least
    assert (Path(open_catalog(dataset).reports) / "latest.html").exists()


def reasons(dataset: str) -> Counter[str]:
    return Counter(row["reason"] for row in count(dataset, "SELECT reason FROM rejects"))


def test_land_transport_is_harvested_from_flickr(places: Path) -> None:
    midnight = calendar.timegm(datetime.date.fromisoformat(DAY).timetuple())
    photos: list[Photo] = []
    for number, label in enumerate(CLASSES):
        times = range(midnight, midnight + 86_400, 9_000)
        photos += make_photos(label, times, first=1_000 * number + 1)
        photos += make_photos(label, [midnight - 1, midnight + 86_400], first=1_000 * number + 500)
    photos.append(Photo(99_001, "car", midnight + 5, is_removed=True))
    photos.append(Photo(99_002, "car", midnight + 6, licence=0))
    with FlickrServer(photos, FLICKR_KEY) as server:
        # Two queries are the preflights'. The fifth class's is put off so long that Airflow tries again.
        server.before = lambda number: server.faults.extend(["http 429 300"] * (number == 7))
        write_dataset(places, "land_transport", api=server.api)
        sightline(places, "run", "land_transport", "--partition", DAY)
        assert (
            len(server.queries) == 13
        )  # the second try asks for the fifth class and those after it
    check_trained("land_transport", 100, at_least=0.5)
    assert reasons("land_transport") == {"gone": 1}
    rows = count("land_transport", "SELECT DISTINCT licence, partition FROM manifest")
    assert rows == [{"licence": "CC-BY-2.0", "partition": DAY}]
    listed = ledger.last_record(
        open_catalog("land_transport"), "ingest_land_transport", "list_images"
    )
    assert listed["counts"]["harvest"]["completeness"] == 1.0
    report = (Path(open_catalog("land_transport").reports) / "latest.html").read_text()
    assert "Harvest" in report and "101 of 101 photos" in report


def test_open_images_are_joined_in_spark(places: Path) -> None:
    bucket = Bucket(places / "open_images")
    for number in range(60):
        mid = ("/m/0k4j", "/m/07j7r")[number % 2]
        bucket.add(number, ("verification", mid, "1"), rotation=("0.0", "90.0")[number % 3 == 0])
    bucket.add(100, ("verification", "/m/0k4j", "1"), ("verification", "/m/07j7r", "1"))
    bucket.add(101, ("verification", "/m/0k4j", "0"))
    bucket.add(102, ("verification", "/m/0k4j", "1"), stored=False)
    bucket.write_tables()
    with bucket.served() as address:
        write_dataset(
            places, "open_images_car_tree", tables=f"{address}/tables", images=f"{address}/bucket"
        )
        sightline(places, "run", "open_images_car_tree")
    check_trained("open_images_car_tree", 60, at_least=0.6)
    assert reasons("open_images_car_tree") == {"gone": 1}
    turned = count("open_images_car_tree", "SELECT count(*) n FROM images WHERE rotation = 90")
    assert turned == [{"n": 20}]
    report = (Path(open_catalog("open_images_car_tree").reports) / "latest.html").read_text()
    assert "What the source says" in report


def test_fruits_360_keeps_its_official_split(places: Path) -> None:
    names = ("Apple 1", "Banana 1", "Cherry 2")
    with kaggle_server(KAGGLE_TOKEN) as server:
        server.datasets["moltean/fruits"] = {1: fruits(names[:1]), 11: fruits(names, images=10)}
        write_dataset(places, "fruits_360", api=server.address)
        sightline(places, "run", "fruits_360")
    check_trained("fruits_360", 45, at_least=0.6)
    hints = count("fruits_360", "SELECT split_hint s, count(*) n FROM images GROUP BY 1 ORDER BY 1")
    assert hints == [{"s": "test", "n": 15}, {"s": "train", "n": 30}]
    kept = """SELECT count(*) n FROM images i JOIN splits s ON s.image_id = i.image_id
              WHERE s.split <> i.split_hint"""
    assert count("fruits_360", kept) == [{"n": 0}]


def test_car_models_leave_the_unlabelled_images_to_predict(places: Path) -> None:
    with kaggle_server(KAGGLE_TOKEN) as server:
        server.competitions["sf-dl-car-classification"] = cars(images=5)
        write_dataset(places, "car_models", api=server.address)
        sightline(places, "run", "car_models")
    check_trained("car_models", 55, at_least=0.2)
    assert count("car_models", "SELECT count(*) n FROM images WHERE label IS NULL") == [{"n": 5}]
    assert count("car_models", "SELECT count(*) n FROM splits") == [{"n": 50}]


def test_sun397_is_read_inside_its_archive(places: Path) -> None:
    archive, lists = sun397()
    with file_server() as server:
        write_dataset(
            places,
            "sun397",
            urls=["http://127.0.0.1:9/SUN397.tar.gz", server.put("/SUN397.tar.gz", archive)],
            md5=md5(archive),
            split_lists={
                "urls": [server.put("/Partitions.zip", lists)],
                "train": "Training_01.txt",
                "test": "Testing_01.txt",
            },
        )
        sightline(places, "run", "sun397")
    check_trained("sun397", 36, at_least=0.6)
    labels = count("sun397", "SELECT DISTINCT label FROM images ORDER BY label")
    assert [row["label"] for row in labels] == ["abbey", "church/indoor", "church/outdoor"]
    assert count("sun397", "SELECT count(*) n FROM splits WHERE split = 'test'") == [{"n": 18}]


def test_no_key_is_in_any_file(places: Path) -> None:
    assert files_with(places, FLICKR_KEY, KAGGLE_TOKEN, "signed-secret") == []
