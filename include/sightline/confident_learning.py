"""Which labels the probabilities speak against, after Northcutt, Jiang and Chuang, "Confident Learning:
Estimating Uncertainty in Dataset Labels" (Journal of Artificial Intelligence Research 70, 2021).

The probabilities must come of a head that has not seen the label that it judges.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Confidence:
    """How sure a head is of each class, on the images that are labelled so: sums over them."""

    sums: Array  # (classes,) of the class's own probability
    counts: Array  # (classes,)

    @classmethod
    def empty(cls, classes: int) -> "Confidence":
        """Nothing counted yet."""
        return cls(np.zeros(classes), np.zeros(classes))

    def with_rows(self, probabilities: Array, labels: Array) -> "Confidence":
        """With probabilities (n, classes) of images with these labels (n,) counted."""
        sums, counts = self.sums.copy(), self.counts.copy()
        np.add.at(sums, labels, self_confidence(probabilities, labels))
        np.add.at(counts, labels, 1)
        return Confidence(sums, counts)

    @property
    def thresholds(self) -> Array:
        """(classes,): the probability from which on an image counts as surely of a class, the mean of
        those labelled so; out of reach for a class without images.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            means = self.sums / self.counts
        return np.where(self.counts > 0, means, np.inf)


def self_confidence(probabilities: Array, labels: Array) -> Array:
    """(n,): the probability of each image's own label, which ranks labels from the worst."""
    return np.asarray(probabilities[np.arange(len(labels)), labels])


def label_issues(probabilities: Array, labels: Array, thresholds: Array) -> Array:
    """(n,): whether an image is surely of a class, and that is not its label (the confident joint's cells
    off the diagonal). Of several classes that it surely is of, the likeliest counts.
    """
    is_sure = probabilities >= thresholds - 1e-6
    likeliest = np.where(is_sure, probabilities, -1.0).argmax(axis=1)
    return np.asarray(is_sure.any(axis=1) & (likeliest != labels))


def suggest(probabilities: Array, labels: Array) -> Array:
    """(n,): the likeliest class beside each image's own label."""
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1.0
    return np.asarray(others.argmax(axis=1))


def far_out(distances: Array) -> float:
    """The distance from which on an image is like no class: Tukey's outer fence, three interquartile
    ranges above the third quartile.
    """
    if not len(distances):
        return float("inf")
    low, high = np.quantile(distances, [0.25, 0.75])
    return float(high + 3 * (high - low))
