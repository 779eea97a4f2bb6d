"""`sightline status`: the counts, runs and champion of a dataset, from real tables and records."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sightline import ledger, models, storage, tables
from sightline.catalog import Catalog, open_catalog
from sightline.ledger import TaskRun
from sightline.publishing import roll_back
from sightline.status import list_models, read_status
from sightline.tables import Table, Writer

NOW = datetime(2026, 11, 6, tzinfo=UTC)

METRICS = {"accuracy": 0.9, "log_loss": 0.4}


@pytest.fixture
def catalog(own_places: Path) -> Catalog:
    return open_catalog("birds")


def add_rows(table: Table, rows: list[dict[str, Any]], partition: str, key: str) -> None:
    """Commit rows; what they leave out is empty."""
    empty = {"string": "", "int32": 0, "int64": 0, "binary": b""}
    blank = {column.name: empty.get(str(column.type)) for column in table.schema}
    batch = pa.RecordBatch.from_pylist([{**blank, **row} for row in rows], schema=table.schema)
    tables.append_new(table, tables.write_batches(table, [batch]), partition, Writer("t"), key)


def record_run(catalog: Catalog, dag_id: str, run_id: str, started: str, **counts: Any) -> None:
    """Write a run's record of one task as if it had begun at that hour."""
    task = TaskRun(dag_id, run_id, next(iter(counts)), "all")
    with ledger.recording(catalog, task) as record:
        record.started_at = started
        record.counts = counts[task.task]


def test_a_dataset_that_was_never_run_counts_zeros(catalog: Catalog) -> None:
    status = read_status("birds").as_json()
    assert (status["images"], status["rejects"], status["features"]) == (0, 0, 0)
    assert status["featurized_in_last_run"] == 0
    assert status["champion"] is None
    assert not storage.exists(catalog.root)  # looking makes nothing


def test_images_rejects_by_reason_and_features_are_counted(catalog: Catalog) -> None:
    images = [{"image_id": f"{n}", "uri": f"{n}.jpg", "partition": "all"} for n in range(3)]
    rejects = [
        {"uri": f"{n}.jpg", "reason": reason, "partition": "all", "rejected_at": NOW}
        for n, reason in enumerate(["corrupt", "empty", "corrupt"])
    ]
    features = [{"image_id": f"{n}", "backbone_id": "b", "embedding": [0.5]} for n in range(2)]
    add_rows(catalog.images, images, "all", "image_id")
    add_rows(catalog.rejects, rejects, "all", "uri")
    add_rows(catalog.features, features, "b", "image_id")
    status = read_status("birds").as_json()
    assert status["images"] == 3
    assert status["rejects"] == 3
    assert status["rejects_by_reason"] == {"corrupt": 2, "empty": 1}
    assert status["features"] == 2
    assert status["table_versions"]["images"] == 1
    assert status["table_versions"]["splits"] is None


def test_the_newest_ingest_run_tells_how_many_images_it_featurized(catalog: Catalog) -> None:
    record_run(catalog, "ingest_birds", "a", "2026-11-01T00:00:00", featurize={"featurized": 7})
    record_run(catalog, "ingest_birds", "b", "2026-11-02T00:00:00", featurize={"featurized": 0})
    status = read_status("birds")
    assert status.featurized_in_last_run == 0
    assert status.last_runs["ingest"] is not None
    assert status.last_runs["ingest"].run_id == "b"
    assert status.last_runs["train"] is None


def test_the_champion_is_told_with_its_metrics(catalog: Catalog) -> None:
    model = {"version": "v1", "created_at": "2026-11-02", "backbone_id": "b", "metrics": METRICS}
    models.write_model(catalog, {**model, "rows": {"train": 8, "test": 2}, "labels": ["a", "b"]})
    models.crown(catalog, "v1")
    status = json.loads(json.dumps(read_status("birds").as_json()))
    assert status["champion"]["version"] == "v1"
    assert status["champion"]["metrics"]["accuracy"] == 0.9


def test_the_report_is_named_once_there_is_one(catalog: Catalog) -> None:
    assert read_status("birds").report is None
    storage.write_bytes(storage.join(catalog.reports, "latest.html"), b"<html>")
    assert read_status("birds").report == storage.join(catalog.reports, "latest.html")


def test_models_are_listed_with_what_became_of_them(catalog: Catalog) -> None:
    def judge(version: str, *others: str, **more: Any) -> None:
        decision = {"chosen": version, "passed": True, "reasons": ["Too bad."], "approval": None}
        decision["candidates"] = [{"version": one} for one in (version, *others)]
        models.write_decision(catalog, version, {**decision, **more})

    for number in range(7):
        model = {"version": f"v{number}", "created_at": f"2026-11-0{number + 1}", "kind": "head"}
        models.write_model(catalog, {**model, "metrics": {"accuracy": number / 10}})
    storage.write_json(storage.join(catalog.model("v9"), "plan.json"), {})  # not trained yet
    judge("v1", "v0")
    models.crown(catalog, "v1")
    models.crown(catalog, "v2")
    models.crown(catalog, "v3")
    roll_back(catalog, None, "joe", "blurred")
    judge("v4", passed=False)
    judge("v5", approval={"answer": "Reject", "by": "joe", "at": "2026-11-08"})
    rows = list_models("birds")
    assert [(row.version, row.accuracy) for row in rows] == [(f"v{n}", n / 10) for n in range(7)]
    assert [row.standing for row in rows] == [
        "not chosen", "was champion", "champion", "rolled back", "refused", "rejected", "",
    ]  # fmt: skip
    assert rows[3].note.endswith(": blurred")
    assert (rows[4].note, rows[5].note) == ("Too bad.", "by joe on 2026-11-08")
