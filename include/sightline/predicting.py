"""Batch prediction: what the champion says of images that nobody has labelled, as rows and as a CSV file.

A head predicts from the features, without a JVM; a fine-tuned network has scored the images before, in a
Spark job of its own. A run exchanges all answers of its model, so a rerun leaves the same ones.
"""

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from sightline import models, storage, tables, wanted_images
from sightline.batches import to_lists, to_matrix
from sightline.catalog import Catalog
from sightline.errors import TrainingError
from sightline.ledger import Record, TaskRun
from sightline.schemas import ANSWERS
from sightline.spreadsheets import defuse
from sightline.wanted_images import Wanted

Array = np.ndarray[Any, Any]

HEADER = ("uri", "label", "predicted", "probability", "second", "second_probability")


def predict(catalog: Catalog, task: TaskRun, record: Record, wanted: Wanted) -> None:
    """Keep the model's answers on the wanted images, in its partition of the table and as a file.

    TrainingError where it has nothing to predict some of them from.
    """
    model = models.read_model(catalog, wanted.version)
    if model is None:
        raise TrainingError(
            f"Model {wanted.version} of {catalog.dataset} is no longer on storage; run "
            f"predict_{catalog.dataset} again."
        )
    record.read(catalog.images, version=wanted.images_version)
    record.read(*_sources(catalog, model))
    record.read_model(catalog.models, wanted.version)
    _refuse_missing(catalog, model, wanted)
    held = tables.claim(catalog.answers, task.writer)
    url = answers_url(catalog, wanted.version)
    with storage.writing(url) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(HEADER)
        urls = tables.write_batches(catalog.answers, _answers(catalog, model, wanted, lines))
        text.flush()
        text.detach()  # the stream is closed by who opened it
    tables.replace_partition(catalog.answers, urls, wanted.version, held)
    rows = tables.count_rows(catalog.answers, partition=wanted.version)
    record.counts = {"rows": rows, "version": wanted.version, "url": url}
    record.wrote(catalog.answers, rows=rows)


def answers_url(catalog: Catalog, version: str) -> str:
    """Where the file of a model's answers lies."""
    return storage.join(catalog.predicted, f"{version}.csv")


def _answers(
    catalog: Catalog, model: dict[str, Any], wanted: Wanted, lines: Any
) -> Iterator[pa.RecordBatch]:
    """Batches of ANSWERS, written as lines of the file on the way."""
    labels = model["labels"]
    is_head = model["kind"] == models.HEAD
    classifier = models.load_classifier(catalog, model) if is_head else None
    for batch in wanted_images.rows(catalog, model, wanted):
        values = to_matrix(batch["values"])
        shares = classifier.probabilities(values) if classifier else values
        yield _answer_batch(batch, wanted.version, labels, shares.astype(np.float32))
        lines.writerows(_lines(batch, labels, shares))


def _answer_batch(
    batch: pa.RecordBatch, version: str, labels: list[str], shares: Array
) -> pa.RecordBatch:
    columns = {
        "image_id": batch["image_id"].cast(pa.string()),
        "model_version": pa.array([version] * len(shares), pa.string()),
        "predicted": pa.array([labels[best] for best in shares.argmax(axis=1)], pa.string()),
        "probability": pa.array(shares.max(axis=1)),
        "probabilities": to_lists(shares),
    }
    return pa.RecordBatch.from_pydict(columns, schema=ANSWERS)


def _lines(batch: pa.RecordBatch, labels: list[str], shares: Array) -> Iterator[list[str]]:
    """Lines of the file: what is likeliest, and what comes second."""
    order = np.argsort(-shares, axis=1, kind="stable")[:, :2]
    known = zip(batch["uri"].to_pylist(), batch["label"].to_pylist(), order, shares, strict=True)
    for uri, label, places, row in known:
        answers = [
            text for place in places for text in (defuse(labels[place]), f"{row[place]:.6f}")
        ]
        yield [defuse(uri), defuse(label or ""), *answers]


def _sources(catalog: Catalog, model: dict[str, Any]) -> list[tables.Table]:
    return [catalog.features if model["kind"] == models.HEAD else catalog.scores]


def _refuse_missing(catalog: Catalog, model: dict[str, Any], wanted: Wanted) -> None:
    missing = len(wanted_images.missing_ids(catalog, model, wanted))
    if missing and model["kind"] == models.HEAD:
        raise TrainingError(
            f"{missing:,} images of {catalog.dataset} have no features of {model['backbone_id']}, which "
            f"champion {wanted.version} was trained on; run ingest_{catalog.dataset}, or, where the "
            f"dataset file's backbone has changed, train_{catalog.dataset}."
        )
    if missing:
        raise TrainingError(
            f"{missing:,} images of {catalog.dataset} have no scores of champion {wanted.version}; "
            "clear task score_new."
        )
