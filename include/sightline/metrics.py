"""The numbers of a classifier: sums over its predictions, and every metric that follows from them.

A test image of a class that was not trained can only be predicted wrongly, and counts as that: it
lowers accuracy, top-5 accuracy, macro F1 and the precision of what it is taken for, and stands in the
confusion matrix. Only the log loss, which would be infinite, leaves it out. An image without a label is
not counted.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BINS = 15  # of confidence, as in Guo et al. 2017, so that the error compares with published ones
RELIABILITY = ("images", "confidence", "accuracy")  # of each bin


@dataclass
class Tally:
    """Sums over predictions, from which every metric follows: memory grows with the classes only."""

    labels: list[str]  # those of the classifier in its order, then those that were not trained
    confusion: Array  # (labels, labels) counts: rows true, columns predicted
    in_top_5: int = 0
    with_loss: int = 0  # rows whose class was trained
    log_loss_sum: float = 0.0
    # (BINS, 3) sums over the rows of each bin of confidence: 1, the confidence, 1 where right
    reliability: Array = field(default_factory=lambda: np.zeros((BINS, 3)))

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
        best = given.argmax(axis=1)
        np.add.at(self.confusion, (truth, best), 1)
        likeliest = np.argsort(-given, axis=1)[:, :5]
        self.in_top_5 += int((likeliest == truth[:, None]).any(axis=1).sum())
        trained = np.flatnonzero(truth < given.shape[1])
        self.with_loss += len(trained)
        of_truth = given[trained, truth[trained]].clip(1e-15, 1.0)
        self.log_loss_sum -= float(np.log(of_truth).sum())
        confidence = given.max(axis=1)
        sums = np.stack([np.ones(len(rows)), confidence, best == truth], axis=1)
        np.add.at(self.reliability, confidence_bins(confidence), sums)


def confidence_bins(confidence: Array) -> Array:
    """Which of the equally wide bins, each with its upper bound, a confidence in 0..1 falls into."""
    return np.asarray(np.ceil(confidence * BINS) - 1).clip(0, BINS - 1).astype(np.int64)


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


def calibration_error(tally: Tally) -> float:
    """Expected calibration error (Naeini et al. 2015): |accuracy - confidence|, the mean over the bins
    weighted by their rows."""
    _, confidence, right = tally.reliability.T
    return float(np.abs(right - confidence).sum() / tally.rows)


METRICS_BY_NAME: dict[str, Callable[[Tally], float]] = {
    "accuracy": accuracy,
    "top_5_accuracy": top_5_accuracy,
    "macro_f1": macro_f1,
    "log_loss": log_loss,
    "calibration_error": calibration_error,
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


def metric_rows(tally: Tally) -> list[dict[str, Any]]:
    """All numbers of an evaluation: overall, of each class, the confusion matrix's cells, and the bins
    of confidence."""
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
    return rows + _reliability_rows(tally)


def _reliability_rows(tally: Tally) -> list[dict[str, Any]]:
    """Images, mean confidence and accuracy of each bin that holds any; `label` is the bin, from 1."""
    rows = []
    for index, (images, confidence, right) in enumerate(tally.reliability):
        if images:
            values = (images, confidence / images, right / images)
            rows += [
                {"name": f"reliability:{name}", "label": str(index + 1), "value": float(value)}
                for name, value in zip(RELIABILITY, values, strict=True)
            ]
    return rows
