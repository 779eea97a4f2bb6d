"""Maintenance: what nobody needs goes, what a table, a model or a running task needs stays."""

import os
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from airflow.sdk.exceptions import AirflowFailException
from deltalake import DeltaTable

from sightline import (
    cli,
    compaction,
    leftovers,
    lookup,
    maintenance,
    models,
    publishing,
    status,
    storage,
    tables,
)
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import StorageError, TrainingError
from sightline.leftovers import Since
from sightline.operators import failure_of
from sightline.tables import Table, Writer
from tests.conftest import made_up_image_row, make_task, store_partition, store_rows, write_dataset

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=40)
DATASET = "source: {type: folder, path: photos}\nkeep: {models: 2}\n"


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


def store(table: Table, *numbers: int) -> int:
    """Store made-up images, each in a file and a commit of its own; returns the table's version."""
    for number in numbers:
        store_rows(table, [made_up_image_row(number)])
    version = tables.current_version(table)
    assert version is not None
    return version


def ask_again(table: Table, number: int) -> None:
    """Commit a small row."""
    row = {"uri": f"mem://{number}", "rejected_for": "gone", "reason": "", "readmitted_by": "me"}
    batch = pa.RecordBatch.from_pylist([{**row, "readmitted_at": NOW}], schema=table.schema)
    tables.append_new(table, tables.write_batches(table, [batch]), None, Writer("tests"), "uri")


def held(table: Table, version: int | None = None) -> list[int]:
    """The numbers of the images of a version."""
    batches = tables.read_batches(table, ["image_id"], version)
    return sorted(int(one, 16) for batch in batches for one in batch["image_id"].to_pylist())


def data_files(table: Table) -> set[str]:
    """What lies in a table's folder beside its log."""
    return {path for path in storage.files_below(table.url) if not path.startswith("_delta_log")}


def log_files(table: Table) -> set[str]:
    """What lies in a table's log."""
    return set(storage.list_names(f"{table.url}/_delta_log"))


def train(catalog: Catalog, number: int, created_at: datetime = NOW) -> str:
    """A made-up model of the images as they are now, its page and a row; returns its version."""
    version = f"{number:05d}-abcdef12"
    made_of = {"images": tables.current_version(catalog.images), "features": None, "splits": None}
    model = {"version": version, "dataset": "photos", "kind": "head", "tables": made_of}
    model |= {"created_at": created_at.isoformat(), "metrics": {"accuracy": 0.9}}
    models.write_model(catalog, model)
    storage.write_bytes(f"{catalog.model(version)}/weights.safetensors", b"weights")
    storage.write_bytes(f"{catalog.reports}/{version}.html", b"page")
    row = {"model_version": version, "image_id": "a", "components": [0.0], "predicted": "a"}
    row |= {"probability": 1.0, "probabilities": [1.0]}
    for table in (catalog.reduced, catalog.predictions):
        known = {name: row.get(name) for name in table.schema.names}
        store_partition(table, [known], version)
    return version


def test_what_a_killed_task_has_left_goes_after_days_or_at_once(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    store(catalog.images, 1, 2)
    counted = data_files(catalog.images)
    row = pa.RecordBatch.from_pylist([made_up_image_row(3)], schema=catalog.images.schema)
    tables.write_batches(catalog.images, [row])  # and killed before its commit
    storage.write_bytes(f"{catalog.images.url}/files-1/_temporary/0/task/part-0.parquet", b"half")
    storage.write_bytes(f"{catalog.images.url}/_delta_log/{2:020d}.json#1", b"half")
    storage.write_bytes(f"{catalog.staging}/fetch-1/part-0.parquet", b"work")
    storage.write_bytes(f"{catalog.models}/.champion.json.{'0' * 32}", b"half")
    assert maintenance.maintain(spec, catalog).counts["removed_files"] == 0
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert maintenance.maintain(spec, catalog, later, at_once=True).counts["removed_files"] == 5
    assert data_files(catalog.images) == counted
    assert not any("#" in name for name in log_files(catalog.images))
    assert storage.list_names(catalog.staging) == []
    assert [
        path.name for path in Path(catalog.images.url).iterdir() if path.name == "files-1"
    ] == []
    assert held(catalog.images) == [1, 2]
    assert maintenance.maintain(spec, catalog, LATER).counts["removed_files"] == 0


def test_files_of_older_versions_stay_for_days_and_for_models(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    store(catalog.images, 1, 2)
    train(catalog, 1)
    store_partition(catalog.images, [made_up_image_row(3)], "all")
    store_partition(catalog.images, [made_up_image_row(4)], "all")
    before = data_files(catalog.images)
    maintenance.maintain(spec, catalog)
    assert data_files(catalog.images) == before
    maintenance.maintain(spec, catalog, LATER)
    assert len(data_files(catalog.images)) == 3  # of two versions that are read by somebody
    assert held(catalog.images) == [4]
    assert held(catalog.images, 2) == [1, 2]


def test_an_old_model_retires_but_not_the_champion_nor_the_one_before_it(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    versions = []
    for number in range(1, 6):
        store_partition(catalog.images, [made_up_image_row(number)], "all")
        versions.append(train(catalog, number, NOW + timedelta(minutes=number)))
    models.crown(catalog, versions[1])
    models.crown(catalog, versions[0])
    assert maintenance.maintain(spec, catalog, LATER).retired == [versions[2]]
    assert maintenance.maintain(spec, catalog, LATER).retired == []
    model = models.read_model(catalog, versions[2])
    assert model and model["metrics"] == {"accuracy": 0.9}
    assert storage.list_names(catalog.model(versions[2])) == ["model.json"]
    assert set(storage.list_names(catalog.reports)) == {
        f"{one}.html" for one in versions if one != versions[2]
    }
    assert tables.count_rows(catalog.predictions) == 4
    assert tables.count_rows(catalog.reduced) == 0  # no training is at work
    with pytest.raises(TrainingError, match="retired on .*: its weights are gone"):
        publishing.promote(catalog, versions[2], "me", "it was good")
    [shown] = [row for row in status.list_models("photos") if row.version == versions[2]]
    assert shown.note.startswith("retired on ")
    assert not lookup.is_whole(catalog.images, model["tables"]["images"])
    assert held(catalog.images, model["tables"]["images"] - 1) == [2]


def test_small_files_are_merged_once_and_no_row_is_lost(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    version = store(catalog.images, *range(compaction.LEAST_FILES))
    store_rows(catalog.images, [made_up_image_row(99, partition="other")], "other")
    rows = tables.dataset_of(tables.file_urls(catalog.images), catalog.images.schema).to_table()
    cleaned = maintenance.maintain(spec, catalog)
    assert cleaned.counts["merged_files"] == compaction.LEAST_FILES
    assert len(tables.file_urls(catalog.images)) == 2
    after = tables.dataset_of(tables.file_urls(catalog.images), catalog.images.schema).to_table()
    assert after.sort_by("image_id").equals(rows.sort_by("image_id"))
    assert compaction.data_version(catalog.images) == version + 1
    assert tables.current_version(catalog.images) == version + 2
    assert maintenance.maintain(spec, catalog).counts["merged_files"] == 0


def test_merged_files_are_no_news_to_a_training(spec: DatasetSpec, catalog: Catalog) -> None:
    store(catalog.images, *range(compaction.LEAST_FILES))
    before = models.make_plan(spec, catalog, "made-up")
    maintenance.maintain(spec, catalog)
    maintenance.maintain(spec, catalog, LATER)
    assert models.make_plan(spec, catalog, "made-up") == before
    assert held(catalog.images, before.images_version) == list(range(compaction.LEAST_FILES))
    store(catalog.images, 50)
    assert models.make_plan(spec, catalog, "made-up").fingerprint != before.fingerprint


def test_a_commit_beside_a_merge_is_kept(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    store(catalog.images, *range(compaction.LEAST_FILES))
    write_batches = tables.write_batches

    def and_then_another_commits(table: Table, batches: Any) -> list[str]:
        urls = write_batches(table, batches)
        monkeypatch.setattr(tables, "write_batches", write_batches)
        store(table, 70)
        return urls

    monkeypatch.setattr(tables, "write_batches", and_then_another_commits)
    compaction.compact(catalog.images)
    assert held(catalog.images) == [*range(compaction.LEAST_FILES), 70]
    assert len(tables.file_urls(catalog.images)) == 2


def often_checkpointed(table: Table) -> Table:
    """A table whose log is summed up with each fifth commit instead of each hundredth."""
    ask_again(table, 0)
    DeltaTable(table.url).alter.set_table_properties({"delta.checkpointInterval": "5"})
    return table


def test_a_log_is_forgotten_only_where_no_version_of_it_is_wanted(catalog: Catalog) -> None:
    table = often_checkpointed(catalog.readmissions)
    for number in range(1, 22):
        ask_again(table, number)
    everything = log_files(table)
    leftovers.sweep(table, {13}, Since(LATER, NOW))
    assert log_files(table) < everything
    assert len(tables.file_urls(table, 13)) == 12
    message = "Version 3 of table readmissions cannot be read any more"
    with pytest.raises(StorageError, match=message):
        tables.file_urls(table, 3)
    assert tables.count_rows(table) == 22
    leftovers.sweep(table, (), Since(LATER, NOW))
    assert len(log_files(table)) < 10
    ask_again(table, 22)
    assert tables.count_rows(table) == 23
    assert compaction.data_version(table) == tables.current_version(table)


def test_a_version_is_not_forgotten_by_age_alone(catalog: Catalog) -> None:
    """delta-rs by itself forgets what is older than 30 days."""
    table, long_ago = often_checkpointed(catalog.readmissions), time.time() - 40 * 86_400
    for number in range(1, 22):
        if number == 16:
            for path in Path(f"{table.url}/_delta_log").iterdir():
                os.utime(path, (long_ago, long_ago))
        ask_again(table, number)
    assert len(tables.file_urls(table, 4)) == 3


def test_old_records_and_pages_go_but_the_newest_stay(spec: DatasetSpec, catalog: Catalog) -> None:
    for number in range(13):
        url = catalog.run("ingest_photos", f"run-{number:02d}")
        storage.write_json(f"{url}/featurize.json", {"started_at": f"{number}"})
        os.utime(f"{url}/featurize.json", (number, number))
    storage.write_bytes(f"{catalog.checks}/validations/images/old.html", b"page")
    maintenance.maintain(spec, catalog, NOW)
    left = storage.list_names(f"{catalog.runs}/ingest_photos")
    assert left == [f"run-{number:02d}" for number in range(3, 13)]
    assert storage.list_names(f"{catalog.checks}/validations/images") == ["old.html"]
    maintenance.maintain(spec, catalog, NOW + timedelta(days=91))
    assert storage.list_names(f"{catalog.checks}/validations/images") == []


def test_a_claim_outlives_a_merge(catalog: Catalog) -> None:
    """A task that replaces a partition while maintenance merges it does so all the same."""
    task, _ = make_task("list_images")
    for number in range(compaction.LEAST_FILES):
        ask_again(catalog.readmissions, number)
    table = catalog.readmissions
    claimed = tables.claim(table, task.writer)
    assert compaction.compact(table) == compaction.LEAST_FILES
    assert tables.replace_partition(table, [], None, claimed) is not None
    assert tables.count_rows(table) == 0
    assert Writer("compaction") == compaction.WRITER


def test_the_command_cleans_a_dataset_and_says_what_it_did(
    spec: DatasetSpec, catalog: Catalog, own_signals: None, capsys: pytest.CaptureFixture[str]
) -> None:
    store(catalog.images, *range(compaction.LEAST_FILES))
    storage.write_bytes(f"{catalog.images.url}/files-1/part-0.parquet", b"half")
    assert cli.main(["maintain", "photos", "--at-once"]) == 0
    said = capsys.readouterr().out
    assert "photos: 0 models retired, 8 small files merged, 1 files removed." in said
    assert cli.main(["maintain"]) == 0
    assert "photos: 0 models retired, 0 small files merged, 0 files" in capsys.readouterr().out


def test_a_store_that_did_not_answer_is_tried_again_and_a_full_disk_is_not() -> None:
    busy = storage.failure("open table images", "s3://bucket/pets/images", OSError("SlowDown"))
    full = storage.failure("open table images", "/data/pets/images", OSError("No space left"))
    assert not isinstance(failure_of(busy), AirflowFailException)
    assert isinstance(failure_of(full), AirflowFailException)
    assert str(failure_of(full)) == "Cannot open table images at /data/pets/images: No space left."


def test_models_of_a_day_on_which_the_clock_was_fast_retire_before_newer_ones(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    versions = []
    for number, days in enumerate((3, 3, 3, 0, 0), start=1):
        store_partition(catalog.images, [made_up_image_row(number)], "all")
        created_at = NOW + timedelta(days=days, minutes=number)
        versions.append(train(catalog, number, created_at))
    assert maintenance.maintain(spec, catalog).retired == versions[:3]


def test_what_is_left_of_a_day_on_which_the_clock_was_fast_goes_at_once_or_once_that_day_is_over(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    store(catalog.images, 1)
    half = Path(catalog.images.url) / "files-1" / "part-0.parquet"
    for now, at_once in ((datetime.now(UTC), True), (NOW + timedelta(days=11), False)):
        storage.write_bytes(str(half), b"half")
        at = time.time() + 3 * 86_400
        os.utime(half, (at, at))
        assert maintenance.maintain(spec, catalog).counts["removed_files"] == 0
        assert maintenance.maintain(spec, catalog, now, at_once).counts["removed_files"] == 1
    assert held(catalog.images) == [1]


def test_a_clock_that_jumps_to_and_fro_costs_no_row(spec: DatasetSpec, catalog: Catalog) -> None:
    chance, expected = random.Random(1), list[int]()
    for number in range(30):
        store(catalog.images, number)
        expected.append(number)
        for path in Path(catalog.images.url).rglob("*"):
            if path.is_file() and chance.random() < 0.2:
                at = time.time() + chance.uniform(-60, 60) * 86_400
                os.utime(path, (at, at))
        if number % 3 == 0:
            jump = timedelta(days=chance.uniform(-60, 60))
            maintenance.maintain(spec, catalog, datetime.now(UTC) + jump)
        assert held(catalog.images) == expected
