"""The main job whole, with a real Airflow and a real Spark: run, kill, retry, train, run again."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sightline import ledger, tables
from sightline.catalog import Catalog, open_catalog
from tests import accuracies
from tests.conftest import SIGHTLINE, run_sightline, write_photos
from tests.openlineage_spec import check_events

pytestmark = pytest.mark.end_to_end

DEADLINE_SECONDS = 600
PER_CLASS = {"amber": 260, "blue": 250, "coral": 240}
DATASET = """
source: {{type: folder, path: {photos}}}
backbone: {{name: resnet18, weights: random, image_size: 64}}
reduce: {{components: 32}}
train: {{penalties: [0.01], folds: 2}}
limits: {{images_per_commit: 75}}
"""


@dataclass
class Finished:
    """What a finished run left on the console and in the tables."""

    first: str
    second: str
    killed: list[str]
    status: dict[str, Any]
    status_after_first: dict[str, Any]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Places that all tests of this module share."""
    folder = tmp_path_factory.mktemp("end_to_end")
    (folder / "datasets").mkdir()
    photos = write_photos(folder / "photos", PER_CLASS, side=320)
    (photos / "blue" / "broken.jpg").write_bytes((photos / "blue" / "0000.jpg").read_bytes()[:900])
    (folder / "datasets" / "colours.yaml").write_text(DATASET.format(photos=photos))
    yield folder
    assert processes_with(folder) == []


@pytest.fixture(scope="module")
def finished(places: Path) -> Finished:
    """Run once, killing the Spark driver in the middle of two tasks; then run again."""
    killed: list[str] = []
    first = run(places, lambda: kill_in_the_middle(places, killed))
    after_first = status(places)
    second = run(places, lambda: None)
    return Finished(first, second, killed, status(places), after_first)


@pytest.fixture(autouse=True)
def shared_places(places: Path, own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look into the module's places rather than the test's own."""
    for name, value in environment(places).items():
        if name.startswith("SIGHTLINE_"):
            monkeypatch.setenv(name, value)


def environment(places: Path) -> dict[str, str]:
    """The environment of the commands under test."""
    return {
        **os.environ,
        "SIGHTLINE_STORAGE": str(places / "data"),
        "SIGHTLINE_STATE": str(places / "state"),
        "SIGHTLINE_DATASETS": str(places / "datasets"),
    }


def run(places: Path, meanwhile: Callable[[], None]) -> str:
    """`sightline run colours` to its end; returns what it said."""
    return run_sightline(
        environment(places), "run", "colours", seconds=DEADLINE_SECONDS, meanwhile=meanwhile
    )


def status(places: Path) -> dict[str, Any]:
    """`sightline status colours --json`."""
    done = subprocess.run(
        [SIGHTLINE, "status", "colours", "--json"],
        env=environment(places),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def kill_in_the_middle(places: Path, killed: list[str]) -> None:
    """kill -9 the driver of fetch_images, then of featurize, each after its first commit."""
    for table, job in (("images", "fetch_images.py"), ("features", "featurize.py")):
        log = places / "data" / "colours" / table / "_delta_log"
        wait_until(lambda log=log: any('{"add"' in one.read_text() for one in log.glob("*.json")))
        for pid in drivers(places, job):
            os.kill(pid, signal.SIGKILL)
            killed.append(job)


def drivers(places: Path, job: str) -> list[int]:
    """The JVM and the Python process of a job's driver."""
    return [pid for pid, command in processes_with(places) if job in command]


def processes_with(places: Path) -> list[tuple[int, str]]:
    """Processes whose environment names our places: whatever a run has started and not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"SIGHTLINE_STATE={places}".encode() in (folder / "environ").read_bytes():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.append((int(folder.name), command))
        except OSError:
            continue  # gone meanwhile
    return found


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for a condition, not for a time."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "the condition did not come"
        time.sleep(0.02)


def catalog() -> Catalog:
    """The catalog of the dataset."""
    return open_catalog("colours")


def test_a_killed_driver_is_retried_and_each_image_is_there_once(finished: Finished) -> None:
    assert {"fetch_images.py", "featurize.py"} <= set(finished.killed)
    with tables.query(images=catalog().images, features=catalog().features) as sql:
        images = sql(
            "SELECT count(*) n, count(DISTINCT image_id) ids, count(DISTINCT uri) uris FROM images"
        )
        features = sql("SELECT count(*) n, count(DISTINCT image_id) ids FROM features")
    assert images.to_pylist() == [{"n": 750, "ids": 750, "uris": 750}]
    assert features.to_pylist() == [{"n": 750, "ids": 750}]


def test_what_a_killed_driver_had_committed_is_not_done_again(finished: Finished) -> None:
    first_run = sorted((Path(catalog().runs) / "ingest_colours").iterdir())[0].name
    fetched = ledger.read_run(catalog(), "ingest_colours", first_run)
    counts = {record["task"]: record["counts"] for record in fetched}
    assert counts["fetch_images"]["held_before"] > 0
    assert counts["featurize"]["known"] > 0


def test_the_broken_photo_is_a_reject_with_a_reason(finished: Finished) -> None:
    with tables.query(rejects=catalog().rejects) as sql:
        rows = sql("SELECT uri, reason FROM rejects").to_pylist()
    assert [(Path(row["uri"]).name, row["reason"]) for row in rows] == [("broken.jpg", "truncated")]
    assert finished.status["rejects"] == 1


def test_the_run_ends_with_a_champion_and_its_report(finished: Finished) -> None:
    champion = finished.status["champion"]
    accuracies.assert_at_least(champion["metrics"]["accuracy"], champion["rows"]["test"], 0.9)
    report = Path(catalog().reports) / "latest.html"
    assert "colours" in report.read_text()
    assert "report" in finished.first
    assert str(report.parent) in finished.first.replace("\n", "")


def test_a_second_run_featurizes_nothing_trains_nothing_and_says_so(finished: Finished) -> None:
    assert "Nothing new" in finished.second
    assert finished.status["featurized_in_last_run"] == 0
    assert finished.status["champion"] == finished.status_after_first["champion"]


def test_every_task_tells_openlineage_its_tables(finished: Finished, places: Path) -> None:
    lines = (places / "state" / "lineage" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    completed = [event for event in events if event["eventType"] == "COMPLETE"]
    written = {
        (event["job"]["name"].rsplit(".", 1)[-1], Path(output["name"]).name)
        for event in completed
        for output in event.get("outputs", [])
    }
    assert {
        ("list_images", "manifest"),
        ("fetch_images", "images"),
        ("fetch_images", "rejects"),
        ("featurize", "features"),
        ("split", "splits"),
        ("reduce", "reduced"),
        ("evaluate", "predictions"),
    } <= written
    features = [
        output
        for event in completed
        for output in event.get("outputs", [])
        if output["name"].endswith("/features")
    ]
    assert features[0]["facets"]["version"]["datasetVersion"].isdigit()
    assert features[0]["facets"]["dataQualityMetrics"]["rowCount"] == 750
    names = [field["name"] for field in features[0]["facets"]["schema"]["fields"]]
    assert names == ["image_id", "backbone_id", "embedding"]


def test_every_openlineage_event_is_valid(finished: Finished, places: Path) -> None:
    counts = check_events(places / "state" / "lineage" / "events.jsonl")
    ended = {name.rpartition(".")[2] for name, kind in counts if kind == "COMPLETE"}
    assert {"preflight", "list_images", "validate_images", "train", "gate", "publish"} <= ended
    failed = {name.rpartition(".")[2] for name, kind in counts if kind == "FAIL"}
    assert {"fetch_images", "featurize"} <= failed  # each driver was killed once
    began = sum(count for (_, kind), count in counts.items() if kind == "START")
    assert began == counts.total() - began  # each try began and ended once


def test_findings_columns_and_code_are_told(finished: Finished, places: Path) -> None:
    lines = (places / "state" / "lineage" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    ended = {event["job"]["name"].rpartition(".")[2]: event for event in events
             if event["eventType"] in ("COMPLETE", "FAIL") and event.get("inputs")}  # fmt: skip
    checks = ended["validate_images"]["inputs"][0]["inputFacets"]["dataQualityAssertions"]
    assert all(check["success"] for check in checks["assertions"])
    assert "predictions" in {Path(one["name"]).name for one in ended["evaluate"]["outputs"]}
    predictions = next(one for one in ended["evaluate"]["outputs"] if "predictions" in one["name"])
    made_of = predictions["facets"]["columnLineage"]["fields"]["probabilities"]["inputFields"]
    assert {Path(one["name"]).name for one in made_of} == {"features", "models"}
    code = ended["featurize"]["job"]["facets"]["sourceCodeLocation"]
    assert code["path"].endswith("spark_jobs/featurize.py")
