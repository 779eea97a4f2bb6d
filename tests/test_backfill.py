"""A month of uploads by one command: 31 partitions side by side in a real Airflow, and few trainings."""

import calendar
import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline import models, tables
from sightline.airflow_client import Run
from sightline.backfill import Backfilled, progress_line
from sightline.catalog import open_catalog
from tests.founding import FLICKR_KEY, environment, files_with, sightline
from tests.servers.flickr import FlickrServer, Photo, make_photos

DATASET = """
source:
  type: flickr
  searches: {{bus: bus, tram: tram}}
  api: {api}
  queries_per_hour: 36000
fetch: {{allow_addresses: [127.0.0.0/8]}}
backbone: {{name: resnet18, weights: random, image_size: 64}}
reduce: {{components: 8}}
train: {{penalties: [0.01], folds: 2}}
"""
FIRST, DAYS, PER_DAY = datetime.date(2026, 10, 1), 31, 4
DAY_SECONDS = 86_400


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Places that the test and its commands share."""
    for name, value in environment(tmp_path).items():
        if name.startswith("SIGHTLINE_"):
            monkeypatch.setenv(name, value)
    yield tmp_path


def month() -> list[Photo]:
    """Photos of both classes on every day, some of them in its first and last second."""
    midnight = calendar.timegm(FIRST.timetuple())
    photos: list[Photo] = []
    for number, text in enumerate(("bus", "tram")):
        for day in range(-1, DAYS + 1):
            start = midnight + day * DAY_SECONDS
            times = [start, start + 7_000, start + 50_000, start + DAY_SECONDS - 1]
            photos += make_photos(text, times, first=100_000 * number + 10 * (day + 1) + 1)
    return photos


@pytest.mark.nightly
def test_a_month_is_filled_by_one_command(places: Path) -> None:
    with FlickrServer(month(), FLICKR_KEY) as server:
        text = DATASET.format(api=server.api)
        (places / "datasets" / "trams.yaml").write_text(text)
        last = FIRST + datetime.timedelta(days=DAYS - 1)
        said = sightline(places, "backfill", "trams", "--from", f"{FIRST}", "--to", f"{last}")
    catalog = open_catalog("trams")
    with tables.query(images=catalog.images, manifest=catalog.manifest) as sql:
        held = sql("SELECT partition, count(*) n FROM images GROUP BY 1 ORDER BY 1").to_pylist()
        distinct = sql("SELECT count(DISTINCT image_id) n FROM images").to_pylist()[0]["n"]
    days = [f"{FIRST + datetime.timedelta(days=day)}" for day in range(DAYS)]
    assert held == [{"partition": day, "n": 2 * PER_DAY} for day in days]
    assert distinct == 2 * PER_DAY * DAYS
    trainings = list((Path(catalog.runs) / "train_trams").glob("*/train.json"))
    assert 1 <= len(trainings) <= 2
    champion = models.read_champion(catalog)
    assert champion is not None
    assert champion["rows"]["train"] + champion["rows"]["test"] == distinct
    assert f"{DAYS} of {DAYS} days done" in said
    assert files_with(places, FLICKR_KEY) == []


def days(*states: str) -> list[Run]:
    """A day's run in each of these states."""
    return [Run("ingest_trams", f"day-{number}", state) for number, state in enumerate(states)]


def test_the_progress_tells_days_and_the_time_left() -> None:
    assert progress_line(days("queued", "queued"), 3.0) == "0 of 2 days done"
    some = days("success", "failed", "running", "queued")
    assert progress_line(some, 240.0) == ("2 of 4 days done, 1 failed, 1 running, about 4 min left")
    assert progress_line(days("success", "success"), 60.0) == "2 of 2 days done"


def test_a_backfill_succeeds_when_every_run_does() -> None:
    assert Backfilled(days("success"), days("success")).succeeded
    assert not Backfilled(days("success", "failed"), days("success")).succeeded
    assert not Backfilled(days("success"), days("failed")).succeeded
