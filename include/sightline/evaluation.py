"""How good a model is: predictions on the test split, without a JVM, and the numbers made of them.

A test image of a class that was not trained can only be predicted wrongly, and counts as that: it
lowers accuracy, top-5 accuracy, macro F1 and the precision of what it is taken for, and stands in the
confusion matrix and as `unseen` in the counts. Only the log loss, which would be infinite, leaves it
out. An image without a label is predicted and not counted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sightline import models, tables
from sightline.catalog import Catalog
from sightline.classifiers import Classifier
from sightline.config import DatasetSpec
from sightline.errors import TrainingError
from sightline.ledger import Record, TaskRun
from sightline.models import Plan
from sightline.schemas import METRICS, PREDICTIONS

Array = np.ndarray[Any, Any]

ROWS = """
    SELECT f.image_id, f.embedding, i.label FROM features f
    JOIN splits s ON s.image_id = f.image_id AND s.split = '{split}'
    JOIN images i ON i.image_id = f.image_id
    WHERE f.backbone_id = '{backbone_id}'
"""


UNSEEN = """
    SELECT DISTINCT i.label FROM images i
    JOIN splits s ON s.image_id = i.image_id AND s.split = 'test'
    WHERE i.label IS NOT NULL
"""


@dataclass
class Tally:
    """Sums over predictions, from which every metric follows: memory grows with the classes only."""

    labels: list[str]  # those of the classifier in its order, then those that were not trained
    confusion: Array  # (labels, labels) counts: rows true, columns predicted
    in_top_5: int = 0
    with_loss: int = 0  # rows whose class was trained
    log_loss_sum: float = 0.0

    @classmethod
    def empty(cls, labels: list[str]) -> "Tally":
        """Nothing counted yet."""
        return cls(labels, np.zeros((len(labels), len(labels)), dtype=np.int64))

    @property
    def rows(self) -> int:
        """Predictions counted."""
        return int(self.confusion.sum())

    def add(self, labels: list[str | None], probabilities: Array) -> None:
        """Count rows: true labels and probabilities (n, classes trained)."""
        number = {label: index for index, label in enumerate(self.labels)}
        rows = [row for row, label in enumerate(labels) if label is not None]
        truth = np.array([number[str(labels[row])] for row in rows], dtype=np.int64)
        given = probabilities[rows].astype(np.float64)
        np.add.at(self.confusion, (truth, given.argmax(axis=1)), 1)
        likeliest = np.argsort(-given, axis=1)[:, :5]
        self.in_top_5 += int((likeliest == truth[:, None]).any(axis=1).sum())
        trained = np.flatnonzero(truth < given.shape[1])
        self.with_loss += len(trained)
        of_truth = given[trained, truth[trained]].clip(1e-15, 1.0)
        self.log_loss_sum -= float(np.log(of_truth).sum())


def accuracy(tally: Tally) -> float:
    """Share of rows whose likeliest class is the true one."""
    return float(tally.confusion.trace() / tally.rows)


def top_5_accuracy(tally: Tally) -> float:
    """Share of rows whose true class is among the five likeliest."""
    return tally.in_top_5 / tally.rows


def macro_f1(tally: Tally) -> float:
    """Mean F1 of the classes that occur in truth or predictions."""
    rows = per_class(tally.confusion)
    return float(np.mean([row["f1"] for row in rows if row["support"] or row["predicted"]]))


def log_loss(tally: Tally) -> float:
    """Mean negative logarithm of the true class's probability, where that class was trained."""
    return tally.log_loss_sum / max(tally.with_loss, 1)


METRICS_BY_NAME: dict[str, Callable[[Tally], float]] = {
    "accuracy": accuracy,
    "top_5_accuracy": top_5_accuracy,
    "macro_f1": macro_f1,
    "log_loss": log_loss,
}


def per_class(confusion: Array) -> list[dict[str, float]]:
    """Precision, recall, F1, support and times predicted of each class; 0 where undefined."""
    rows = []
    for index, right in enumerate(confusion.diagonal()):
        support, predicted = confusion[index].sum(), confusion[:, index].sum()
        precision = right / predicted if predicted else 0.0
        recall = right / support if support else 0.0
        both = precision + recall
        values = (precision, recall, 2 * precision * recall / both if both else 0.0)
        names = ("precision", "recall", "f1", "support", "predicted")
        numbers = (*values, support, predicted)
        rows.append({name: float(value) for name, value in zip(names, numbers, strict=True)})
    return rows


def evaluate(
    spec: DatasetSpec, catalog: Catalog, task: TaskRun, record: Record, plan: Plan
) -> None:
    """Predict the test split and keep predictions and metrics under the model's version."""
    record.read(catalog.features, catalog.splits)
    model = models.read_model(catalog, plan.version)
    if model is None:
        raise TrainingError(
            f"Model {plan.version} of {spec.name} is not trained; clear task train."
        )
    predictor = Predictor(models.load_classifier(catalog, model))
    labels = [*model["labels"], *_unseen(catalog, plan, model["labels"])]
    tally = _keep_predictions(catalog, task, plan, predictor, labels)
    if not tally.rows:
        raise TrainingError(
            f"Dataset {spec.name} has no labelled test image among the features; add images."
        )
    _keep_metrics(catalog, task, plan, metric_rows(tally))
    numbers = {name: metric(tally) for name, metric in METRICS_BY_NAME.items()}
    numbers["train_accuracy"] = accuracy(_tally(catalog, plan, predictor, labels, "train"))
    model["metrics"] = {name: round(number, 6) for name, number in numbers.items()}
    model["rows"]["test"] = tally.rows
    models.write_model(catalog, model)
    record.counts = {
        "rows": tally.rows,
        "accuracy": round(numbers["accuracy"], 4),
        "unseen": tally.rows - tally.with_loss,
    }
    record.wrote(catalog.predictions, catalog.metrics)


@dataclass(frozen=True)
class Predictor:
    """A classifier whose probabilities are as the predictions table keeps them."""

    classifier: Classifier

    def probabilities(self, embeddings: Array) -> Array:
        """Probabilities, float32 (n, classes), of embeddings (n, dim)."""
        return self.classifier.probabilities(embeddings).astype(np.float32)


def metric_rows(tally: Tally) -> list[dict[str, Any]]:
    """All numbers of an evaluation: overall, of each class, and the confusion matrix's cells."""
    rows: list[dict[str, Any]] = [
        {"name": name, "label": None, "value": metric(tally)}
        for name, metric in METRICS_BY_NAME.items()
    ]
    for label, row in zip(tally.labels, per_class(tally.confusion), strict=True):
        names = ("precision", "recall", "f1", "support")
        rows += [{"name": name, "label": label, "value": row[name]} for name in names]
    for true, predicted in np.argwhere(tally.confusion):
        value = float(tally.confusion[true, predicted])
        name = f"confusion:{tally.labels[predicted]}"
        rows.append({"name": name, "label": tally.labels[true], "value": value})
    return rows


def _unseen(catalog: Catalog, plan: Plan, trained: list[str]) -> list[str]:
    """Labels of the test split that the classifier was not trained on, sorted."""
    images = tables.open_table(catalog.images, plan.images_version)
    assert images is not None  # the plan was made of it
    with tables.query(images=images, splits=catalog.splits) as sql:
        return sorted(set(sql(UNSEEN)["label"].to_pylist()) - set(trained))


def _keep_predictions(
    catalog: Catalog, task: TaskRun, plan: Plan, predictor: Predictor, labels: list[str]
) -> Tally:
    """Write the test split's predictions while counting them."""
    held = tables.claim(catalog.predictions, task.writer)
    tally = Tally.empty(labels)

    def batches() -> Iterator[pa.RecordBatch]:
        for rows, probabilities in _predicted(catalog, plan, predictor, "test"):
            tally.add(rows["label"].to_pylist(), probabilities)
            yield _prediction_batch(rows, probabilities, labels, plan.version)

    urls = tables.write_batches(catalog.predictions, batches())
    tables.replace_partition(catalog.predictions, urls, plan.version, held)
    return tally


def _keep_metrics(catalog: Catalog, task: TaskRun, plan: Plan, rows: list[dict[str, Any]]) -> None:
    held = tables.claim(catalog.metrics, task.writer)
    whole = [{**row, "model_version": plan.version, "split": "test"} for row in rows]
    urls = tables.write_batches(
        catalog.metrics, [pa.RecordBatch.from_pylist(whole, schema=METRICS)]
    )
    tables.replace_partition(catalog.metrics, urls, plan.version, held)


def _tally(
    catalog: Catalog, plan: Plan, predictor: Predictor, labels: list[str], split: str
) -> Tally:
    tally = Tally.empty(labels)
    for rows, probabilities in _predicted(catalog, plan, predictor, split):
        tally.add(rows["label"].to_pylist(), probabilities)
    return tally


def _predicted(
    catalog: Catalog, plan: Plan, predictor: Predictor, split: str
) -> Iterator[tuple[pa.RecordBatch, Array]]:
    """A split's rows (image_id, embedding, label) at the plan's versions, with probabilities."""
    features = tables.open_table(catalog.features, plan.features_version)
    images = tables.open_table(catalog.images, plan.images_version)
    assert features is not None and images is not None  # the plan was made of them
    statement = ROWS.format(split=split, backbone_id=plan.backbone_id)
    with tables.stream_query(features=features, images=images, splits=catalog.splits) as sql:
        for batch in sql(statement):
            if batch.num_rows:
                embeddings = np.asarray(batch["embedding"].flatten()).reshape(batch.num_rows, -1)
                yield batch, predictor.probabilities(embeddings)


def _prediction_batch(
    rows: pa.RecordBatch, probabilities: Array, labels: list[str], version: str
) -> pa.RecordBatch:
    best = probabilities.argmax(axis=1)
    columns = {
        "image_id": rows["image_id"].cast(pa.string()),
        "model_version": pa.array([version] * rows.num_rows, pa.string()),
        "label": rows["label"].cast(pa.string()),
        "predicted": pa.array([labels[index] for index in best], pa.string()),
        "probability": pa.array(probabilities.max(axis=1)),
        "probabilities": pa.array(list(probabilities), pa.list_(pa.float32())),
    }
    return pa.RecordBatch.from_pydict(columns, schema=PREDICTIONS)
