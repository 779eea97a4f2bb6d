"""From a source's list to images that we hold: list, fetch, verify, measure, hash, store once.

Every image of the manifest ends in the images table or in the rejects table with a reason, never in
both and never in neither. What is held, or finally rejected, is not asked for again.
"""

import logging
import math
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sightline import images, spark, storage, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import SourceError
from sightline.images import Limits, Rejected
from sightline.ledger import Record, TaskRun
from sightline.progress import Progress
from sightline.schemas import IMAGES, MANIFEST, REJECTS
from sightline.sources import SOURCES
from sightline.sources.fetching import fetch_batches, reject_row, to_batch
from sightline.tables import Writer

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)

MOST_CHUNKS = 4_000


def list_images(spec: DatasetSpec, catalog: Catalog, task: TaskRun, record: Record) -> None:
    """Write the source's list of the partition into the manifest, replacing what it held before.

    SourceError where the whole dataset lists nothing; a night without new images is no error.
    """
    held = tables.claim(catalog.manifest, task.writer)
    listed = Counter[str]()

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in SOURCES[spec.source.type].list_images(spec.source, catalog, task.partition):
            listed.update(row["label"] for row in rows)
            yield to_batch([{**row, "partition": task.partition} for row in rows], MANIFEST)

    urls = tables.write_batches(catalog.manifest, batches())
    elsewhere = tables.count_rows(catalog.manifest) - _count(catalog.manifest, task)
    if not urls and not elsewhere:
        raise SourceError(
            f"Dataset {spec.name}: its {spec.source.type} source lists no image; "
            "put images into it or change 'source:' in the dataset file."
        )
    tables.replace_partition(catalog.manifest, urls, task.partition, held)
    record.counts = {"listed": listed.total(), "classes": len(listed)}
    record.wrote(catalog.manifest)


def fetch_images(
    session: "SparkSession", spec: DatasetSpec, catalog: Catalog, task: TaskRun, record: Record
) -> None:
    """Fetch and verify what the partition lists and we do not hold yet, chunk by committed chunk."""
    record.read(catalog.manifest)
    _forget_open_rejects(catalog, task)
    wanted = _count(catalog.manifest, task)
    work = _missing(session, catalog, task.partition)
    missing = work.count()
    log.info(
        "fetch_images: %d listed, %d known already, %d to fetch", wanted, wanted - missing, missing
    )
    progress = Progress("fetch_images", missing)
    folder = storage.join(catalog.staging, f"fetch-{uuid.uuid4().hex}")
    done: list[Counter[str]] = []

    def fetch_chunk(url: str) -> Counter[str]:
        counts = _fetch_chunk(session, spec, catalog, task, url)
        progress.add(counts["listed"])
        return counts

    try:
        if missing:
            chunks = min(MOST_CHUNKS, math.ceil(missing / spec.limits.images_per_commit))
            urls = spark.write_files(work.repartition(chunks), folder)
            done = spark.run_chunks(session, urls, fetch_chunk)
    finally:
        storage.remove_tree(folder)
    _drop_rejects_that_are_held(catalog, task)
    record.counts = {"wanted": wanted, "held_before": wanted - missing} | {
        name: sum(counts[name] for counts in done)
        for name in ("images", "rejects", "duplicates", "bytes")
    }
    record.wrote(catalog.images, catalog.rejects)


def _missing(session: "SparkSession", catalog: Catalog, partition: str) -> "DataFrame":
    """The manifest's rows of the partition that are neither held nor finally rejected."""
    manifest = spark.read_files(
        session, tables.file_urls(catalog.manifest, partition=partition), MANIFEST
    )
    held = spark.read_files(session, tables.file_urls(catalog.images), IMAGES).select("uri")
    rejected = spark.read_files(session, tables.file_urls(catalog.rejects), REJECTS).select("uri")
    return manifest.join(held, "uri", "left_anti").join(rejected, "uri", "left_anti")


def _fetch_chunk(
    session: "SparkSession", spec: DatasetSpec, catalog: Catalog, task: TaskRun, url: str
) -> Counter[str]:
    """Fetch one file of the work list and commit its images, then its rejects."""
    from pyspark.accumulators import AccumulatorParam
    from pyspark.sql.pandas.types import from_arrow_schema

    class Rows(AccumulatorParam[list[dict[str, Any]]]):
        def zero(self, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return []

        def addInPlace(  # noqa: N802  (Spark's name)
            self, one: list[dict[str, Any]], other: list[dict[str, Any]]
        ) -> list[dict[str, Any]]:
            return one + other

    rejected = session.sparkContext.accumulator(list[dict[str, Any]](), Rows())
    fetch = fetch_batches(_limits(spec), dict(getattr(spec.source, "options", {})), rejected.add)
    work = spark.read_files(session, [url], MANIFEST)
    folder = tables.new_folder(catalog.images)
    urls = spark.write_files(work.mapInArrow(fetch, from_arrow_schema(IMAGES)), folder)
    size_bytes = {row["uri"]: row["size_bytes"] for row in _read_rows(urls, "uri", "size_bytes")}
    left_out = tables.append_new(catalog.images, urls, task.partition, task.writer).to_pylist()
    if not urls:
        storage.remove_tree(folder)  # Spark's file without rows
    for row in left_out:
        size_bytes.pop(row["uri"], None)
    listed = {row["uri"]: row for row in _read_rows([url], "uri", "label", "etag")}
    duplicates = _duplicates(left_out, listed)
    told = {row["uri"]: row for row in rejected.value}  # a Spark task that ran twice tells twice
    rejects = [{**row, "partition": task.partition} for row in {**told, **duplicates}.values()]
    written = tables.write_batches(catalog.rejects, [to_batch(rejects, REJECTS)])
    tables.append_new(catalog.rejects, written, task.partition, _rejects_writer(task), key="uri")
    return Counter(
        listed=len(listed),
        images=len(size_bytes),
        rejects=len(rejects),
        duplicates=len(duplicates),
        bytes=sum(size_bytes.values()),
    )


def _duplicates(
    left_out: list[dict[str, Any]], listed: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Reject rows for images whose bytes are held under another uri; one held under its own is none."""
    return {
        row["uri"]: reject_row(
            listed[row["uri"]], Rejected("duplicate", f"same bytes as {row['held_by']}"), None
        )
        for row in left_out
        if row["held_by"] != row["uri"]
    }


def _forget_open_rejects(catalog: Catalog, task: TaskRun) -> None:
    """Take out of rejects what is worth another try: passing faults, and files that have changed."""
    passing = ", ".join(_quoted(reason) for reason in images.TRANSIENT)
    partition = _quoted(task.partition)
    changed = "SELECT 1 FROM manifest m WHERE m.uri = r.uri AND m.partition = r.partition"
    _drop_rejects(
        catalog,
        task,
        f"r.partition = {partition} AND "
        f"(r.reason IN ({passing}) OR EXISTS ({changed} AND m.etag <> r.etag))",
    )


def _drop_rejects_that_are_held(catalog: Catalog, task: TaskRun) -> None:
    """Another run may have stored what this one could not read: then it is no reject."""
    _drop_rejects(catalog, task, "r.uri IN (SELECT m.uri FROM images m)")


def _drop_rejects(catalog: Catalog, task: TaskRun, condition: str) -> None:
    """Write rejects again without those for which the SQL condition holds, partition by partition.

    When another run writes rejects meanwhile the claim is void, and we look again.
    """
    while True:
        held = tables.claim(catalog.rejects, _rejects_writer(task))
        with tables.query(
            rejects=catalog.rejects, manifest=catalog.manifest, images=catalog.images
        ) as sql:
            found = sql(f"SELECT r.partition FROM rejects r WHERE {condition} LIMIT 1").to_pylist()
            if not found:
                return
            partition = found[0]["partition"]
            kept = sql(
                f"SELECT r.* FROM rejects r WHERE r.partition = {_quoted(partition)} "
                f"AND NOT ({condition})"
            )
        urls = tables.write_batches(catalog.rejects, kept.to_batches())
        tables.replace_partition(catalog.rejects, urls, partition, held)


def _rejects_writer(task: TaskRun) -> Writer:
    """One identity for all who write rejects, whatever their partition, so that a claim sees them all."""
    return Writer(task.task, task.writer.run)


def _limits(spec: DatasetSpec) -> Limits:
    limits = spec.limits
    return Limits(int(limits.image_megabytes * 2**20), int(limits.image_megapixels * 10**6))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _count(table: tables.Table, task: TaskRun) -> int:
    return tables.count_rows(table, partition=task.partition)


def _read_rows(urls: list[str], *columns: str) -> Iterator[dict[str, Any]]:
    """Some columns of Parquet files."""
    for url in urls:
        fs, path = storage.filesystem(url)
        with fs.open(path, "rb") as stream:
            yield from pq.read_table(stream, columns=list(columns)).to_pylist()
