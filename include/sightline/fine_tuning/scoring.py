"""What a fine-tuned network says of the test images, and of those to predict, on Spark's workers.

The workers read and decode as those of featurizing do; where the dataset file asks for test-time
augmentation, each image is also seen in several views, whose probabilities are averaged.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sightline import images, lookup, spark, tables
from sightline.backbones.inference import Network
from sightline.backbones.preprocessing import Preprocessing
from sightline.backbones.worker import Part, ahead, borrowed, parts_of, prepared, read_part
from sightline.batches import to_lists
from sightline.catalog import Catalog
from sightline.classifiers import softmax
from sightline.fine_tuning.augmentation import View, views
from sightline.fine_tuning.tuned_models import PRECISION, TunedModel
from sightline.progress import Progress
from sightline.schemas import SCORES
from sightline.tables import Writer

if TYPE_CHECKING:
    import torch
    from pyspark.accumulators import Accumulator
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Work:
    model: TunedModel
    done: "Accumulator[int]"  # images, for the progress


@dataclass(frozen=True)
class _Chunk:
    """A file of the images table and those of its images that are to be scored."""

    url: str
    wanted: frozenset[str]


def score_images(
    session: "SparkSession",
    catalog: Catalog,
    images_version: int,
    model: TunedModel,
    writer: Writer,
    chosen: frozenset[str] | None = None,
) -> dict[str, int]:
    """Score what has no scores of this model yet, file by file; returns counts. `chosen` are image_ids; by
    default the images of the test split and those to predict."""
    chunks = list(_chunks(catalog, images_version, model.version, chosen))
    missing = sum(len(chunk.wanted) for chunk in chunks)
    context = session.sparkContext
    work = _Work(model, context.accumulator(0))
    with Progress("score", missing).following(lambda: work.done.value):
        spark.run_chunks(
            session, chunks, lambda chunk: _score_chunk(session, catalog, work, chunk, writer)
        )
    scored = tables.count_rows(catalog.scores, partition=model.version)
    return {"scored": missing, "known": scored - missing}


def _chunks(
    catalog: Catalog, images_version: int, version: str, chosen: frozenset[str] | None
) -> Iterator[_Chunk]:
    for url in tables.file_urls(catalog.images, images_version):
        rows = lookup.read_file(url, ["image_id", "split_hint"]).to_pylist()
        ids = [row["image_id"] for row in rows]
        wanted = _judged(catalog, rows) if chosen is None else chosen.intersection(ids)
        if wanted:
            wanted -= tables.held_values(catalog.scores, "image_id", ids, partition=version)
        if wanted:
            yield _Chunk(url, wanted)


def _judged(catalog: Catalog, rows: list[dict[str, Any]]) -> frozenset[str]:
    """Of rows (image_id, split_hint), those of the test split, and those to predict."""
    ids = [row["image_id"] for row in rows]
    splits = lookup.rows_of(catalog.splits, "image_id", ids).to_pylist()
    tested = {row["image_id"] for row in splits if row["split"] == "test"}
    return frozenset(tested | {row["image_id"] for row in rows if row["split_hint"] == "predict"})


def _score_chunk(
    session: "SparkSession", catalog: Catalog, work: _Work, chunk: _Chunk, writer: Writer
) -> None:
    parts = parts_of(chunk.url, chunk.wanted)
    numbers = session.range(len(parts), numPartitions=len(parts))
    urls = spark.write_made(numbers, score_parts(work, parts), catalog.scores)
    tables.append_new(catalog.scores, urls, work.model.version, writer)


def score_parts(
    work: _Work, parts: list[Part]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The function for Spark: numbers of parts in the column `id` in, batches of SCORES out."""

    def score(numbers: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        model = work.model
        shown = views(model.fine_tune.test_time_augmentation)
        ours = [parts[number] for batch in numbers for number in batch["id"].to_pylist()]
        with borrowed(model.version, partial(_build, model)) as network:
            rows = (batch for part in ours for batch in read_part(part))
            prepare = partial(prepare_views, network.preprocessing, shown)
            for image_ids, pictures in ahead(prepared(rows, network, prepare)):
                yield score_batch(image_ids, model.version, probabilities(network, pictures))
                work.done.add(len(pictures))

    return score


def prepare_views(
    preprocessing: Preprocessing, shown: list[View], content: bytes, rotation: int
) -> "list[torch.Tensor]":
    """An encoded image as the network takes it, once for each view."""
    pixels = images.decode_pixels(content, rotation)
    return [preprocessing.prepare(view.of(pixels)) for view in shown]


def probabilities(network: Network, pictures: "list[list[torch.Tensor]]") -> Array:
    """(images, views, classes) float32, of images with as many views each."""
    logits = network.embed([view for views in pictures for view in views])
    shares = softmax(logits)
    return shares.reshape(len(pictures), -1, shares.shape[1])


def score_batch(image_ids: pa.Array, version: str, shares: Array) -> pa.RecordBatch:
    """Rows of the scores table: the first view's probabilities, and the mean of all where several."""
    rows = len(shares)
    augmented = (
        to_lists(shares.mean(axis=1))
        if shares.shape[1] > 1
        else pa.nulls(rows, SCORES.field("augmented").type)
    )
    columns = [image_ids, pa.array([version] * rows, pa.string()), to_lists(shares[:, 0])]
    return pa.RecordBatch.from_arrays([*columns, augmented], schema=SCORES)


def _build(model: TunedModel, device: str) -> Network:
    module, preprocessing = model.build()
    return Network(module, preprocessing, PRECISION, device)
