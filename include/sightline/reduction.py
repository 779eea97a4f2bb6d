"""PCA on the train split: one pass over Spark's partitions, one eigen-decomposition on the driver.

Workers sum what the covariance needs (count, sum, Gramian) and the driver adds the parts up, so the
memory is a few dim x dim matrices whatever the number of images: 34 MB at 2,048 wide, 134 MB at 4,096.
"""

import logging
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sightline import models, spark, storage, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, ReduceSpec
from sightline.errors import TrainingError
from sightline.ledger import Record, TaskRun
from sightline.models import Pca, Plan
from sightline.schemas import FEATURES, REDUCED, SPLITS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)
Array = np.ndarray[Any, Any]
ROWS_AT_A_TIME = 64  # of a Gramian, 2 MB at 4,096 wide
# Embeddings are small beside images: a Gramian of more rows at once costs the same memory traffic.
BATCHES = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": 1024,
    "spark.sql.parquet.columnarReaderBatchSize": 1024,
}
MOMENTS = pa.schema(
    [
        ("index", pa.int32()),  # the Gramian's row; -1: the sums
        ("count", pa.int64()),
        ("numbers", pa.binary()),  # float64
    ]
)


@dataclass(frozen=True)
class Moments:
    """What the covariance of some rows is made of, relative to a fixed shift for accuracy."""

    count: int
    sums: Array  # (dim,) float64
    gramian: Array  # (dim, dim) float64


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
    features = _features(session, catalog, plan)
    train = _train_rows(session, catalog, features)
    shift = _first_embedding(train, spec)
    folder = storage.join(catalog.staging, f"reduce-{uuid.uuid4().hex}")
    try:
        moments = sum_features(train, shift, folder)
    finally:
        storage.remove_tree(folder)
    pca = fit_pca(moments, shift, spec.reduce)
    models.save_pca(catalog, plan.version, pca)
    urls = _project(session, catalog, features, pca, plan.version)
    tables.replace_partition(catalog.reduced, urls, plan.version, held)
    record.counts = {
        "components": len(pca.components),
        "explained_variance": round(float(pca.explained_variance_ratio.sum()), 4),
        "rows": tables.count_file_rows(urls),
    }
    record.wrote(catalog.reduced)


def fit_pca(moments: Moments, shift: Array, wanted: ReduceSpec) -> Pca:
    """Principal components from summed moments; each component's largest entry is positive.

    TrainingError where more components are wanted than rows or columns allow.
    """
    dim = len(moments.sums)
    most = min(moments.count - 1, dim)
    if most < 1:
        raise TrainingError(
            f"PCA needs two train images, but there are {moments.count}; add images."
        )
    if (wanted.components or 1) > most:
        raise TrainingError(
            f"reduce.components is {wanted.components}, but {moments.count} train images of {dim} "
            f"features allow {most} at most; lower it or use reduce.explained_variance."
        )
    mean = moments.sums / moments.count
    covariance = (moments.gramian - np.outer(moments.sums, mean)) / (moments.count - 1)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1].clip(min=0.0), vectors[:, ::-1].T
    ratios = values / (values.sum() or 1.0)  # all 0 where the features never vary
    kept = _components_kept(ratios, most, wanted)
    components = vectors[:kept]
    signs = np.sign(components[np.arange(kept), np.abs(components).argmax(axis=1)])
    return Pca(
        mean=mean + shift,
        components=(components * signs[:, None]).astype(np.float32),
        explained_variance_ratio=ratios[:kept],
    )


def sum_moments(batches: Iterable[Array], shift: Array) -> Moments:
    """Moments of batches of rows (n, dim), one batch in memory at a time."""
    dim = len(shift)
    total = Moments(0, np.zeros(dim), np.zeros((dim, dim)))
    for batch in batches:
        centred = batch.astype(np.float64) - shift
        total.gramian[:] += centred.T @ centred
        total = Moments(total.count + len(batch), total.sums + centred.sum(axis=0), total.gramian)
    return total


def _components_kept(ratios: Array, most: int, wanted: ReduceSpec) -> int:
    if wanted.components is not None:
        return wanted.components
    assert wanted.explained_variance is not None
    if not ratios.any():
        return 1
    enough = int(np.searchsorted(np.cumsum(ratios), wanted.explained_variance)) + 1
    return min(enough, most)


def _features(session: "SparkSession", catalog: Catalog, plan: Plan) -> "DataFrame":
    files = tables.file_urls(catalog.features, plan.features_version, plan.backbone_id)
    return spark.read_files(session, files, FEATURES)


def _train_rows(session: "SparkSession", catalog: Catalog, features: "DataFrame") -> "DataFrame":
    splits = spark.read_files(session, tables.file_urls(catalog.splits), SPLITS)
    train = splits.where("split = 'train'").select("image_id")
    return features.join(train, "image_id", "left_semi").select("embedding")


def _first_embedding(train: "DataFrame", spec: DatasetSpec) -> Array:
    """Any row will do to shift by: it only keeps the sums small where means are large."""
    row = train.first()
    if row is None:
        raise TrainingError(
            f"Dataset {spec.name} has no features of its train split; run its ingest."
        )
    return np.asarray(row["embedding"], dtype=np.float64)


def sum_features(train: "DataFrame", shift: Array, folder: str) -> Moments:
    """Moments of a column of embeddings. The workers write theirs into a folder, row by row: a whole
    Gramian at 4,096 wide is more than the driver's JVM takes in one piece.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    def sum_part(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        part = sum_moments((_matrix(batch["embedding"]) for batch in batches if len(batch)), shift)
        yield from to_rows(part)

    for name, value in BATCHES.items():
        train.sparkSession.conf.set(name, value)
    # One file for each of Spark's partitions.
    parts = train.coalesce(train.sparkSession.sparkContext.defaultParallelism)
    urls = spark.write_files(parts.mapInArrow(sum_part, from_arrow_schema(MOMENTS)), folder)
    dim = len(shift)
    total = Moments(0, np.zeros(dim), np.zeros((dim, dim)))
    for url in urls:
        fs, path = storage.filesystem(url)
        with fs.open(path, "rb") as stream:
            total = add_rows(total, pq.ParquetFile(stream).iter_batches(batch_size=ROWS_AT_A_TIME))
    return total


def to_rows(moments: Moments) -> Iterator[pa.RecordBatch]:
    """Moments as rows of MOMENTS: the count and sums, then each row of the Gramian."""
    first = {"index": -1, "count": moments.count, "numbers": moments.sums.tobytes()}
    yield pa.RecordBatch.from_pylist([first], schema=MOMENTS)
    for start in range(0, len(moments.gramian), ROWS_AT_A_TIME):
        rows = enumerate(moments.gramian[start : start + ROWS_AT_A_TIME], start)
        batch = [{"index": index, "numbers": row.tobytes()} for index, row in rows]
        yield pa.RecordBatch.from_pylist(batch, schema=MOMENTS)


def add_rows(total: Moments, batches: Iterable[pa.RecordBatch]) -> Moments:
    """The sum of some moments and those that rows of MOMENTS hold; adds to the Gramian in place."""
    count = total.count
    for batch in batches:
        for row in batch.to_pylist():
            target = total.sums if row["index"] < 0 else total.gramian[row["index"]]
            target += np.frombuffer(row["numbers"])
            count += row["count"] or 0
    return Moments(count, total.sums, total.gramian)


def _project(
    session: "SparkSession", catalog: Catalog, features: "DataFrame", pca: Pca, version: str
) -> list[str]:
    from pyspark.sql.pandas.types import from_arrow_schema

    fitted = session.sparkContext.broadcast(pca)

    def project(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if len(batch):
                components = fitted.value.project(_matrix(batch["embedding"]))
                yield _reduced_batch(batch["image_id"], version, components)

    rows = features.select("image_id", "embedding")
    parts = rows.coalesce(session.sparkContext.defaultParallelism)
    reduced = parts.mapInArrow(project, from_arrow_schema(REDUCED))
    return spark.write_files(reduced, tables.new_folder(catalog.reduced))


def _reduced_batch(image_ids: pa.Array, version: str, components: Array) -> pa.RecordBatch:
    rows, width = components.shape
    offsets = pa.array(np.arange(0, (rows + 1) * width, width, dtype=np.int32))
    lists = pa.ListArray.from_arrays(offsets, pa.array(components.reshape(-1)))
    versions = pa.array([version] * rows, pa.string())
    return pa.RecordBatch.from_arrays([image_ids, versions, lists], schema=REDUCED)


def _matrix(embeddings: pa.ListArray) -> Array:
    """(n, dim) of a column of equally long lists."""
    return np.asarray(embeddings.flatten()).reshape(len(embeddings), -1)
