"""Each founding dataset's own YAML file, from an empty storage to a champion, its report and its answers: all
five in one real Airflow, with their own networks at full size, within 8 GiB for all processes together.

Weights are random, so accuracies mean nothing here; what is asserted are counts, widths, files and courses.
"""

import calendar
import csv
import datetime
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sightline import backbones, ledger, memory, models, tables
from sightline.catalog import Catalog, open_catalog
from sightline.config import DatasetSpec, load_dataset
from tests import founding
from tests.founding import FLICKR_KEY, KAGGLE_TOKEN, md5, session, sightline, sun397, write_dataset
from tests.memory_watch import MemoryWatch
from tests.servers.files import file_server
from tests.servers.flickr import FlickrServer, Photo, make_photos
from tests.servers.kaggle import KaggleServer, cars, fruits, kaggle_server
from tests.servers.open_images import Bucket

pytestmark = pytest.mark.founding

MOST_BYTES = 8 * memory.GIB
DAY = "2026-11-05"
CLASSES = ("bicycle", "bus", "car", "excavator", "motorbike", "scooter", "snowmobile", "train",
           "truck", "wagon")  # fmt: skip
Measure = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class World:
    """The places of the suite, with Airflow up in them, and the providers."""

    places: Path
    flickr: FlickrServer
    kaggle: KaggleServer


@dataclass(frozen=True)
class Trained:
    """What a dataset's run has left."""

    spec: DatasetSpec
    catalog: Catalog
    champion: dict[str, Any]
    candidates: dict[str, dict[str, Any]]  # by kind
    tested: int  # images of the test split

    def section(self, name: str) -> str:
        """A section of the report."""
        page = (Path(self.catalog.reports) / "latest.html").read_text()
        begin = page.index(f'<section id="{name}">')
        return page[begin : page.index("</section>", begin)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All dataset files are there before Airflow starts: it reads them once."""
    places = tmp_path_factory.mktemp("founding")
    (places / "datasets").mkdir()
    founding.write_weights(places / "torch")
    founding.prepare(places)
    with ExitStack() as stack:
        flickr = stack.enter_context(FlickrServer(land_transport_photos(), FLICKR_KEY))
        write_dataset(places, "land_transport", api=flickr.api)
        address = stack.enter_context(open_images(places / "open_images").served())
        write_dataset(
            places, "open_images_car_tree", tables=f"{address}/tables", images=f"{address}/bucket"
        )
        kaggle = stack.enter_context(kaggle_server(KAGGLE_TOKEN))
        names = ("Apple 1", "Banana 1", "Cherry 2")
        kaggle.datasets["moltean/fruits"] = {1: fruits(names[:1]), 11: fruits(names, images=10)}
        kaggle.competitions["sf-dl-car-classification"] = cars(images=3)
        write_dataset(places, "fruits_360", api=kaggle.address)
        write_dataset(places, "car_models", api=kaggle.address)
        stack.enter_context(sun397_served(places))
        stack.enter_context(founding.airflow_up(places))
        yield World(places, flickr, kaggle)


@pytest.fixture(scope="module")
def watch(world: World) -> Iterator[MemoryWatch]:
    """Sees every process of Airflow, of Spark and of the commands."""
    with MemoryWatch(f"SIGHTLINE_STATE={world.places / 'state'}") as found:
        yield found


@pytest.fixture(autouse=True)
def look_there(world: World, own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look into the module's places rather than the test's own."""
    for name, value in founding.environment(world.places).items():
        if name.startswith("SIGHTLINE_"):
            monkeypatch.setenv(name, value)


@pytest.fixture
def measured(watch: MemoryWatch, tell: Callable[[str], None]) -> Measure:
    """A block whose time and peak of memory are told, and whose peak is bounded."""

    @contextmanager
    def block(dataset: str) -> Iterator[None]:
        try:
            with watch.measured() as peak:
                yield
        finally:
            tell(f"{dataset}: {peak.describe()}")
            tell(f"{dataset}: {stage_seconds(open_catalog(dataset))}")
        assert peak.samples > peak.seconds / 2, "too few samples to trust the peak"
        assert peak.size_bytes <= MOST_BYTES, peak.describe()

    return block


def land_transport_photos() -> list[Photo]:
    """Ten of each class on the day, others on the days beside it, one removed, one under another licence."""
    midnight = calendar.timegm(datetime.date.fromisoformat(DAY).timetuple())
    photos: list[Photo] = []
    for number, label in enumerate(CLASSES):
        times = range(midnight, midnight + 86_400, 9_000)
        photos += make_photos(label, times, first=1_000 * number + 1)
        photos += make_photos(label, [midnight - 1, midnight + 86_400], first=1_000 * number + 500)
    photos.append(Photo(99_001, "car", midnight + 5, is_removed=True))
    return [*photos, Photo(99_002, "car", midnight + 6, licence=0)]


def open_images(folder: Path) -> Bucket:
    """60 cars and trees, a third of them lying on their side; one of both, one of neither, one gone."""
    bucket = Bucket(folder)
    for number in range(60):
        mid = ("/m/0k4j", "/m/07j7r")[number % 2]
        bucket.add(number, ("verification", mid, "1"), rotation=("0.0", "90.0")[number % 3 == 0])
    bucket.add(100, ("verification", "/m/0k4j", "1"), ("verification", "/m/07j7r", "1"))
    bucket.add(101, ("verification", "/m/0k4j", "0"))
    bucket.add(102, ("verification", "/m/0k4j", "1"), stored=False)
    bucket.write_tables()
    return bucket


@contextmanager
def sun397_served(places: Path) -> Iterator[None]:
    """The archive and its lists, served as files."""
    archive, lists = sun397()
    split_lists = founding.shipped("sun397")["source"]["split_lists"]
    with file_server() as server:
        write_dataset(
            places,
            "sun397",
            urls=[server.put("/SUN397.tar.gz", archive)],
            md5=md5(archive),
            split_lists=split_lists | {"urls": [server.put("/Partitions.zip", lists)]},
        )
        yield


def count(catalog: Catalog, statement: str) -> list[dict[str, Any]]:
    """Rows of SQL over the dataset's tables."""
    named = {table.name: table for table in catalog.tables}
    with tables.query(**named) as sql:
        return list(sql(statement).to_pylist())


def stage_seconds(catalog: Catalog) -> str:
    """How long each stage took, without its start in Airflow; those of a second or more."""
    records = [json.loads(path.read_text()) for path in Path(catalog.runs).glob("*/*/*.json")]
    tasks = sorted((one for one in records if "task" in one), key=lambda one: one["started_at"])
    long = [f"{one['task']} {one['seconds']:.0f} s" for one in tasks if one["seconds"] >= 1]
    return ", ".join(long)


def check_trained(name: str, images: int) -> Trained:
    """The images are there, each with its features of the network's width; every candidate was judged on the
    test images, one of them serves, and the report shows its predictions."""
    spec, catalog = load_dataset(name), open_catalog(name)
    assert count(catalog, "SELECT count(*) n FROM images") == [{"n": images}]
    width = backbones.DIMENSIONS[spec.backbone.name]
    wide = "SELECT array_length(embedding) w, count(DISTINCT image_id) n FROM features GROUP BY 1"
    assert count(catalog, wide) == [{"w": width, "n": images}]
    champion = models.require_champion(catalog)
    assert champion["backbone_id"].startswith(f"{spec.backbone.name}-default-")
    plan = models.read_plan(catalog, models.plan_of(champion["version"]))
    versions = models.candidates(spec, plan)
    found = {kind: models.require_model(catalog, version) for kind, version in versions.items()}
    assert set(found) == ({"head", "fine_tuned"} if spec.fine_tune else {"head"})
    tested = count(catalog, "SELECT count(*) n FROM splits WHERE split = 'test'")[0]["n"]
    for model in found.values():
        assert model["rows"]["test"] == tested > 0
        assert 0 <= model["metrics"]["accuracy"] <= 1
    trained = Trained(spec, catalog, champion, found, tested)
    shown = trained.section("predictions")
    assert shown.count("<figure>") == min(tested, 24)
    assert shown.count('<img src="data:image/') == min(tested, 24)
    if spec.fine_tune:
        check_fine_tuned(trained)
    return trained


def check_fine_tuned(trained: Trained) -> None:
    """Every phase was trained with the settings of the file, and the test images were scored."""
    asked, model = trained.spec.fine_tune, trained.candidates["fine_tuned"]
    assert asked is not None
    tuning = model["fine_tuning"]
    assert len(tuning["history"]) == sum(phase.epochs for phase in asked.all_phases)
    tried = {"phases", "learning_rate", "optimizer", "loss"} if asked.search else set()
    wanted = asked.model_dump(mode="json")
    assert {name for name, value in tuning["settings"].items() if value != wanted[name]} <= tried
    assert len(tuning["search"]) == (asked.search.trials if asked.search else 0)
    scores = count(trained.catalog, "SELECT count(*) n, count(augmented) a FROM scores")[0]
    assert scores["n"] >= trained.tested
    assert scores["a"] == (scores["n"] if asked.test_time_augmentation else 0)


def check_predicted(world: World, trained: Trained) -> None:
    """predict_<dataset>, asked for all images, answers on each of them."""
    name = trained.spec.name
    with session(world.places) as client:
        run = founding.trigger(client, f"predict_{name}", images="all")
        states = founding.wait_for_success(client, run)
    assert states["predict"] == "success"
    images = count(trained.catalog, "SELECT count(*) n FROM images")
    assert count(trained.catalog, "SELECT count(DISTINCT image_id) n FROM answers") == images
    lines = answers_file(trained).read_text().splitlines()
    assert lines[0] == "uri,label,predicted,probability,second,second_probability"
    assert len(lines) == 1 + images[0]["n"]


def answers_file(trained: Trained, ending: str = "") -> Path:
    """The file of the champion's answers."""
    return Path(trained.catalog.predicted) / f"{trained.champion['version']}{ending}.csv"


def reasons(catalog: Catalog) -> Counter[str]:
    return Counter(row["reason"] for row in count(catalog, "SELECT reason FROM rejects"))


def test_land_transport_is_harvested_from_flickr(world: World, measured: Measure) -> None:
    flickr = world.flickr
    # Two queries are the preflights'. The fifth class's is put off so long that Airflow tries again.
    flickr.before = lambda number: flickr.faults.extend(["http 429 300"] * (number == 7))
    with measured("land_transport"):
        sightline(world.places, "run", "land_transport", "--partition", DAY)
        trained = check_trained("land_transport", images=100)
        check_predicted(world, trained)
    assert len(flickr.queries) == 13  # the second try asks for the fifth class and those after it
    catalog = trained.catalog
    assert reasons(catalog) == {"gone": 1}
    rows = count(catalog, "SELECT DISTINCT licence, partition FROM manifest")
    assert rows == [{"licence": "CC-BY-2.0", "partition": DAY}]
    listed = ledger.last_record(catalog, "ingest_land_transport", "list_images")
    assert listed["counts"]["harvest"]["completeness"] == 1.0
    source = trained.section("source")
    assert "Harvest" in source and "101 of 101 photos" in source


def test_open_images_are_joined_in_spark(world: World, measured: Measure) -> None:
    with measured("open_images_car_tree"):
        sightline(world.places, "run", "open_images_car_tree")
        trained = check_trained("open_images_car_tree", images=60)
        check_predicted(world, trained)
    assert reasons(trained.catalog) == {"gone": 1}
    turned = count(trained.catalog, "SELECT count(*) n FROM images WHERE rotation = 90")
    assert turned == [{"n": 20}]
    head = trained.candidates["head"]
    assert head["reduction"]["total_explained"] >= 0.95
    facts = " ".join(trained.section("source").split())
    for fact in ("31 images of Car", "30 images of Tree", "20 images to be rotated",
                 "Labels of the wanted classes by who gave them", "Car and Tree: 1"):  # fmt: skip
        assert fact in facts


def test_fruits_360_keeps_its_official_split(world: World, measured: Measure) -> None:
    with measured("fruits_360"):
        sightline(world.places, "run", "fruits_360")
        trained = check_trained("fruits_360", images=45)
        check_predicted(world, trained)
    catalog = trained.catalog
    hints = count(catalog, "SELECT split_hint s, count(*) n FROM images GROUP BY 1 ORDER BY 1")
    assert hints == [{"s": "test", "n": 15}, {"s": "train", "n": 30}]
    kept = """SELECT count(*) n FROM images i JOIN splits s ON s.image_id = i.image_id
              WHERE s.split <> i.split_hint"""
    assert count(catalog, kept) == [{"n": 0}]
    assert trained.candidates["head"]["reduction"]["components"] == 4
    components = " ".join(trained.section("components").split())
    assert "4 components of 4,096 carry" in components
    assert "Scree plot: the share of variance of each of the 4 components" in components


def test_sun397_is_read_inside_its_archive(world: World, measured: Measure) -> None:
    with measured("sun397"):
        sightline(world.places, "run", "sun397")
        trained = check_trained("sun397", images=36)
        check_predicted(world, trained)
    catalog = trained.catalog
    labels = count(catalog, "SELECT DISTINCT label FROM images ORDER BY label")
    assert [row["label"] for row in labels] == ["abbey", "church/indoor", "church/outdoor"]
    assert trained.tested == 18
    assert trained.candidates["fine_tuned"]["fine_tuning"]["settings"]["processes"] == 2


def test_car_models_fill_in_the_competitions_sample(world: World, measured: Measure) -> None:
    with measured("car_models"):
        with session(world.places) as client:  # the new champion starts the prediction
            client.set_paused("predict_car_models", False)
            sightline(world.places, "run", "car_models")
            founding.wait_until(
                lambda: bool(founding.runs_of(client, "predict_car_models")), "the prediction"
            )
            (run,) = founding.runs_of(client, "predict_car_models")
            founding.wait_for_success(client, run)
        trained = check_trained("car_models", images=35)
    catalog = trained.catalog
    assert count(catalog, "SELECT count(*) n FROM images WHERE label IS NULL") == [{"n": 5}]
    assert count(catalog, "SELECT count(*) n FROM splits") == [{"n": 30}]
    assert count(catalog, "SELECT count(*) n FROM answers") == [{"n": 5}]
    sample = world.kaggle.competitions["sf-dl-car-classification"]["sample-submission.csv"]
    asked = list(csv.reader(sample.decode().splitlines()))
    handed_in = list(csv.reader(answers_file(trained, "-submission").read_text().splitlines()))
    assert handed_in[0] == asked[0] == ["Id", "Category"]
    assert [row[0] for row in handed_in] == [row[0] for row in asked]
    assert {row[1] for row in handed_in[1:]} <= {str(number) for number in range(10)}
    judged = ledger.last_record(catalog, "train_car_models", "audit_labels")["counts"]["judged"]
    assert f"{judged} labels" in trained.section("suspicious_labels")


def test_no_key_is_in_any_file(world: World) -> None:
    assert founding.files_with(world.places, FLICKR_KEY, KAGGLE_TOKEN, "signed-secret") == []
