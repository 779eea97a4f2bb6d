"""Linear discriminant analysis from sums: a classifier, and a distance, that no iteration is needed for.

Classes are Gaussian with one covariance, on principal components. All that is fitted follows of sums over
the rows, and sums can be subtracted: what a fold's head needs is the total without that fold. In memory is
a dim x dim matrix for each sum that is held.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from sightline.classifiers import Pca
from sightline.config import ReduceSpec
from sightline.principal_components import (
    Moments,
    add_moments,
    add_rows,
    at_most,
    fit_pca,
    without,
)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ClassSums:
    """Moments of some rows, and the sums of each class, relative to a fixed shift."""

    moments: Moments
    counts: Array  # (classes,)
    sums: Array  # (classes, dim)

    @classmethod
    def empty(cls, classes: int, dim: int) -> "ClassSums":
        """Those of no rows."""
        return cls(Moments.empty(dim), np.zeros(classes), np.zeros((classes, dim)))

    def with_rows(self, rows: Array, classes: Array, shift: Array) -> "ClassSums":
        """With rows (n, dim) of these classes (n,) added, to the Gramian in place."""
        counts, sums = self.counts.copy(), self.sums.copy()
        np.add.at(counts, classes, 1)
        for one in np.unique(classes):
            sums[one] += (rows[classes == one].astype(np.float64) - shift).sum(axis=0)
        return ClassSums(add_rows(self.moments, rows, shift), counts, sums)

    def plus(self, other: "ClassSums") -> "ClassSums":
        """The sum of both; adds to this one's Gramian in place."""
        moments = add_moments(self.moments, other.moments)
        return ClassSums(moments, self.counts + other.counts, self.sums + other.sums)

    def minus(self, part: "ClassSums") -> "ClassSums":
        """The sums of the rows that are not in the part."""
        moments = without(self.moments, part.moments)
        return ClassSums(moments, self.counts - part.counts, self.sums - part.sums)


@dataclass(frozen=True)
class Discriminant:
    """A fitted head. A row x lies at (x - mean) @ projection, where each class is a unit sphere."""

    mean: Array  # (dim,)
    projection: Array  # (dim, k)
    centres: Array  # (classes, k); 0 of a class without rows
    log_priors: Array  # (classes,); minus infinity of a class without rows

    @property
    def knows(self) -> Array:
        """(classes,): whether there were rows of a class."""
        return np.isfinite(self.log_priors)

    def judge(self, rows: Array) -> tuple[Array, Array]:
        """Logarithms of the probabilities (n, classes) of rows (n, dim), and each row's distance to the
        nearest class (n,): Mahalanobis', about sqrt(k) for a row like those that were fitted.
        """
        placed = ((rows - self.mean).astype(np.float32) @ self.projection).astype(np.float64)
        inner = placed @ self.centres.T
        lengths = (self.centres**2).sum(axis=1)
        scores = inner - lengths / 2 + self.log_priors
        squares = (placed**2).sum(axis=1)[:, None] - 2 * inner + lengths
        nearest = squares[:, self.knows].min(axis=1)
        return log_softmax(scores), np.sqrt(nearest.clip(min=0.0))


def fit_discriminant(sums: ClassSums, shift: Array, wanted: ReduceSpec) -> Discriminant:
    """The head of summed rows, on as many principal components as wanted.

    TrainingError where there are too few rows for one component.
    """
    pca = fit_pca(sums.moments, shift, at_most(wanted, sums.moments.count - 1))
    count, components = sums.moments.count, pca.components.astype(np.float64)
    known = sums.counts > 0
    means = sums.sums / np.maximum(sums.counts, 1)[:, None] + shift
    centres = np.where(known[:, None], (means - pca.mean) @ components.T, 0.0)
    total = _variances(sums.moments, pca, shift)
    between = (centres * (sums.counts / count)[:, None]).T @ centres
    freedom = max(count - int(known.sum()), 1)
    within = shrink((total - between) * count / freedom, freedom)
    # With L the Cholesky factor of the covariance, L^-1 makes of a class a unit sphere.
    whitening = solve_triangular(np.linalg.cholesky(within), np.eye(len(within)), lower=True).T
    with np.errstate(divide="ignore"):
        log_priors = np.log(sums.counts / count)
    projection = (components.T @ whitening).astype(np.float32)
    return Discriminant(pca.mean, projection, centres @ whitening, log_priors)


def shrink(covariance: Array, count: int) -> Array:
    """A covariance (k, k) of few rows, drawn towards a multiple of the identity: by the oracle
    approximating shrinkage of Chen, Wiesel, Eldar and Hero (2010), and positive definite.
    """
    width = len(covariance)
    trace, squares = float(np.trace(covariance)), float((covariance**2).sum())
    spread = squares - trace**2 / width
    wanted = (1 - 2 / width) * squares + trace**2
    share = wanted / ((count + 1 - 2 / width) * spread) if spread > 0 else 1.0
    share = min(max(share, 1e-6), 1.0)
    level = trace / width or 1.0  # 0 where the features never vary
    return np.asarray((1 - share) * covariance + share * level * np.eye(width))


def log_softmax(scores: Array) -> Array:
    """Logarithms of the probabilities (n, classes) of scores; exact where they are tiny."""
    least = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(least - np.log(np.exp(least).sum(axis=1, keepdims=True)))


def _variances(moments: Moments, pca: Pca, shift: Array) -> Array:
    """The covariance (k, k) of the rows on their principal components: that is diagonal."""
    offset = pca.mean - shift
    whole = moments.gramian.trace() / moments.count - float(offset @ offset)
    return np.diag(pca.explained_variance_ratio * whole)
