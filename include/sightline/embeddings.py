"""Embeddings for Spark's workers, who read them from the features table's files themselves, and their sums.

Spark joins and deals out which rows of which file count; the embeddings are long lists that the JVM
takes ten times as long over.
"""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from sightline import parquet, spark, storage, tables
from sightline.batches import joined, rows_with, to_matrix
from sightline.principal_components import Moments, add_moments, add_rows
from sightline.schemas import FEATURES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Array = np.ndarray[Any, Any]
ROWS_AT_A_TIME = 1024  # 8 MB at 2,048 wide; a Gramian of fewer costs the same memory traffic


@dataclass(frozen=True)
class Selection:
    """Rows of files of the features table, dealt out: as many partitions as cores."""

    rows: "DataFrame"  # file: a key of urls; chosen: structs of image_id and more, where not all count
    urls: dict[str, str]


def whole_files(session: "SparkSession", files: list[str]) -> Selection:
    """Every row of some files."""
    parts = min(len(files), session.sparkContext.defaultParallelism)
    numbers = session.range(len(files), numPartitions=parts)
    urls = {str(number): url for number, url in enumerate(files)}
    return Selection(numbers.selectExpr("cast(id AS string) AS file"), urls)


def chosen_rows(session: "SparkSession", files: list[str], chosen: "DataFrame") -> Selection:
    """The rows of some images: of `chosen` (image_id, and columns that stay beside the embedding)."""
    from pyspark.sql import functions

    held = spark.read_files(session, files, FEATURES).select("image_id", "_metadata.file_path")
    name = functions.substring_index("file_path", "/", -2).alias("file")  # as tables.file_name
    each = functions.struct(*chosen.columns)
    by_file = held.join(chosen, "image_id").groupBy(name)
    dealt_out = by_file.agg(functions.collect_list(each).alias("chosen"))
    parts = session.sparkContext.defaultParallelism
    return Selection(dealt_out.repartition(parts), {tables.file_name(url): url for url in files})


def read_selected(
    selection: Iterable[pa.RecordBatch], urls: dict[str, str], least_rows: int = ROWS_AT_A_TIME
) -> Iterator[pa.RecordBatch]:
    """On a worker: batches of image_id, embedding and what was chosen beside, of so many rows or more
    but for the last.
    """
    files = (row for batch in selection for row in batch.to_pylist())
    rows = (batch for row in files for batch in _read_rows(urls[row["file"]], row.get("chosen")))
    return joined(rows, least_rows)


def first_embedding(files: list[str]) -> Array:
    """Any row (dim,) will do to shift by: it only keeps the sums small where means are large."""
    for batch in _read_rows(files[0], None) if files else ():
        return np.asarray(to_matrix(batch["embedding"])[0], dtype=np.float64)
    return np.zeros(0)


def sum_features(selection: Selection, shift: Array, folder: str) -> dict[int, list[str]]:
    """Moments of the selected rows by their `fold` (0 where they have none), as files in a folder: a
    Gramian at 4,096 wide is more than the driver's JVM takes in one piece.
    """

    urls = selection.urls

    def sum_part(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for fold, moments in _sum_by_fold(batches, urls, shift).items():
            url = storage.join(folder, uuid.uuid4().hex)  # a task tried again leaves another
            _write_moments(url, moments)
            yield pa.RecordBatch.from_pydict({"fold": [fold], "url": [url]})

    found: dict[int, list[str]] = {}
    for row in selection.rows.mapInArrow(sum_part, "fold long, url string").collect():
        found.setdefault(row["fold"], []).append(row["url"])
    return found


def read_moments(urls: Iterable[str], dim: int) -> Moments:
    """The sum of what was left as files."""
    total = Moments.empty(dim)
    for url in urls:
        held = load(storage.read_bytes(url))
        part = Moments(int(held["count"]), held["sums"], held["gramian"].T)
        total = add_moments(total, part)
    return total


def _sum_by_fold(
    batches: Iterable[pa.RecordBatch], urls: dict[str, str], shift: Array
) -> dict[int, Moments]:
    """One pass over the rows, and a Gramian a fold."""
    sums: dict[int, Moments] = {}
    for batch in read_selected(batches, urls):
        embeddings = to_matrix(batch["embedding"])
        has_folds = "fold" in batch.schema.names
        folds = np.asarray(batch["fold"]) if has_folds else np.zeros(len(embeddings), np.int64)
        for fold in np.unique(folds).tolist():
            rows = embeddings[folds == fold]
            sums[fold] = add_rows(sums.get(fold) or Moments.empty(len(shift)), rows, shift)
    return sums


def _read_rows(url: str, chosen: list[dict[str, Any]] | None) -> Iterator[pa.RecordBatch]:
    beside = None if chosen is None else {row["image_id"]: row for row in chosen}
    columns = ["image_id", "embedding"]
    with parquet.opened(url) as file:
        for batch in file.iter_batches(ROWS_AT_A_TIME, columns=columns, use_threads=False):
            yield batch if beside is None else _with_chosen(batch, beside)


def _with_chosen(batch: pa.RecordBatch, chosen: dict[str, dict[str, Any]]) -> pa.RecordBatch:
    """The rows that are chosen, with what is beside them."""
    batch = rows_with(batch, "image_id", chosen)
    rows = [chosen[image_id] for image_id in batch["image_id"].to_pylist()]
    for name in next(iter(chosen.values())):
        if name != "image_id":
            batch = batch.append_column(name, pa.array([row[name] for row in rows]))
    return batch


def _write_moments(url: str, moments: Moments) -> None:
    arrays = {
        "count": np.array(moments.count),
        "sums": moments.sums,
        "gramian": moments.gramian.T,  # safetensors keeps arrays in C's order
    }
    storage.write_bytes(url, save(arrays))
