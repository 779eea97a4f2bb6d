"""Principal components from sums: the parts of a covariance are summed anywhere and added up.

In memory is one dim x dim matrix a summing process and two on the driver, whatever the number of rows:
34 MB each at 2,048 wide, 134 MB at 4,096.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh
from scipy.linalg.blas import dsyrk

from sightline.classifiers import Pca
from sightline.config import ReduceSpec
from sightline.errors import TrainingError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Moments:
    """What the covariance of some rows is made of, relative to a fixed shift for accuracy."""

    count: int
    sums: Array  # (dim,) float64
    gramian: Array  # (dim, dim) float64 in Fortran's order; only its upper triangle counts

    @classmethod
    def empty(cls, dim: int) -> "Moments":
        """Those of no rows."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim), order="F"))


def sum_moments(batches: Iterable[Array], shift: Array) -> Moments:
    """Moments of batches of rows (n, dim), one batch in memory at a time."""
    total = Moments.empty(len(shift))
    for batch in batches:
        total = add_rows(total, batch, shift)
    return total


def add_rows(total: Moments, rows: Array, shift: Array) -> Moments:
    """Moments with rows (n, dim) added, to the Gramian in place."""
    centred = rows.astype(np.float64) - shift
    # BLAS computes half of the symmetric product, and adds it in place.
    dsyrk(1.0, centred.T, beta=1.0, c=total.gramian, overwrite_c=True)
    return Moments(total.count + len(rows), total.sums + centred.sum(axis=0), total.gramian)


def add_moments(total: Moments, part: Moments) -> Moments:
    """The sum of both; adds to the first one's Gramian in place."""
    np.add(total.gramian, part.gramian, out=total.gramian)
    return Moments(total.count + part.count, total.sums + part.sums, total.gramian)


def without(total: Moments, part: Moments) -> Moments:
    """The moments of the rows that are not in the part."""
    return Moments(total.count - part.count, total.sums - part.sums, total.gramian - part.gramian)


def fit_pca(moments: Moments, shift: Array, wanted: ReduceSpec) -> Pca:
    """Principal components from summed moments; each component's largest entry is positive.

    TrainingError where more components are wanted than rows or columns allow.
    """
    dim = len(moments.sums)
    most = min(moments.count - 1, dim)
    if most < 1:
        raise TrainingError(
            f"PCA needs two train images, but there are {moments.count}; add images."
        )
    if (wanted.components or 1) > most:
        raise TrainingError(
            f"reduce.components is {wanted.components}, but {moments.count} train images of {dim} "
            f"features allow {most} at most; lower it or use reduce.explained_variance."
        )
    mean = moments.sums / moments.count
    covariance = (moments.gramian - np.outer(moments.sums, mean)) / (moments.count - 1)
    total = float(covariance.trace()) or 1.0  # 0 where the features never vary
    searched = wanted.components or most
    values, vectors = eigh(
        covariance, lower=False, overwrite_a=True, subset_by_index=(dim - searched, dim - 1)
    )
    ratios = values[::-1].clip(min=0.0) / total
    kept = _components_kept(ratios, wanted)
    components = vectors[:, ::-1].T[:kept]
    signs = np.sign(components[np.arange(kept), np.abs(components).argmax(axis=1)])
    return Pca(
        mean=mean + shift,
        components=(components * signs[:, None]).astype(np.float32),
        explained_variance_ratio=ratios[:kept],
    )


def at_most(wanted: ReduceSpec, components: int) -> ReduceSpec:
    """Where all train images are enough for what is wanted, those without a fold may be too few."""
    if wanted.components is None or wanted.components <= components:
        return wanted
    return ReduceSpec(components=max(components, 1))


def _components_kept(ratios: Array, wanted: ReduceSpec) -> int:
    if wanted.components is not None:
        return wanted.components
    assert wanted.explained_variance is not None
    if not ratios.any():
        return 1
    enough = int(np.searchsorted(np.cumsum(ratios), wanted.explained_variance)) + 1
    return min(enough, len(ratios))
