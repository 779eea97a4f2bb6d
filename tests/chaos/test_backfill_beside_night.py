"""A night under way in a whole Airflow while its day is begun by hand once more, a backfill is given over it,
and maintenance cleans; photos of the day come late. Minutes: `make chaos` alone runs it."""

import calendar
import datetime
import logging
from pathlib import Path

import pytest

from sightline import tables
from sightline.airflow_client import ENDED, AirflowClient, Run
from sightline.catalog import open_catalog
from sightline.config import load_dataset
from tests.chaos import laws
from tests.founding import FLICKR_KEY, airflow_up, environment, session, sightline, wait_until
from tests.servers.flickr import FlickrServer, Photo, make_photos

pytestmark = pytest.mark.chaos_whole
log = logging.getLogger(__name__)

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
gate: {{max_drop: 1.0}}
"""
FIRST, DAYS, PER_DAY, LATE = datetime.date(2026, 10, 1), 3, 12, 2
LAST = FIRST + datetime.timedelta(days=DAYS - 1)
DAY_SECONDS = 86_400


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Places that the test and its commands share."""
    for name, value in environment(tmp_path).items():
        if name.startswith("SIGHTLINE_"):
            monkeypatch.setenv(name, value)
    return tmp_path


def test_a_backfill_over_a_running_night_loses_and_doubles_nothing(places: Path) -> None:
    with FlickrServer(photos(), FLICKR_KEY) as server:
        text = DATASET.format(api=server.api)
        (places / "datasets" / "trams.yaml").write_text(text)
        with airflow_up(places), session(places) as client:
            night = begin_night(client)
            wait_until(lambda: state_of(client, night, "fetch_images") == "running", "its fetch")
            server.photos += late()
            others = [begin(client, "ingest_trams", f"{LAST}"), begin(client, "maintenance", None)]
            said = sightline(places, "backfill", "trams", "--from", f"{FIRST}", "--to", f"{LAST}")
            others.append(begin(client, "maintenance", None))
            for run in (night, *others):
                wait_until(lambda run=run: end_of(client, run) == "success", f"{run}'s end")
            wait_until(lambda: not client.active_runs("train_trams"), "the trainings' end")
    log.warning("the backfill said: %s", said)
    spec, catalog = load_dataset("trams"), open_catalog("trams")
    # Airflow starts no run of a day that has one under way; that is why the same day was begun by hand, too.
    assert f"{DAYS - 1} of {DAYS - 1} days done" in said
    assert tables.count_rows(catalog.images) == 2 * (DAYS * PER_DAY + LATE)
    laws.check_rows(catalog)
    laws.check_champion(catalog)
    laws.check_no_orphans(spec, catalog)
    laws.check_rows(catalog)


def photos() -> list[Photo]:
    """Photos of both classes on every day."""
    return [photo for number, text in enumerate(("bus", "tram")) for day in range(DAYS)
            for photo in of_day(text, day, PER_DAY, 10_000 * number + 100 * day + 1)]  # fmt: skip


def late() -> list[Photo]:
    """Photos of the night's own day that are found once it has been listed."""
    return [photo for number, text in enumerate(("bus", "tram"))
            for photo in of_day(text, DAYS - 1, LATE, 50_000 + 10_000 * number)]  # fmt: skip


def of_day(text: str, day: int, count: int, first: int) -> list[Photo]:
    midnight = calendar.timegm(FIRST.timetuple()) + day * DAY_SECONDS
    return make_photos(text, [midnight + 100 * (number + 1) for number in range(count)], first)


def begin_night(client: AirflowClient) -> Run:
    """The dataset's schedule is on, and its night begins."""
    wait_until(lambda: bool(client.find_dag("train_trams")), "the DAGs")
    client.set_paused("train_trams", False)
    return begin(client, "ingest_trams", f"{LAST}")


def begin(client: AirflowClient, dag_id: str, partition: str | None) -> Run:
    """A run as the schedule would start it."""
    wait_until(lambda: bool(client.find_dag(dag_id)), dag_id)
    client.set_paused(dag_id, False)
    return client.trigger(dag_id, partition)


def state_of(client: AirflowClient, run: Run, task_id: str) -> str | None:
    """The state of a task."""
    return client.tasks(run)[task_id].state


def end_of(client: AirflowClient, run: Run) -> str | None:
    """How a run has ended; None while it has not. AssertionError where a task has failed."""
    state = client.run(run.dag_id, run.run_id).state
    states = {task.task_id: task.state for task in client.tasks(run).values()}
    assert state != "failed", states
    return state if state in ENDED else None
