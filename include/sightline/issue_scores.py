"""How dark, light, blurry, plain or oddly shaped an image is: 0 to 1, lower is worse, as cleanvision scores.

Each score is a function of a batch of the images table and of the sizes that are usual in the dataset. It
is NaN, which is below no threshold, where an image was measured before the columns came.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sightline.batches import Array
from sightline.quality_config import QualitySpec

COLUMNS = (
    "image_id", "height", "width", "n_channels", "mode", "brightness_p5", "brightness_p99", "entropy",
    "laplacian_variance", "histogram_deviation",
)  # fmt: skip
GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B")
# cleanvision counts the levels of three channels together, which is this much more than of one.
COLOUR_BITS = np.log2(3)


@dataclass(frozen=True)
class UsualSizes:
    """Quartiles of the square roots of the images' areas, in pixels."""

    lower: float
    upper: float


def _column(batch: pa.RecordBatch, name: str) -> Array:
    return np.asarray(batch[name].to_numpy(zero_copy_only=False), np.float64)


def _dark(batch: pa.RecordBatch) -> Array:
    return _column(batch, "brightness_p99")


def _light(batch: pa.RecordBatch) -> Array:
    return 1 - _column(batch, "brightness_p5")


def _blurry(batch: pa.RecordBatch) -> Array:
    """Sharpness; a picture of few grey levels, such as a thing on a plain ground, has few edges by right."""
    sharp = 1 - np.exp(-0.01 * np.sqrt(_column(batch, "laplacian_variance")))
    plain = 1 - np.exp(-0.01 * _column(batch, "histogram_deviation"))
    return np.asarray(np.minimum(1, sharp + np.where(plain <= 0.18, 0, plain)))


def _low_information(batch: pa.RecordBatch) -> Array:
    bits = _column(batch, "entropy") + np.where(_column(batch, "n_channels") > 2, COLOUR_BITS, 0)
    return np.minimum(1, 0.1 * bits)


def _odd_aspect_ratio(batch: pa.RecordBatch) -> Array:
    height, width = _column(batch, "height"), _column(batch, "width")
    return np.minimum(height, width) / np.maximum(height, width)


SCORES: dict[str, Callable[[pa.RecordBatch], Array]] = {
    "dark": _dark,
    "light": _light,
    "blurry": _blurry,
    "low_information": _low_information,
    "odd_aspect_ratio": _odd_aspect_ratio,
}


def find_issues(
    batch: pa.RecordBatch, quality: QualitySpec, usual: UsualSizes
) -> Iterator[tuple[str, Array, Array, float]]:
    """Name, rows of the batch, their scores and the threshold of each kind of issue that is looked for."""
    for name, score in SCORES.items():
        threshold = getattr(quality, name)
        if threshold is not None:
            yield _below(name, score(batch), threshold)
    if quality.odd_size is not None:
        scores, threshold = _odd_size(batch, usual, quality.odd_size)
        yield _below("odd_size", scores, threshold)
    if quality.greyscale:
        grey = np.isin(np.array(batch["mode"].to_pylist()), GREY_MODES)
        yield _below("greyscale", np.where(grey, 0.0, 1.0), 0.5)


def _odd_size(batch: pa.RecordBatch, usual: UsualSizes, factor: float) -> tuple[Array, float]:
    """1 in the middle of the usual sizes, half at their ends; where all are equal, less than 1 elsewhere."""
    side = np.sqrt(_column(batch, "height") * _column(batch, "width"))
    middle = (usual.lower + usual.upper) / 2
    span = (usual.upper - usual.lower) * (1 + 2 * factor)
    far = np.abs(side - middle) / (span or middle)
    return 1 - np.clip(far, 0, 1), 0.5 if span else 1.0


def _below(name: str, scores: Array, threshold: float) -> tuple[str, Array, Array, float]:
    rows = np.flatnonzero(scores < threshold)
    return name, rows, scores[rows], threshold
