"""Images to embeddings on Spark, never twice: what the features table holds for this backbone is left.

Only encoded bytes cross from the JVM to the workers, in small batches; each worker decodes, transforms
and infers a batch at a time. A chunk is a file of the images table and commits by itself.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sightline import backbones, images, ledger, spark, tables
from sightline.catalog import Catalog
from sightline.config import BackboneSpec, DatasetSpec
from sightline.ledger import Record, TaskRun
from sightline.progress import Progress
from sightline.schemas import FEATURES, IMAGES

if TYPE_CHECKING:
    from pyspark.core.broadcast import Broadcast
    from pyspark.sql import SparkSession

    from sightline.backbones import Backbone

log = logging.getLogger(__name__)

COLUMNS = ("image_id", "content", "rotation")


def featurize(
    session: "SparkSession", spec: DatasetSpec, catalog: Catalog, task: TaskRun, record: Record
) -> None:
    """Give every image that we hold an embedding of the dataset's backbone."""
    record.read(catalog.images)
    if tables.count_rows(catalog.images) > tables.count_rows(catalog.features):
        spark.start_workers(session)  # there is work: let them import torch while this process does
    backbone = backbones.load_backbone(spec.backbone)
    version = tables.current_version(catalog.images)  # another partition's ingest may add images
    held = tables.count_rows(catalog.images, version)
    pending = _pending(session, catalog, version, backbone.backbone_id)
    missing = sum(rows for _, rows in pending)
    log.info("featurize: %d images held, %d known already, %d to featurize with %s",
             held, held - missing, missing, backbone.backbone_id)  # fmt: skip
    progress = Progress("featurize", missing)
    weights = session.sparkContext.broadcast(backbones.pack_weights(backbone) if missing else b"")
    work = featurize_batches(spec.backbone, backbone.backbone_id, weights)

    def featurize_chunk(chunk: tuple[str, int]) -> None:
        _featurize_chunk(session, catalog, task, backbone.backbone_id, chunk[0], work)
        progress.add(chunk[1])

    spark.run_chunks(session, pending, featurize_chunk)
    record.counts = {
        "images": held,
        "known": held - missing,
        "featurized": missing,
        "backbone": spec.backbone.model_dump(mode="json"),
        "backbone_id": backbone.backbone_id,
        "dim": backbone.dim,
    }
    record.wrote(catalog.features)


def counts_if_done(spec: DatasetSpec, catalog: Catalog, dag_id: str) -> dict[str, Any] | None:
    """What a run would count that has nothing to do, from the tables' logs alone; None where it may have.

    A weights file may have changed under its name, so that only the job itself can tell.
    """
    last = ledger.find_last_record(catalog, dag_id, "featurize")
    if last is None or backbones.is_from_file(spec.backbone):
        return None
    counts = last["counts"]
    held = tables.count_rows(catalog.images)
    known = tables.count_rows(catalog.features, partition=counts["backbone_id"])
    if counts["backbone"] != spec.backbone.model_dump(mode="json") or known != held:
        return None
    return {**counts, "images": held, "known": held, "featurized": 0}


def _pending(
    session: "SparkSession", catalog: Catalog, version: int | None, backbone_id: str
) -> list[tuple[str, int]]:
    """Files of the images table that hold images without an embedding, and how many."""
    files = tables.file_urls(catalog.images, version)
    if not files:
        return []
    by_name = {_file_name(url): url for url in files}
    held = spark.read_files(session, files, IMAGES).select("image_id", "_metadata.file_path")
    known = spark.read_files(session, _feature_files(catalog, backbone_id), FEATURES)
    pending = held.join(known.select("image_id"), "image_id", "left_anti")
    rows = pending.groupBy("file_path").count().collect()
    return sorted((by_name[_file_name(row["file_path"])], row["count"]) for row in rows)


def _featurize_chunk(
    session: "SparkSession",
    catalog: Catalog,
    task: TaskRun,
    backbone_id: str,
    url: str,
    work: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]],
) -> None:
    from pyspark.sql import functions
    from pyspark.sql.pandas.types import from_arrow_schema

    held = spark.read_files(session, [url], IMAGES).select(*COLUMNS)
    known = spark.read_files(session, _feature_files(catalog, backbone_id), FEATURES)
    ids = held.select("image_id").join(known.select("image_id"), "image_id", "left_anti")
    chunk = held.join(functions.broadcast(ids), "image_id", "left_semi")
    features = chunk.mapInArrow(work, from_arrow_schema(FEATURES))
    urls = spark.write_files(features, tables.new_folder(catalog.features))
    tables.append_new(catalog.features, urls, backbone_id, task.writer)


def featurize_batches(
    spec: BackboneSpec, backbone_id: str, weights: "Broadcast[bytes]"
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The worker's function: batches of (image_id, content, rotation) in, of embeddings out."""

    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        backbone = _worker_backbone(spec, backbone_id, weights)
        for batch in batches:
            if batch.num_rows:
                embeddings = embed(
                    backbone, batch["content"].to_pylist(), batch["rotation"].to_pylist()
                )
                yield feature_batch(batch["image_id"], backbone_id, embeddings)

    return work


def embed(
    backbone: "Backbone", contents: list[bytes], rotations: list[int]
) -> np.ndarray[Any, Any]:
    """Embeddings, float32 (n, dim), of n encoded images."""
    import torch

    pictures = [
        backbone.transform(images.decode(content, rotation))
        for content, rotation in zip(contents, rotations, strict=True)
    ]
    with torch.inference_mode():
        batch = torch.stack(pictures).contiguous(memory_format=torch.channels_last)
        embeddings: np.ndarray[Any, Any] = backbone.module(batch).flatten(1).numpy()
    return embeddings


def feature_batch(
    image_ids: pa.Array, backbone_id: str, embeddings: np.ndarray[Any, Any]
) -> pa.RecordBatch:
    """Rows of the features table."""
    rows, dim = embeddings.shape
    offsets = pa.array(np.arange(0, (rows + 1) * dim, dim, dtype=np.int32))
    lists = pa.ListArray.from_arrays(offsets, pa.array(embeddings.reshape(-1)))
    ids = pa.array([backbone_id] * rows, pa.string())
    return pa.RecordBatch.from_arrays([image_ids, ids, lists], schema=FEATURES)


_LOADED: dict[str, "Backbone"] = {}  # a worker process serves many Spark tasks of one job


def _worker_backbone(
    spec: BackboneSpec, backbone_id: str, weights: "Broadcast[bytes]"
) -> "Backbone":
    """The backbone, loaded once a worker; Spark's tasks fill the cores, so torch takes one thread."""
    import torch

    if backbone_id not in _LOADED:
        torch.set_num_threads(1)
        _LOADED.clear()
        _LOADED[backbone_id] = backbones.unpack_backbone(spec, backbone_id, weights.value)
    return _LOADED[backbone_id]


def _feature_files(catalog: Catalog, backbone_id: str) -> list[str]:
    return tables.file_urls(catalog.features, partition=backbone_id)


def _file_name(url: str) -> str:
    """The last two parts of a path: they name a file of a table, however the rest is spelled."""
    return "/".join(url.split("/")[-2:])
