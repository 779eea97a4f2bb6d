"""An exported model held against our own answers on the test images, as the tables keep them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from sightline import backbones, images, lookup, models, tables
from sightline.backbones.worker import parts_of, read_part
from sightline.catalog import Catalog
from sightline.config import BackboneSpec
from sightline.errors import TrainingError
from sightline.exporting.formats import Answer
from sightline.fine_tuning.tuned_models import PRECISION
from sightline.images import Pixels

Array = np.ndarray[Any, Any]

# Of a probability. fp32: what a level of 255 does that is rounded otherwise; bf16: what its eight bits do.
TOLERANCE = {"fp32": 0.001, "bf16": 0.05}
TREES = 2  # of a forest, that may go the other way at a threshold that is just met


@dataclass(frozen=True)
class Comparison:
    """How many test images were compared, and how far the answers are apart at most."""

    images: int
    same_class: int
    differing: int  # images beyond the tolerance
    largest_difference: float  # of a probability


def compare(
    catalog: Catalog, model: dict[str, Any], answer: Answer, most_images: int
) -> Comparison:
    """Ask about test images that the model has answered.

    TrainingError where it has answered none.
    """
    expected = _expected(catalog, model, most_images)
    if not expected:
        raise TrainingError(
            f"Model {model['version']} of {catalog.dataset} has no answers on test images to compare "
            "with; clear task evaluate of its run."
        )
    allowed, seen, same, differing, largest = tolerance_of(model), 0, 0, 0, 0.0
    for image_id, pixels in _pictures(catalog, model, frozenset(expected)):
        ours, theirs = expected[image_id], answer(pixels)
        difference = float(np.abs(ours - theirs).max())
        agrees = theirs.argmax() == ours.argmax()
        near = ours.max() - ours[theirs.argmax()] <= allowed  # a tie, within the tolerance
        seen, same = seen + 1, same + int(agrees)
        differing += not (difference <= allowed and (agrees or near))  # NaN differs, too
        largest = max(largest, difference)
    return Comparison(seen, same, differing, largest)


def tolerance_of(model: dict[str, Any]) -> float:
    """How far a probability may be from ours. A forest's steps from tree to tree."""
    allowed = TOLERANCE[precision_of(model)]
    if (model["head"] or {}).get("kind") != "random_forest":
        return allowed
    return max(allowed, TREES / int(model["head"]["parameters"]["trees"]))


def precision_of(model: dict[str, Any]) -> str:
    """The precision that our own answers were made in."""
    if model["kind"] == models.FINE_TUNED:
        return PRECISION
    return str(model["backbone_id"]).rpartition("-")[2]


def backbone_of(model: dict[str, Any]) -> BackboneSpec:
    """The network that the model is made of."""
    tuned = model["kind"] == models.FINE_TUNED
    return BackboneSpec.model_validate(
        model["fine_tuning"]["backbone"] if tuned else model["spec"]["backbone"]
    )


def _expected(catalog: Catalog, model: dict[str, Any], most: int) -> dict[str, Array]:
    """Our probabilities by image_id, those without test-time augmentation."""
    tuned = model["kind"] == models.FINE_TUNED
    table = catalog.scores if tuned else catalog.predictions
    batches = tables.read_batches(table, ["image_id", "probabilities"], partition=model["version"])
    rows = (row for batch in batches for row in batch.to_pylist())
    return {
        row["image_id"]: np.asarray(row["probabilities"], dtype=np.float32)
        for row in islice(rows, most)
    }


def _pictures(
    catalog: Catalog, model: dict[str, Any], wanted: frozenset[str]
) -> Iterator[tuple[str, Pixels]]:
    """The wanted images, decoded as we do it."""
    spec = backbone_of(model)
    scaled = spec.decode == "scaled" and model["kind"] == models.HEAD
    least_side = backbones.preprocessing_of(spec).least_side if scaled else None
    for url in tables.file_urls(catalog.images):
        ids = lookup.read_file(url, ["image_id"])["image_id"].to_pylist()
        mine = wanted.intersection(ids)
        for part in parts_of(url, mine) if mine else ():
            for batch in read_part(part):
                for row in batch.to_pylist():
                    pixels = images.decode_pixels(row["content"], row["rotation"], least_side)
                    yield row["image_id"], np.ascontiguousarray(pixels)
