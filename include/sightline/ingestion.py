"""From a source's list to images that we hold: list, fetch, verify, measure, hash, store once.

Every image of the manifest ends in the images table or in the rejects table with a reason, never in
both and never in neither. What is held, or finally rejected, is not asked for again.
"""

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from fsspec.core import url_to_fs

from sightline import images, spark, storage, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import SourceError
from sightline.images import Limits, Rejected
from sightline.ledger import Record, TaskRun
from sightline.progress import Progress
from sightline.schemas import IMAGES, MANIFEST, REJECTS
from sightline.sources import SOURCES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)

IMAGES_PER_CHUNK = 256  # what a killed job loses at most, for each chunk at work
MOST_CHUNKS = 4_000
BYTES_PER_BATCH = 32 * 2**20
REMOTE_THREADS = 16
THUMBNAILS_PER_CHUNK = 8


def list_images(spec: DatasetSpec, catalog: Catalog, task: TaskRun, record: Record) -> None:
    """Write the source's list of the partition into the manifest, replacing what it held before.

    SourceError where the whole dataset lists nothing; a night without new images is no error.
    """
    held = tables.claim(catalog.manifest, task.writer)
    listed = Counter[str]()

    def batches() -> Iterator[pa.RecordBatch]:
        for rows in SOURCES[spec.source.type].list_images(spec.source, catalog, task.partition):
            listed.update(row["label"] for row in rows)
            yield _batch([{**row, "partition": task.partition} for row in rows], MANIFEST)

    urls = tables.write_batches(catalog.manifest, batches())
    if not urls and not tables.count_rows(catalog.manifest):
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
    wanted = tables.count_rows(catalog.manifest, partition=task.partition)
    folder = storage.join(catalog.staging, f"fetch-{task.partition}-{threading.get_native_id()}")
    storage.remove_tree(folder)
    work = _missing(session, catalog, task.partition)
    missing = work.count()
    counts = Counter(wanted=wanted, held_before=wanted - missing)
    log.info(
        "fetch_images: %d listed, %d known already, %d to fetch", wanted, wanted - missing, missing
    )
    progress = Progress("fetch_images", missing)

    def fetch_chunk(url: str) -> None:
        done = _fetch_chunk(session, spec, catalog, task, url)
        counts.update(done)
        progress.add(done["images"] + done["rejects"])

    try:
        if missing:
            chunks = min(MOST_CHUNKS, math.ceil(missing / IMAGES_PER_CHUNK))
            urls = spark.write_files(work.repartition(chunks), folder)
            spark.run_chunks(session, urls, fetch_chunk)
    finally:
        storage.remove_tree(folder)
    _drop_rejects_that_are_held(catalog, task)
    record.counts = dict(counts)
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
    fetched = work.mapInArrow(fetch, from_arrow_schema(IMAGES))
    urls = spark.write_files(fetched, tables.new_folder(catalog.images))
    doubles = tables.append_new(catalog.images, urls, task.partition, task.writer)
    rejects = {row["uri"]: row for row in rejected.value}  # a Spark task that ran twice tells twice
    duplicates = _duplicates(doubles)
    rejects.update(duplicates)
    wanted = tables.count_file_rows([url])
    stored = tables.count_file_rows(urls) - doubles.num_rows
    rows = [{**row, "partition": task.partition} for row in rejects.values()]
    written = tables.write_batches(catalog.rejects, [_batch(rows, REJECTS)])
    tables.append_new(catalog.rejects, written, task.partition, task.writer, key="uri")
    return Counter(
        images=wanted - len(rows), rejects=len(rows), duplicates=len(duplicates), stored=stored
    )


def fetch_batches(
    limits: Limits, options: dict[str, Any], reject: Callable[[list[dict[str, Any]]], None]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The worker's function: manifest batches in, image batches out, rejects told aside."""

    def fetch(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rejects: list[dict[str, Any]] = []
        for batch in batches:
            rows, size_bytes = list[dict[str, Any]](), 0
            for row in _fetch_rows(batch.to_pylist(), options, limits, rejects):
                rows.append(row)
                size_bytes += row["size_bytes"]
                if size_bytes > BYTES_PER_BATCH:
                    yield _batch(rows, IMAGES)
                    rows, size_bytes = [], 0
            yield _batch(rows, IMAGES)
        reject(rejects)

    return fetch


def _fetch_rows(
    rows: list[dict[str, Any]],
    options: dict[str, Any],
    limits: Limits,
    rejects: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Fetch the rows, many at a time where a network lies between; the bad ones go to rejects."""
    is_remote = not all(storage.is_local(row["uri"]) for row in rows)
    with ThreadPoolExecutor(REMOTE_THREADS if is_remote else 1) as pool:
        contents = pool.map(lambda row: _read(row["uri"], options, limits), rows)
        for row, content in zip(rows, contents, strict=True):
            try:
                if isinstance(content, Rejected):
                    raise content
                yield _image_row(row, content, limits)
            except Rejected as rejected:
                seen = content if isinstance(content, bytes) else b""
                few = len(rejects) < THUMBNAILS_PER_CHUNK
                picture = images.thumbnail(seen) if seen and few else None
                rejects.append(_reject_row(row, rejected, picture))


def _read(uri: str, options: dict[str, Any], limits: Limits) -> bytes | Rejected:
    """The bytes of a uri, at most one more than the limit; Rejected where they are not to be had."""
    try:
        fs, path = url_to_fs(uri, **options)
        with fs.open(path, "rb") as stream:
            return bytes(stream.read(limits.size_bytes + 1))
    except (
        Exception
    ) as error:  # each file system raises its own; one image must not stop the others
        return Rejected("unreadable", f"{type(error).__name__}: {error}"[:200])


def _image_row(row: dict[str, Any], content: bytes, limits: Limits) -> dict[str, Any]:
    rotation = row["rotation"] or 0
    measured = images.measure(content, limits, rotation)
    return {
        **vars(measured),
        **{name: row[name] for name in ("uri", "label", "split_hint", "partition")},
        "rotation": rotation,
        "content": content,
        "size_bytes": len(content),
    }


def _reject_row(row: dict[str, Any], rejected: Rejected, picture: bytes | None) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("uri", "label", "etag")},
        "stage": "fetch_images",
        "reason": rejected.reason,
        "detail": rejected.detail,
        "attempts": 1,
        "thumbnail": picture,
    }


def _duplicates(left_out: pa.Table) -> dict[str, dict[str, Any]]:
    """Reject rows for images whose bytes are held under another uri; one held under its own is none."""
    doubled: dict[str, dict[str, Any]] = {}
    for row in left_out.to_pylist():
        if row["held_by"] != row["uri"]:
            detail = f"same bytes as {row['held_by']}"
            doubled[row["uri"]] = _reject_row(
                {"label": None, "etag": None, **row}, Rejected("duplicate", detail), None
            )
    return doubled


def _forget_open_rejects(catalog: Catalog, task: TaskRun) -> None:
    """Take out of rejects what is worth another try: passing faults, and files that have changed."""
    passing = ", ".join(f"'{reason}'" for reason in images.TRANSIENT)
    again = f"""
        r.reason IN ({passing})
        OR (m.uri IS NOT NULL AND m.etag IS NOT NULL AND r.etag IS NOT NULL AND m.etag <> r.etag)
    """
    _keep_rejects(catalog, task, again, "LEFT JOIN manifest m ON m.uri = r.uri")


def _drop_rejects_that_are_held(catalog: Catalog, task: TaskRun) -> None:
    """Another run may have stored what this one could not read: then it is no reject."""
    _keep_rejects(catalog, task, "m.uri IS NOT NULL", "LEFT JOIN images m ON m.uri = r.uri")


def _keep_rejects(catalog: Catalog, task: TaskRun, drop: str, join: str) -> None:
    """Write the partition's rejects again without those for which the SQL condition holds."""
    held = tables.claim(catalog.rejects, task.writer)
    mine = f"r.partition = '{task.partition}'"
    with tables.query(
        rejects=catalog.rejects, manifest=catalog.manifest, images=catalog.images
    ) as sql:
        if not sql(
            f"SELECT r.uri FROM rejects r {join} WHERE {mine} AND ({drop}) LIMIT 1"
        ).num_rows:
            return
        kept = sql(f"SELECT DISTINCT r.* FROM rejects r {join} WHERE {mine} AND NOT ({drop})")
    urls = tables.write_batches(catalog.rejects, kept.to_batches())
    tables.replace_partition(catalog.rejects, urls, task.partition, held)


def _limits(spec: DatasetSpec) -> Limits:
    limits = spec.limits
    return Limits(int(limits.image_megabytes * 2**20), int(limits.image_megapixels * 10**6))


def _batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=schema)
