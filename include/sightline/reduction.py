"""PCA on the train split: one pass of Spark's workers over the features, one eigen-decomposition here.

Spark joins and deals out which rows of which file count; the workers read the embeddings themselves,
which are long lists that the JVM takes ten times as long over.
"""

import logging
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load, save

from sightline import models, spark, storage, tables
from sightline.batches import joined, rows_with, to_lists, to_matrix
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import TrainingError
from sightline.ledger import Record, TaskRun
from sightline.models import Pca, Plan
from sightline.principal_components import Moments, add_moments, fit_pca, sum_moments
from sightline.schemas import FEATURES, REDUCED, SPLITS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)
Array = np.ndarray[Any, Any]
ROWS_AT_A_TIME = 1024  # 8 MB at 2,048 wide; a Gramian of fewer costs the same memory traffic


@dataclass(frozen=True)
class Selection:
    """Rows of files of the features table, dealt out: as many partitions as cores, a Gramian each."""

    rows: "DataFrame"  # file: a key of urls; image_ids: the rows that count, where not all do
    urls: dict[str, str]


def reduce_features(
    session: "SparkSession",
    spec: DatasetSpec,
    catalog: Catalog,
    task: TaskRun,
    record: Record,
    plan: Plan,
) -> None:
    """Fit the PCA on the train split and project every image's embedding."""
    record.read(catalog.features, catalog.splits)
    if spec.reduce is None:
        record.counts = {"components": 0, "skipped": "the dataset file reduces nothing"}
        return
    held = tables.claim(catalog.reduced, task.writer)
    files = tables.file_urls(catalog.features, plan.features_version, plan.backbone_id)
    shift = first_embedding(files)
    folder = storage.join(catalog.staging, f"reduce-{uuid.uuid4().hex}")
    try:
        moments = sum_features(_train_rows(session, catalog, files), shift, folder)
    finally:
        storage.remove_tree(folder)
    if not moments.count:
        raise TrainingError(
            f"Dataset {spec.name} has no features of its train split; run its ingest."
        )
    pca = fit_pca(moments, shift, spec.reduce)
    models.save_pca(catalog, plan.version, pca)
    urls = _project(session, catalog, files, pca, plan.version)
    tables.replace_partition(catalog.reduced, urls, plan.version, held)
    record.counts = {
        "components": len(pca.components),
        "explained_variance": round(float(pca.explained_variance_ratio.sum()), 4),
        "rows": tables.count_file_rows(urls),
    }
    record.wrote(catalog.reduced)


def first_embedding(files: list[str]) -> Array:
    """Any row (dim,) will do to shift by: it only keeps the sums small where means are large."""
    for batch in _read_rows(files[0], None) if files else ():
        return np.asarray(_embeddings(batch)[0], dtype=np.float64)
    return np.zeros(0)


def whole_files(session: "SparkSession", files: list[str]) -> Selection:
    """Every row of some files."""
    parts = min(len(files), session.sparkContext.defaultParallelism)
    numbers = session.range(len(files), numPartitions=parts)
    urls = {str(number): url for number, url in enumerate(files)}
    return Selection(numbers.selectExpr("cast(id AS string) AS file"), urls)


def _train_rows(session: "SparkSession", catalog: Catalog, files: list[str]) -> Selection:
    """The rows of the train split."""
    from pyspark.sql import functions

    splits = spark.read_files(session, tables.file_urls(catalog.splits), SPLITS)
    train = splits.where("split = 'train'").select("image_id")
    held = spark.read_files(session, files, FEATURES)
    rows = held.select("image_id", "_metadata.file_path").join(train, "image_id", "left_semi")
    name = functions.substring_index("file_path", "/", -2).alias("file")  # as tables.file_name
    by_file = rows.groupBy(name).agg(functions.collect_list("image_id").alias("image_ids"))
    dealt_out = by_file.repartition(session.sparkContext.defaultParallelism)
    return Selection(dealt_out, {tables.file_name(url): url for url in files})


def sum_features(selection: Selection, shift: Array, folder: str) -> Moments:
    """Moments of the selected rows. The workers leave theirs in a folder: a Gramian at 4,096 wide is
    more than the driver's JVM takes in one piece.
    """

    urls = selection.urls

    def sum_part(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        url = storage.join(folder, uuid.uuid4().hex)  # a task that Spark tries again leaves another
        _write_moments(url, sum_moments(map(_embeddings, _selected(batches, urls)), shift))
        yield pa.RecordBatch.from_pydict({"url": [url]})

    total = Moments.empty(len(shift))
    for row in selection.rows.mapInArrow(sum_part, "url string").collect():
        total = add_moments(total, _read_moments(row["url"]))
    return total


def _project(
    session: "SparkSession", catalog: Catalog, files: list[str], pca: Pca, version: str
) -> list[str]:
    from pyspark.sql.pandas.types import from_arrow_schema

    fitted = session.sparkContext.broadcast(pca)
    selection = whole_files(session, files)
    features_urls = selection.urls

    def project(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in _selected(batches, features_urls):
            components = fitted.value.project(_embeddings(batch))
            yield _reduced_batch(batch["image_id"], version, components)

    reduced = selection.rows.mapInArrow(project, from_arrow_schema(REDUCED))
    return spark.write_files(reduced, tables.new_folder(catalog.reduced))


def _selected(
    selection: Iterable[pa.RecordBatch], urls: dict[str, str]
) -> Iterator[pa.RecordBatch]:
    """The selected rows in batches of ROWS_AT_A_TIME or more, but for the last."""
    files = (row for batch in selection for row in batch.to_pylist())
    rows = (batch for row in files for batch in _read_rows(urls[row["file"]], row.get("image_ids")))
    return joined(rows, ROWS_AT_A_TIME)


def _read_rows(url: str, image_ids: list[str] | None) -> Iterator[pa.RecordBatch]:
    wanted = None if image_ids is None else set(image_ids)
    columns = ["image_id", "embedding"]
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as stream:
        for batch in pq.ParquetFile(stream).iter_batches(
            ROWS_AT_A_TIME, columns=columns, use_threads=False
        ):
            yield batch if wanted is None else rows_with(batch, "image_id", wanted)


def _write_moments(url: str, moments: Moments) -> None:
    arrays = {
        "count": np.array(moments.count),
        "sums": moments.sums,
        "gramian": moments.gramian.T,  # safetensors keeps arrays in C's order
    }
    storage.write_bytes(url, save(arrays))


def _read_moments(url: str) -> Moments:
    held = load(storage.read_bytes(url))
    return Moments(int(held["count"]), held["sums"], held["gramian"].T)


def _reduced_batch(image_ids: pa.Array, version: str, components: Array) -> pa.RecordBatch:
    versions = pa.array([version] * len(components), pa.string())
    return pa.RecordBatch.from_arrays([image_ids, versions, to_lists(components)], schema=REDUCED)


def _embeddings(batch: pa.RecordBatch) -> Array:
    return to_matrix(batch["embedding"])
