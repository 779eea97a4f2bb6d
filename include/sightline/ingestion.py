"""From a source's list to images that we hold: list, fetch, verify, measure, hash, store once.

Every image of the manifest ends in the images table or in the rejects table with a reason, never in
both and never in neither. What is held, or finally rejected, is not asked for again.
"""

import logging
import math
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sightline import lookup, rejection, rights, spark, storage, tables, tombstones
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import SourceError
from sightline.images import Limits, Rejected
from sightline.ledger import Record, TaskRun
from sightline.progress import Progress
from sightline.schemas import IMAGES, MANIFEST, REJECTS, WORK
from sightline.source_config import origin_of
from sightline.sources import SOURCES, Access, StreamedSource
from sightline.sources.fetching import Fetching, fetch_batches, reject_row, to_batch
from sightline.sources.staging import UriSet, stage_chunks
from sightline.tables import Writer

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)

MOST_CHUNKS = 4_000
COUNTED = ("images", "rejects", "duplicates", "conflicts", "bytes")  # of each chunk
LISTED = ("uri", "label", "licence", "author", "etag", "attempts")  # what the driver reads of work
LEAST_IMAGES = 64  # in a chunk, where there are fewer chunks than cores


def list_images(spec: DatasetSpec, access: Access, task: TaskRun, record: Record) -> None:
    """Write the source's list of the partition into the manifest, replacing what it held before.

    SourceError where the whole dataset lists nothing; a night without new images is no error.
    """
    record.read_from(storage.located(origin_of(spec.source)))
    catalog, manifest = access.catalog, access.catalog.manifest
    laid = tombstones.read(catalog)
    held = tables.claim(manifest, task.writer)
    listed, taken_down = Counter[str | None](), 0
    changed = defaultdict[str, dict[str, Any]](dict)  # licences of other partitions, by uri

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal taken_down
        for found in SOURCES[spec.source.type].list_images(spec.source, access):
            rows = [row for row in found if not rights.is_barred(row, laid)]
            taken_down += len(found) - len(rows)
            ours = (
                rows if spec.source.is_daily else _unlisted(manifest, task.partition, rows, changed)
            )
            listed.update(row["label"] for row in ours)
            yield to_batch([{**row, "partition": task.partition} for row in ours], MANIFEST)

    urls = tables.write_batches(manifest, batches())
    elsewhere = tables.count_rows(manifest) - _count(manifest, task.partition)
    if not urls and not elsewhere and not spec.source.is_daily:
        raise SourceError(
            f"Dataset {spec.name}: its {spec.source.type} source lists no image; "
            "put images into it or change 'source:' in the dataset file."
        )
    tables.replace_partition(manifest, urls, task.partition, held)
    rights.sweep_manifest(catalog, laid)
    rights.note_licences(catalog, task, changed)
    withdrawn = rights.withdraw(spec, catalog, task)
    told = {"taken_down": taken_down, "withdrawn": withdrawn}
    record.counts = {"listed": listed.total(), "classes": len(listed), **access.metrics}
    record.counts |= {name: count for name, count in told.items() if count}
    record.wrote(manifest, rows=listed.total())


def _unlisted(
    manifest: tables.Table,
    partition: str,
    rows: list[dict[str, Any]],
    changed: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """The rows that no other partition has listed; those with another licence there are told aside."""
    licences = {row["uri"]: row.get("licence") for row in rows}
    columns = ["uri", "licence", "partition"]
    known = tables.rows_elsewhere(manifest, columns, "uri", list(licences), partition).to_pylist()
    for row in known:
        if row["licence"] != licences[row["uri"]]:
            changed[row["partition"]][row["uri"]] = licences[row["uri"]]
    elsewhere = {row["uri"] for row in known}
    return [row for row in rows if row["uri"] not in elsewhere]


def fetch_images(
    session: "SparkSession", spec: DatasetSpec, catalog: Catalog, task: TaskRun, record: Record
) -> None:
    """Fetch and verify what the partition lists and we do not hold yet, chunk by committed chunk; then
    the images of older partitions that were rejected for what may have passed by now.
    """
    spark.start_workers(session)  # they import while the driver looks for what is missing
    record.read_from(storage.located(origin_of(spec.source)))
    record.read(catalog.manifest, catalog.tombstones)
    counts = Fetch(session, spec, catalog, task, task.partition).run()
    for partition in rejection.due_partitions(catalog, spec.fetch, task.partition, spec.licences):
        again = Fetch(session, spec, catalog, task, partition).run()
        counts["tried_again"] += again["tried"]
        counts["taken_again"] += again["images"]
        counts["bytes"] += again["bytes"]
    rejection.drop_those_held(catalog, task)
    del counts["tried"]
    record.counts = dict(counts)
    record.wrote(catalog.images, rows=counts["images"] + counts["taken_again"])
    record.wrote(catalog.rejects, rows=counts["rejects"])


def counts_if_done(spec: DatasetSpec, catalog: Catalog, partition: str) -> dict[str, Any] | None:
    """What a run would count for a partition that lists nothing, where no old reject is due either."""
    listed = _count(catalog.manifest, partition)
    if listed or rejection.due_partitions(catalog, spec.fetch, partition, spec.licences):
        return None
    return dict.fromkeys(("wanted", "held_before", *COUNTED), 0)


@dataclass(frozen=True)
class Fetch:
    """The fetching of one partition: all that it misses, or, where another than the task's, what is due
    to be tried again.
    """

    session: "SparkSession"
    spec: DatasetSpec
    catalog: Catalog
    task: TaskRun
    partition: str

    def run(self) -> Counter[str]:
        """Fetch; returns what was counted."""
        wanted = _count(self.catalog.manifest, self.partition)
        is_first = not (_count(self.catalog.images) or _count(self.catalog.rejects))
        work = self._listed() if is_first else self._work().cache()  # counted, then written
        missing = wanted if is_first else work.count()
        log.info(
            "fetch_images: partition %s, %d listed, %d known already, %d to fetch",
            self.partition, wanted, wanted - missing, missing,
        )  # fmt: skip
        progress = Progress("fetch_images", missing)
        folder = storage.join(self.catalog.staging, f"fetch-{uuid.uuid4().hex}")

        def fetch_chunk(url: str) -> Counter[str]:
            counts = self._fetch_chunk(url)
            storage.remove_tree(url)
            progress.add(counts["listed"])
            return counts

        done: list[Counter[str]] = []
        try:
            if missing:
                chunks = self._chunks(work, missing, folder)
                done = spark.run_chunks(self.session, chunks, fetch_chunk)
        finally:
            work.unpersist()
            storage.remove_tree(folder)
        counts = Counter(wanted=wanted, held_before=wanted - missing, tried=missing)
        for name in COUNTED:
            counts[name] = sum(one[name] for one in done)
        return counts

    def _listed(self) -> "DataFrame":
        """The partition's rows of the manifest, never tried."""
        manifest = self._read(self.catalog.manifest, MANIFEST, self.partition)
        return manifest.selectExpr("*", "cast(null AS int) AS attempts")

    def _work(self) -> "DataFrame":
        """Those that are neither held nor rejected for good."""
        listed = self._listed()
        held = self._read(self.catalog.images, IMAGES).select("uri")
        rejected = self._read(self.catalog.rejects, REJECTS).select("uri")
        is_ours = self.partition == self.task.partition
        due = rejection.find_due(self.catalog, self.spec.fetch, self.partition, self.spec.licences)
        missing = listed.join(held, "uri", "left_anti")
        if is_ours and not due.num_rows:  # as on most nights
            return missing.join(rejected, "uri", "left_anti")
        again = self.session.createDataFrame(due.to_pandas(), "uri string, attempts int")
        final = rejected.join(again, "uri", "left_anti")
        missing = missing.join(final, "uri", "left_anti").drop("attempts")
        return missing.join(again, "uri", "left" if is_ours else "inner")

    def _chunks(self, work: "DataFrame", missing: int, folder: str) -> Iterable[str]:
        """URLs of files of work, a chunk each; those with bytes in them come as the source is read."""
        source = SOURCES[self.spec.source.type]
        cores = self.session.sparkContext.defaultParallelism
        count = math.ceil(missing / self.spec.limits.images_per_commit)
        count = min(MOST_CHUNKS, max(count, min(cores, math.ceil(missing / LEAST_IMAGES))))
        if not isinstance(source, StreamedSource):
            return spark.write_files(work.repartition(count), folder)
        access = Access(self.catalog, self.partition)
        tried = {row["uri"]: row["attempts"] for row in work.where("attempts > 0").collect()}
        wanted = UriSet(row["uri"] for row in work.select("uri").toLocalIterator())
        stream = source.stream_images(
            self.spec.source, access, wanted.__contains__, self._limits.size_bytes
        )
        known = {"partition": self.partition}
        images = (
            ({**row, **known, "attempts": tried.get(row["uri"])}, content)
            for row, content in stream
        )
        return stage_chunks(images, folder, self.spec.limits.images_per_commit)

    def _fetch_chunk(self, url: str) -> Counter[str]:
        """Fetch one file of work and commit its images, then its rejects."""
        rejected = self.session.sparkContext.accumulator(list[dict[str, Any]](), _rows())
        listed = {row["uri"]: row for row in _read([url], *LISTED)}
        refused = rights.refusals(self.spec, self.catalog, listed.values())
        options = dict(getattr(self.spec.source, "options", {}))
        fetching = Fetching(self._limits, self.spec.fetch, options, refused)
        images = self.catalog.images
        folder = tables.new_folder(images)
        work = spark.read_files(self.session, [url], WORK)
        taken = work.mapInArrow(fetch_batches(fetching, rejected.add), _spark_schema(IMAGES))
        urls = spark.write_files(taken, folder)
        size_bytes = {row["uri"]: row["size_bytes"] for row in _read(urls, "uri", "size_bytes")}
        left_out = tables.append_new(
            images,
            urls,
            self.partition,
            Writer(f"fetch_images:{self.partition}", self.task.writer.run),
            barred=partial(tombstones.barred_images, self.catalog),
        ).to_pylist()
        if not urls:
            storage.remove_tree(folder)  # Spark's file without rows
        for row in left_out:
            size_bytes.pop(row["uri"], None)
        duplicates = self._duplicates(left_out, listed)
        told = {
            row["uri"]: row for row in rejected.value
        }  # a Spark task that ran twice tells twice
        rejects = list({**told, **duplicates}.values())
        rejection.write(self.catalog, self.task, self.partition, rejects)
        return Counter(
            listed=len(listed),
            images=len(size_bytes),
            rejects=len(rejects),
            duplicates=sum(row["reason"] != "taken_down" for row in duplicates.values()),
            conflicts=sum(row["reason"] == "conflict" for row in duplicates.values()),
            bytes=sum(size_bytes.values()),
        )

    def _duplicates(
        self, left_out: list[dict[str, Any]], listed: dict[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Reject rows for images whose bytes are held under another uri, or were taken down; one held under
        its own is none."""
        twins = {row["uri"]: row["held_by"] for row in left_out if row["held_by"] != row["uri"]}
        holders = sorted(set(twins.values()))
        held = lookup.rows_of(self.catalog.images, "uri", holders, ["uri", "label"]).to_pylist()
        labels = {row["uri"]: row["label"] for row in held}
        return {
            uri: reject_row(
                listed[uri], _twin(listed[uri]["label"], holder, labels.get(holder)), None
            )
            for uri, holder in twins.items()
        }

    @property
    def _limits(self) -> Limits:
        limits = self.spec.limits
        return Limits(int(limits.image_megabytes * 2**20), int(limits.image_megapixels * 10**6))

    def _read(
        self, table: tables.Table, schema: pa.Schema, partition: str | None = None
    ) -> "DataFrame":
        return spark.read_files(self.session, tables.file_urls(table, partition=partition), schema)


def _rows() -> Any:
    """An accumulator of rows."""
    from pyspark.accumulators import AccumulatorParam

    class Rows(AccumulatorParam[list[dict[str, Any]]]):
        def zero(self, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return []

        def addInPlace(  # noqa: N802  (Spark's name)
            self, one: list[dict[str, Any]], other: list[dict[str, Any]]
        ) -> list[dict[str, Any]]:
            return one + other

    return Rows()


def _spark_schema(schema: pa.Schema) -> Any:
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(schema)


def _twin(label: str | None, holder: str, held_label: str | None) -> Rejected:
    """Why an image is not taken whose bytes another uri holds; no uri holds what was taken down."""
    if not holder:
        return Rejected("taken_down", "the same bytes were taken down under another uri")
    is_conflict = None not in (label, held_label) and label != held_label
    return Rejected("conflict" if is_conflict else "duplicate", f"{rejection.SAME_BYTES}{holder}")


def _count(table: tables.Table, partition: str | None = None) -> int:
    return tables.count_rows(table, partition=partition)


def _read(urls: list[str], *columns: str) -> Iterator[dict[str, Any]]:
    """Some columns of Parquet files."""
    for url in urls:
        fs, path = storage.filesystem(url)
        with fs.open(path, "rb") as stream:
            yield from pq.read_table(stream, columns=list(columns)).to_pylist()
