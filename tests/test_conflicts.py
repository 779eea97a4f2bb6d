"""Label conflicts: the same bytes under two labels are counted, lost nowhere, and left out of training."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from sightline import exclusions, models, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.conflicts import find_conflicts
from sightline.label_audit import audit_labels
from sightline.models import make_plan
from tests.conftest import (
    catalog_of,
    made_up_image_row,
    make_task,
    store_embeddings,
    store_rows,
    write_dataset,
    write_photos,
)
from tests.test_ingestion import complete, dataset, ingest, reasons, rows

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DATASET = "source: {type: folder, path: photos}\n"


@pytest.mark.slow
def test_the_same_bytes_under_two_labels_are_a_conflict_on_any_night(
    spark: "SparkSession", tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", {"cats": 6, "dogs": 6})
    first = photos / "cats" / "0000.jpg"
    twin = photos / "dogs" / "twin.jpg"
    twin.write_bytes(first.read_bytes())
    spec = dataset(tmp_path, photos)
    counts = ingest(spark, spec, "2026-11-05")
    assert (counts["images"], counts["duplicates"], counts["conflicts"]) == (12, 1, 1)
    assert list(reasons(spec).values()) == ["conflict"]
    complete(spec)

    (photos / "dogs" / "later.jpg").write_bytes((photos / "cats" / "0001.jpg").read_bytes())
    (photos / "cats" / "later.jpg").write_bytes((photos / "cats" / "0002.jpg").read_bytes())
    counts = ingest(spark, spec, "2026-11-06")
    assert (counts["images"], counts["duplicates"], counts["conflicts"]) == (0, 2, 1)
    complete(spec)
    found = find_conflicts(catalog_of(spec)).to_pylist()
    held = {row["image_id"]: row["label"] for row in rows(catalog_of(spec).images)}
    assert len(found) == 2
    assert all({row["label"], row["other_label"]} == {"cats", "dogs"} for row in found)
    assert all(held[row["image_id"]] == row["label"] for row in found)
    ingest(spark, spec, "2026-11-06")
    assert find_conflicts(catalog_of(spec)).to_pylist() == found
    complete(spec)


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


@pytest.fixture
def catalog(spec: DatasetSpec) -> Catalog:
    return catalog_of(spec)


def listed(catalog: Catalog, uri: str, label: str | None, partition: str = "all") -> None:
    add(catalog.manifest, {"uri": uri, "label": label, "partition": partition})


def rejected(catalog: Catalog, uri: str, label: str, holder: str, reason: str = "conflict") -> None:
    row = {"uri": uri, "label": label, "stage": "fetch_images", "reason": reason, "attempts": 1}
    row |= {"detail": f"same bytes as {holder}", "partition": "all"}
    add(catalog.rejects, {**row, "rejected_at": datetime(2026, 11, 5, tzinfo=UTC)})


def add(table: tables.Table, row: dict[str, Any]) -> None:
    batch = pa.RecordBatch.from_pylist([row], schema=table.schema)
    urls = tables.write_batches(table, [batch])
    tables.append_new(table, urls, row["partition"], tables.Writer("tests"), key="uri")


def found(catalog: Catalog) -> list[tuple[str, str, str]]:
    return [
        (row["label"], row["other_uri"], row["other_label"])
        for row in find_conflicts(catalog).to_pylist()
    ]


def test_a_conflict_is_what_the_source_says_now(catalog: Catalog) -> None:
    store_rows(catalog.images, [made_up_image_row(1, label="cat", uri="mem://it's 1")])
    assert found(catalog) == []
    rejected(catalog, "mem://2", "cat", "mem://it's 1", "duplicate")
    assert found(catalog) == []
    rejected(catalog, "mem://3", "dog", "mem://it's 1")
    assert found(catalog) == [("cat", "mem://3", "dog")]
    listed(catalog, "mem://3", "cat")  # the source has mended it
    assert found(catalog) == []
    listed(catalog, "mem://2", None)  # to be predicted
    assert found(catalog) == []
    listed(catalog, "mem://it's 1", "dog")  # one uri in two lists
    assert found(catalog) == [("cat", "mem://it's 1", "dog")]


@pytest.mark.parametrize(("policy", "left_out"), [("drop", True), ("keep_first", False)])
def test_the_policy_says_whether_a_conflict_is_left_out(
    own_places: Path, policy: str, left_out: bool
) -> None:
    spec = write_dataset(own_places, "photos", f"{DATASET}labels: {{conflicts: {policy}}}\n")
    catalog = catalog_of(spec)
    values, labels = [[0.0, one % 2] for one in range(40)], ["cat", "dog"] * 20
    clean = store_embeddings(catalog, spec, values, labels, ["train"] * 30 + ["test"] * 10)
    rejected(catalog, "mem://twin", "dog", "mem://0")
    rejected(catalog, "mem://other", "cat", "mem://35")
    plan = make_plan(spec, catalog, "made-up")
    assert (plan.version != clean.version) == left_out  # another training, and none in vain
    for run_id in ("run-1", "run-2"):
        task, record = make_task("audit_labels", run_id=run_id)
        audit_labels(spec, catalog, task, record, plan)
        assert record.counts["conflicts"] == (2 if left_out else 0)
        kept = exclusions.read_exclusions(catalog, plan.version)
        expected = {f"{one:064x}": "conflict" for one in (0, 35)} if left_out else {}
        assert kept == expected
    assert exclusions.read_exclusions(catalog, clean.version) == {}
    beside: dict[str, Any] = exclusions.list_beside(catalog, plan.version, "some-model")
    assert beside == ({"conflict": 2} if left_out else {}) | {"list": "excluded.json"}
    assert models.list_versions(catalog)
