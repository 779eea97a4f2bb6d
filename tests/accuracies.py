"""Assertions about accuracies that hold on any processor.

The accuracy of a trained network varies with the seed, and with one seed from one processor to another:
rounding alone changes a few answers. To compare two ways to a classifier, train each with the same seeds,
judge both on the same test images, and demand of the interval of the difference what the test claims:

    difference = accuracies.compare(two_processes, one_process)  # a row a seed, a column a test image
    accuracies.assert_not_worse(difference, margin=0.01)

The assertion fails only if the 95 % interval lies wholly below -0.01. With five seeds and 439 images,
equal ways fail it in under one run of a hundred, and a way that is 3 points worse in 85 of a hundred
(tests/test_accuracies.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sightline import gating, tables
from sightline.catalog import Catalog

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean accuracy of the first way less that of the second, with the ends of its interval."""

    mean: float
    low: float
    high: float
    seeds: int
    images: int

    def __str__(self) -> str:
        return (
            f"{self.mean:+.4f} ({CONFIDENCE:.0%} interval {self.low:+.4f} to {self.high:+.4f}; "
            f"{self.seeds} seeds, {self.images} test images)"
        )


def compare(ours: Sequence[Sequence[bool]], theirs: Sequence[Sequence[bool]]) -> Difference:
    """Compare which answers are right: a row for each seed, a column for each test image.

    With one seed the interval is the gate's (Agresti and Min), which knows the chance of the test images
    alone. With more it is the wider of two: Student's over the seeds, and the normal one over the images.
    """
    differences = np.array(ours, dtype=float) - np.array(theirs, dtype=float)
    seeds, images = differences.shape
    mean = float(differences.mean())
    if seeds == 1:
        gained, lost = (int((differences == sign).sum()) for sign in (1, -1))
        known = gating.compare(images, gained, lost, CONFIDENCE)
        return Difference(mean, known.low, known.high, seeds, images)
    quantile = (1 + CONFIDENCE) / 2
    over_seeds = stats.t.ppf(quantile, seeds - 1) * stats.sem(differences.mean(axis=1))
    over_images = stats.norm.ppf(quantile) * stats.sem(differences.mean(axis=0))
    half = float(max(over_seeds, over_images))
    return Difference(mean, mean - half, mean + half, seeds, images)


def assert_not_worse(difference: Difference, margin: float) -> None:
    """Fail if the first way is surely worse than the second by more than the margin.

    A negative margin is a gain that the first way must not surely fall short of.
    """
    assert difference.high >= -margin, f"worse by more than {margin:g}: {difference}"


def assert_at_least(accuracy: float, images: int, least: float) -> None:
    """Fail if an accuracy on so many test images is below `least`, and not by chance of these images.

    The interval is Wilson's. Set `least` well below what the test usually finds.
    """
    interval = stats.binomtest(round(accuracy * images), images).proportion_ci(
        CONFIDENCE, method="wilson"
    )
    assert interval.high >= least, (
        f"accuracy {accuracy:.4f} on {images} test images ({CONFIDENCE:.0%} interval "
        f"{interval.low:.4f} to {interval.high:.4f}) is below {least:g}"
    )


def right_answers(catalog: Catalog, version: str) -> list[bool]:
    """Whether the model names each test image right, in the order of the image ids."""
    with tables.query(predictions=catalog.predictions) as sql:
        rows = sql(
            f"""SELECT predicted = label AS is_right FROM predictions
            WHERE model_version = {tables.literal(version)} ORDER BY image_id"""
        )
    return list(rows["is_right"].to_pylist())
