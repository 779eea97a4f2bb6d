"""Numbers of drift: how far new images are from those before, and what chance alone would give.

Where nothing has changed they are about as large as chance makes them, however few the images.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from scipy.stats import f as f_distribution
from scipy.stats import norm

Array = np.ndarray[Any, Any]

CHANCE = 0.999  # what chance alone exceeds once in a thousand times
DRAWS = 1000
EDGES = tuple(range(0, 101, 10))  # percentiles of both sides that bound a property's bins


@dataclass(frozen=True)
class Number:
    """A number of drift beside what chance alone exceeds once in a thousand times."""

    value: float
    chance: float


def stability(new: Array, reference: Array) -> Number:
    """The population stability index of counts (bins,) against others: the sum over the bins of
    (p - q) ln(p / q). Chance is what comes of dealing out the images of both sides anew.
    """
    both = (new + reference).astype(np.int64)
    draws = np.random.default_rng(0)  # the same numbers whenever it is measured
    dealt = draws.multivariate_hypergeometric(both, int(new.sum()), DRAWS, method="marginals")
    by_chance = _stability(dealt, both)
    return Number(float(_stability(new[None], both)[0]), float(np.quantile(by_chance, CHANCE)))


def _stability(new: Array, both: Array) -> Array:
    """(n,) of counts (n, bins) out of those of both sides. One more image on each side, spread as all
    are, keeps empty bins finite.
    """
    reference, pooled = both - new, both / both.sum()
    seen = both > 0
    p = (new + pooled)[:, seen] / (new.sum(axis=1, keepdims=True) + 1)
    q = (reference + pooled)[:, seen] / (reference.sum(axis=1, keepdims=True) + 1)
    return np.asarray(((p - q) * np.log(p / q)).sum(axis=1))


def bin_of(values: Array, edges: Array) -> Array:
    """(n,): the bin of each value. Between two edges is a bin, and each edge is one: many images may
    have that very value.
    """
    return np.asarray(
        np.searchsorted(edges, values, "left") + np.searchsorted(edges, values, "right")
    )


def bin_count(edges: Array) -> int:
    """How many bins some edges make."""
    return 2 * len(edges) + 1


def separation(between: Array, variances: Array, new: int, reference: int) -> float:
    """The square of Mahalanobis' distance between the means of two sides, with the covariance that both
    have in common: of what lies `between` the means on the principal components (k,) of both together,
    and the variances (k,) of both together there.
    """
    total = new + reference
    varies = variances > 1e-12 * variances.max(initial=0.0)
    apart = float((between[varies] ** 2 / variances[varies]).sum())
    within = max(1 - new * reference / total**2 * apart, 1e-12)  # of the variance between the means
    return (total - 2) / total * apart / within


def told_apart(distance_square: float, width: int, new: int, reference: int) -> Number:
    """How well a linear rule tells a new image from one before: the share of pairs of both that it puts
    in the right order (the area under its ROC curve), 0.5 where it cannot and 1 where it always does.

    `distance_square` is Mahalanobis' between the means, on `width` components, with the covariance of
    both. What chance adds to it is taken off; without drift it follows Hotelling's distribution.
    """
    total = new + reference
    scale = total / (new * reference)
    freedom = total - width - 1
    limit = float(f_distribution.ppf(CHANCE, width, freedom)) * width * (total - 2) / freedom

    def area(square: float) -> float:
        unbiased = square * (freedom - 2) / (total - 2) - width * scale
        return float(norm.cdf(sqrt(max(unbiased, 0.0) / 2)))

    return Number(area(distance_square), area(limit * scale))
