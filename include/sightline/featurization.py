"""Images to embeddings on Spark, never twice: what the features table holds for this backbone is left.

A chunk is a file of the images table and commits by itself; its row groups are featurized side by side
by Spark's workers, which read the encoded images themselves (backbones/worker.py is their side).
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sightline import backbones, ledger, lookup, parquet, spark, tables
from sightline.backbones import Backbone
from sightline.backbones.inference import LEAST_COSINE, agreement, has_bf16
from sightline.backbones.worker import COLUMNS, Work, embed_parts, parts_of, prepare_picture
from sightline.catalog import Catalog
from sightline.config import BackboneSpec, DatasetSpec
from sightline.ledger import Record, TaskRun
from sightline.progress import Progress
from sightline.schemas import FEATURES, IMAGES

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

CHECKED_IMAGES = 16  # by which bf16 is compared with fp32
LONG_IMAGES = 10_000  # a core, from which on half a minute of compiling pays for a ResNet-18


@dataclass(frozen=True)
class Pending:
    """A file of the images table with images that have no features yet."""

    url: str
    missing: int
    is_whole: bool  # none of its images has any


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
    precision = choose_precision(spec.backbone, backbone, catalog, version)
    backbone_id, dim = backbone.identity(precision), backbone.dim
    pending = _pending(session, catalog, version, backbone_id)
    missing = sum(one.missing for one in pending)
    log.info("featurize: %d images held, %d known already, %d to featurize with %s",
             held, held - missing, missing, backbone_id)  # fmt: skip
    if missing:
        weights = backbones.ship_weights(backbone, precision)
        del backbone  # the workers map the file, and this process needs the memory no more
        context = session.sparkContext
        is_long = missing >= LONG_IMAGES * context.defaultParallelism
        done = context.accumulator(0)
        work = Work(spec.backbone, backbone_id, precision, weights, is_long, done)
        with Progress("featurize", missing).following(lambda: done.value):
            spark.run_chunks(
                session,
                pending,
                lambda chunk: _featurize_chunk(session, catalog, task, work, chunk),
            )
    record.counts = {
        "images": held,
        "known": held - missing,
        "featurized": missing,
        "backbone": spec.backbone.model_dump(mode="json"),
        "backbone_id": backbone_id,
        "dim": dim,
    }
    record.wrote(catalog.features, rows=missing)


def import_torch() -> None:
    """Takes seconds, in which Spark can start."""
    import torchvision.transforms.v2.functional  # noqa: F401


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


def choose_precision(
    spec: BackboneSpec, backbone: Backbone, catalog: Catalog, version: int | None
) -> str:
    """fp32 or bf16 for `auto`: that of the features held already, whatever this hardware; else bf16
    where the hardware has it and agrees with fp32 on the first images.
    """
    if spec.precision != "auto":
        return spec.precision
    held = {
        precision: tables.count_rows(catalog.features, partition=backbone.identity(precision))
        for precision in ("bf16", "fp32")
    }
    if any(held.values()):
        return max(held, key=held.__getitem__)
    if not has_bf16():
        return "fp32"
    pictures = [
        prepare_picture(spec, backbone.preprocessing, row["content"], row["rotation"])
        for row in _first_images(catalog, version)
    ]
    if not pictures:
        return "fp32"
    cosine = agreement(backbone.module, backbone.preprocessing, pictures)
    agrees = cosine >= LEAST_COSINE
    log.info("featurize: bf16 against fp32 on %d images: least cosine %.5f, %s",
             len(pictures), cosine, "agrees" if agrees else f"below {LEAST_COSINE}: fp32 it is")  # fmt: skip
    return "bf16" if agrees else "fp32"


def _first_images(catalog: Catalog, version: int | None) -> list[dict[str, Any]]:
    for url in tables.file_urls(catalog.images, version)[:1]:
        with parquet.opened(url) as file:
            batches = file.iter_batches(CHECKED_IMAGES, columns=list(COLUMNS))
            return list(next(batches).to_pylist())
    return []


def _pending(
    session: "SparkSession", catalog: Catalog, version: int | None, backbone_id: str
) -> list[Pending]:
    """Files of the images table that hold images without an embedding, and how many."""
    from pyspark.sql import functions

    files = tables.file_urls(catalog.images, version)
    known_files = _feature_files(catalog, backbone_id)
    if not known_files:
        return [Pending(url, rows, True) for url, rows in tables.file_rows(catalog.images, version)]
    by_name = {tables.file_name(url): url for url in files}
    held = spark.read_files(session, files, IMAGES).select("image_id", "_metadata.file_path")
    known = spark.read_files(session, known_files, FEATURES).select("image_id", "backbone_id")
    missing = functions.count_if(functions.col("backbone_id").isNull())
    found = (
        held.join(known, "image_id", "left")
        .groupBy("file_path")
        .agg(missing.alias("missing"), functions.count("*").alias("rows"))
        .where("missing > 0")
        .collect()
    )
    return sorted(
        (
            Pending(
                by_name[tables.file_name(row["file_path"])],
                row["missing"],
                row["missing"] == row["rows"],
            )
            for row in found
        ),
        key=lambda one: one.url,
    )


def _featurize_chunk(
    session: "SparkSession", catalog: Catalog, task: TaskRun, work: Work, chunk: Pending
) -> None:
    missing = None if chunk.is_whole else _missing(catalog, work.backbone_id, chunk.url)
    parts = parts_of(chunk.url, missing)
    numbers = session.range(len(parts), numPartitions=len(parts))
    urls = spark.write_made(numbers, embed_parts(work, parts), catalog.features)
    tables.append_new(catalog.features, urls, work.backbone_id, task.writer)


def _missing(catalog: Catalog, backbone_id: str, url: str) -> frozenset[str]:
    ids = lookup.read_file(url, ["image_id"])["image_id"].to_pylist()
    known = tables.held_values(catalog.features, "image_id", ids, partition=backbone_id)
    return frozenset(ids) - known


def _feature_files(catalog: Catalog, backbone_id: str) -> list[str]:
    return tables.file_urls(catalog.features, partition=backbone_id)
