"""The ledger: what each task of each run read, wrote, counted and took."""

from pathlib import Path

import pyarrow as pa
import pytest

from sightline import ledger, storage, tables
from sightline.catalog import Catalog, open_catalog
from sightline.ledger import TaskRun


@pytest.fixture
def catalog(own_places: Path) -> Catalog:
    """A dataset without tables."""
    return open_catalog("pets")


def task_of(name: str, run: str = "run 1", dag: str = "ingest_pets") -> TaskRun:
    """A task of a run."""
    return TaskRun(dag, run, name, "2026-11-05")


def finish(catalog: Catalog, task: TaskRun, **counts: int) -> None:
    """Let a task end well."""
    with ledger.recording(catalog, task) as record:
        record.counts = counts


def test_a_task_that_ends_well_leaves_its_record(catalog: Catalog) -> None:
    task = task_of("featurize")
    assert ledger.read_record(catalog, task) is None
    with ledger.recording(catalog, task) as record:
        record.counts = {"images": 3}
        assert ledger.read_record(catalog, task) is None
    kept = ledger.read_record(catalog, task)
    assert kept is not None
    assert kept["counts"] == {"images": 3}
    assert (kept["dag_id"], kept["run_id"], kept["task"]) == ("ingest_pets", "run 1", "featurize")
    assert kept["partition"] == "2026-11-05"
    assert 0 <= kept["seconds"] < 60
    assert kept["started_at"].endswith("+00:00")


def test_a_task_that_fails_leaves_no_record(catalog: Catalog) -> None:
    with pytest.raises(ZeroDivisionError), ledger.recording(catalog, task_of("train")):
        raise ZeroDivisionError
    assert ledger.read_record(catalog, task_of("train")) is None


def test_a_retry_writes_the_record_again(catalog: Catalog) -> None:
    finish(catalog, task_of("train"), rows=1)
    finish(catalog, task_of("train"), rows=2)
    [record] = ledger.read_run(catalog, "ingest_pets", "run 1")
    assert record["counts"] == {"rows": 2}


def test_tables_are_noted_with_version_rows_and_columns(catalog: Catalog) -> None:
    splits = catalog.splits
    columns = {"image_id": ["1", "2"], "group_id": ["1", "1"], "split": ["train", "train"]}
    batch = pa.RecordBatch.from_pydict(columns, schema=splits.schema)
    task = task_of("split")
    with ledger.recording(catalog, task) as record:
        record.read(catalog.images, splits)
        claim = tables.claim(splits, task.writer)
        tables.replace_partition(splits, tables.write_batches(splits, [batch]), None, claim)
        record.wrote(splits)
    kept = ledger.read_record(catalog, task)
    assert kept is not None
    assert [(one["name"], one["version"], one["rows"]) for one in kept["inputs"]] == [
        ("images", None, 0),
        ("splits", None, 0),
    ]
    [written] = kept["outputs"]
    assert (written["version"], written["rows"]) == (1, 2)
    assert ["image_id", "string"] in written["columns"]
    assert storage.exists(written["url"])


def test_the_identity_of_a_writer_is_its_task_and_slice_whatever_the_run(catalog: Catalog) -> None:
    first, retry = task_of("featurize", "run 1").writer, task_of("featurize", "run 2").writer
    assert first.identity == retry.identity == "featurize:2026-11-05"
    assert first.run != retry.run
    assert task_of("train").writer.identity != first.identity


def test_a_run_is_read_in_the_order_in_which_its_tasks_began(catalog: Catalog) -> None:
    for name, started in (("b", "2026-11-05T01:00:00+00:00"), ("a", "2026-11-05T02:00:00+00:00")):
        with ledger.recording(catalog, task_of(name)) as record:
            record.started_at = started
    records = ledger.read_run(catalog, "ingest_pets", "run 1")
    assert [record["task"] for record in records] == ["b", "a"]


def test_the_last_run_is_the_one_that_began_last_whatever_the_clock_has_said(
    catalog: Catalog,
) -> None:
    assert ledger.last_run(catalog, "ingest_pets") == []
    assert ledger.find_last_record(catalog, "ingest_pets", "train") is None
    runs = {"manual__2": "2026-11-07", "scheduled__9": "2026-11-05", "manual__1": "2026-11-06"}
    for run, day in runs.items():
        with ledger.recording(catalog, task_of("train", run)) as record:
            record.started_at = f"{day}T00:00:00+00:00"
    finish(catalog, task_of("train", "later", dag="train_pets"))
    [record] = ledger.last_run(catalog, "ingest_pets")
    assert record["run_id"] == "manual__1"
    assert ledger.last_record(catalog, "ingest_pets", "train") == record
    finish(catalog, task_of("train", "manual__2"))  # which somebody has cleared
    assert ledger.last_run(catalog, "ingest_pets") == [record]
    assert ledger.last_record(catalog, "ingest_pets", "train")["run_id"] == "manual__2"


def test_without_a_note_of_what_is_newest_the_times_tell(catalog: Catalog) -> None:
    for run, day in {"b": "2026-11-07", "a": "2026-11-05"}.items():
        with ledger.recording(catalog, task_of("train", run)) as record:
            record.started_at = f"{day}T00:00:00+00:00"
    storage.remove_tree(storage.join(catalog.root, "newest"))
    [record_of_b] = ledger.last_run(catalog, "ingest_pets")
    assert record_of_b["run_id"] == "b"
    assert ledger.last_record(catalog, "ingest_pets", "train") == record_of_b


def test_a_run_id_of_airflow_makes_a_safe_folder(catalog: Catalog) -> None:
    run = "scheduled__2026-11-05T00:00:00+00:00/../../x"
    finish(catalog, task_of("train", run), rows=1)
    assert storage.list_names(storage.join(catalog.runs, "ingest_pets")) == [
        "scheduled__2026-11-05T00_00_00_00_00_.._.._x"
    ]
    [record] = ledger.read_run(catalog, "ingest_pets", run)
    assert record["run_id"] == run


def test_a_spark_job_learns_its_task_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger.task_from_environment("train") == TaskRun("by_hand", "by_hand", "train", "all")
    monkeypatch.setenv("SIGHTLINE_DAG_ID", "ingest_pets")
    monkeypatch.setenv("SIGHTLINE_RUN_ID", "run 1")
    monkeypatch.setenv("SIGHTLINE_PARTITION", "2026-11-05")
    assert ledger.task_from_environment("featurize") == task_of("featurize")
