"""The ledger of rejects: who is asked for again, when, and by whom; no image is ever in neither table."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from sightline import ingestion, rejection, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.source_config import FetchSpec
from sightline.sources import Access
from sightline.tables import Writer
from tests.conftest import catalog_of, make_task, write_dataset
from tests.servers.misbehaving import Misbehaving, misbehaving_server

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NOW = datetime.now(UTC)
PATHS = {
    "2026-11-04": ["once_failing/1.jpg", "status/2.jpg/404", "html/3.jpg"],
    "2026-11-05": ["good/4.jpg", "status/5.jpg/404", "good/6.jpg"],
}


@pytest.fixture
def server() -> Iterator[tuple[str, type[Misbehaving]]]:
    with misbehaving_server() as found:
        yield found


def dataset(places: Path, address: str, retry: str) -> DatasetSpec:
    """A list of addresses of one try each; every partition lists what the one before has not."""
    return write_dataset(
        places,
        "web",
        f"source: {{type: url_list, path: {places}/list.csv}}\n"
        f"fetch: {{allow_addresses: [127.0.0.1/32], attempts: 1, retry_rejects: {retry}}}\n",
    )


def night(session: "SparkSession", spec: DatasetSpec, places: Path, address: str, day: str) -> Any:
    """List and fetch the addresses up to a day; returns the fetch's counts."""
    listed = [path for one, paths in PATHS.items() if one <= day for path in paths]
    rows = "".join(f"{address}/{path},any\n" for path in listed)
    (places / "list.csv").write_text("url,label\n" + rows)
    catalog = catalog_of(spec)
    task, record = make_task("list_images", day, f"run-{day}")
    ingestion.list_images(spec, Access(catalog, day), task, record)
    task, record = make_task("fetch_images", day, f"run-{day}")
    ingestion.fetch_images(session, spec, catalog, task, record)
    held = [row["uri"] for row in rows_of(catalog, "images")]
    refused = [row["uri"] for row in rows_of(catalog, "rejects")]
    assert Counter(held + refused) == Counter(f"{address}/{path}" for path in listed)
    return record.counts


def rows_of(catalog: Catalog, name: str) -> list[dict[str, Any]]:
    with tables.query(**{name: getattr(catalog, name)}) as sql:
        return list(sql(f"SELECT * FROM {name} ORDER BY uri").to_pylist())


def test_the_next_night_asks_again_for_what_may_have_passed(
    spark: "SparkSession", tmp_path: Path, server: tuple[str, type[Misbehaving]]
) -> None:
    address, handler = server
    spec = dataset(tmp_path, address, "{unreadable: 0, gone: 30}")
    first = night(spark, spec, tmp_path, address, "2026-11-04")
    assert (first["images"], first["rejects"]) == (0, 3)
    second = night(spark, spec, tmp_path, address, "2026-11-05")
    assert (second["images"], second["tried_again"], second["taken_again"]) == (2, 1, 1)
    catalog = catalog_of(spec)
    taken = {row["uri"]: row["partition"] for row in rows_of(catalog, "images")}
    assert taken[f"{address}/once_failing/1.jpg"] == "2026-11-04"
    assert handler.counts["/status/2.jpg/404"] == 1
    assert handler.counts["/html/3.jpg"] == 1


def test_a_reject_that_fails_again_counts_its_attempts(
    spark: "SparkSession", tmp_path: Path, server: tuple[str, type[Misbehaving]]
) -> None:
    address, handler = server
    spec = dataset(tmp_path, address, "{gone: 0}")
    night(spark, spec, tmp_path, address, "2026-11-04")
    before = {row["uri"]: row["rejected_at"] for row in rows_of(catalog_of(spec), "rejects")}
    night(spark, spec, tmp_path, address, "2026-11-05")
    after = {row["uri"]: row for row in rows_of(catalog_of(spec), "rejects")}
    twice, once = after[f"{address}/status/2.jpg/404"], after[f"{address}/once_failing/1.jpg"]
    assert (twice["attempts"], twice["partition"]) == (2, "2026-11-04")
    assert twice["rejected_at"] > before[twice["uri"]]
    assert (once["attempts"], once["rejected_at"]) == (1, before[once["uri"]])
    assert handler.counts["/once_failing/1.jpg"] == 1


def reject(uri: str, reason: str, days_ago: float, partition: str = "old") -> dict[str, Any]:
    return {
        "uri": uri,
        "stage": "fetch_images",
        "reason": reason,
        "attempts": 3,
        "rejected_at": NOW - timedelta(days=days_ago),
        "partition": partition,
    }


def test_what_is_due_depends_on_reason_and_age() -> None:
    catalog = Catalog("pets", catalog_root())
    rows = [
        reject("a'quote", "gone", 31),
        reject("b", "gone", 29),
        reject("c", "busy", 0.001),
        reject("d", "corrupt", 400),
    ]
    put(catalog.rejects, rows, "old")
    put(catalog.rejects, [reject("e", "corrupt", 400, "final")], "final")
    due = rejection.find_due(catalog, FetchSpec(), "old").to_pylist()
    assert sorted(row["uri"] for row in due) == ["a'quote", "c"]
    assert {row["attempts"] for row in due} == {3}
    assert rejection.due_partitions(catalog, FetchSpec(), but="tonight") == ["old"]
    assert rejection.due_partitions(catalog, FetchSpec(), but="old") == []
    never = FetchSpec(retry_rejects={})
    assert rejection.find_due(catalog, never, "old").num_rows == 0


def test_a_reject_tried_again_takes_the_place_of_its_old_row_and_no_other() -> None:
    catalog = Catalog("pets", catalog_root())
    put(catalog.rejects, [reject("a", "gone", 31), reject("b", "gone", 31)], "old")
    task, _ = make_task("fetch_images", "tonight")
    again = {**reject("a", "refused", 0), "attempts": 4}
    rejection.write(catalog, task, "old", [again, {**reject("new", "gone", 0), "attempts": 1}])
    found = {row["uri"]: (row["reason"], row["attempts"]) for row in rows_of(catalog, "rejects")}
    assert found == {"a": ("refused", 4), "b": ("gone", 3), "new": ("gone", 1)}


def put(table: tables.Table, rows: list[dict[str, Any]], partition: str) -> None:
    batch = pa.RecordBatch.from_pylist(rows, schema=table.schema)
    urls = tables.write_batches(table, [batch])
    tables.append_new(table, urls, partition, Writer("test"), key="uri")


def catalog_root() -> str:
    from sightline.settings import load_settings

    return f"{load_settings().storage}/pets"
