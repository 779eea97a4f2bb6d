"""What heads say of images that they have not seen: linear discriminants, fitted from sums by fold."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sightline import tables
from sightline.batches import to_lists, to_matrix
from sightline.confident_learning import Confidence, self_confidence
from sightline.config import ReduceSpec
from sightline.discriminant import ClassSums, Discriminant, fit_discriminant
from sightline.embeddings import first_embedding
from sightline.label_audit.audited import TRAIN, Audit
from sightline.tables import Table

Array = np.ndarray[Any, Any]

WHOLE = -1  # in place of a fold: the head of the whole train split
UNREDUCED = ReduceSpec(explained_variance=0.95)  # where the dataset file reduces nothing

OPINIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("class", pa.int32()),  # its label's place among the classes
        ("score", pa.float64()),
        ("distance", pa.float64()),  # to the nearest class
        ("probabilities", pa.list_(pa.float64())),
    ]
)


def fit_judges(audit: Audit, labels: list[str]) -> dict[int, Discriminant]:
    """A head for each fold, fitted without it, and one of the whole train split; one pass."""
    catalog, plan = audit.catalog, audit.plan
    files = tables.file_urls(catalog.features, plan.features_version, plan.backbone_id)
    shift = first_embedding(files)
    wanted = audit.spec.reduce or UNREDUCED
    sums = _sum_by_fold(audit, labels, shift)
    total = ClassSums.empty(len(labels), len(shift))
    for part in sums.values():
        total = total.plus(part)
    judges = {WHOLE: fit_discriminant(total, shift, wanted)}
    for fold, part in sums.items():
        judges[fold] = fit_discriminant(total.minus(part), shift, wanted)
    return judges


def _sum_by_fold(audit: Audit, labels: list[str], shift: Array) -> dict[int, ClassSums]:
    sums: dict[int, ClassSums] = {}
    for batch in audit.batches():
        train = batch.filter(pc.equal(batch["split"], TRAIN))
        rows, folds = to_matrix(train["embedding"]), np.asarray(train["fold"])
        classes = _places(train["label"], labels)
        for fold in np.unique(folds).tolist():
            is_ours = folds == fold
            held = sums.get(fold) or ClassSums.empty(len(labels), len(shift))
            sums[fold] = held.with_rows(rows[is_ours], classes[is_ours], shift)
    return sums


class Judging:
    """Lets heads judge all images, batch by batch, and sums what is needed to judge the judgements."""

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels
        self.confidence = Confidence.empty(len(labels))  # of the train images
        self.distances: list[Array] = []  # of the train images
        self._judged = self._right = 0

    @property
    def counts(self) -> dict[str, Any]:
        """Images judged, those of the train split, and how many of these the heads name as labelled."""
        train = sum(map(len, self.distances))
        accuracy = round(self._right / train, 4) if train else None
        return {"judged": self._judged, "train_images": train, "accuracy": accuracy}

    def write(self, audit: Audit, judges: dict[int, Discriminant], folder: str) -> list[str]:
        """Write OPINIONS of all images into a folder; an image of a class that its head has not seen gets
        none.
        """
        return tables.write_batches(Table("opinions", folder, OPINIONS), self._all(audit, judges))

    def _all(self, audit: Audit, judges: dict[int, Discriminant]) -> Iterator[pa.RecordBatch]:
        for batch in audit.batches():
            is_train = _mask(pc.equal(batch["split"], TRAIN))
            folds = np.where(is_train, np.asarray(batch["fold"]), WHOLE)
            for fold in np.unique(folds).tolist():
                yield self._judge(batch.filter(pa.array(folds == fold)), judges[fold])

    def _judge(self, batch: pa.RecordBatch, judge: Discriminant) -> pa.RecordBatch:
        classes = _places(batch["label"], self.labels)
        is_known = (classes >= 0) & judge.knows[classes]
        batch, classes = batch.filter(pa.array(is_known)), classes[is_known]
        logarithms, distances = judge.judge(to_matrix(batch["embedding"]))
        probabilities = np.exp(logarithms)
        is_train = _mask(pc.equal(batch["split"], TRAIN))
        self._count(probabilities[is_train], classes[is_train], distances[is_train])
        self._judged += len(classes)
        columns = [
            batch["image_id"],
            batch["split"],
            pa.array(classes, pa.int32()),
            pa.array(self_confidence(probabilities, classes)),
            pa.array(distances),
            to_lists(probabilities),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=OPINIONS)

    def _count(self, probabilities: Array, classes: Array, distances: Array) -> None:
        self.confidence = self.confidence.with_rows(probabilities, classes)
        self.distances.append(distances)
        self._right += int((probabilities.argmax(axis=1) == classes).sum())


def _places(column: pa.Array, labels: list[str]) -> Array:
    """(n,): the place of each label among the classes, -1 of one that is none of them."""
    return np.asarray(pc.index_in(column, pa.array(labels, pa.string())).fill_null(-1))


def _mask(column: pa.BooleanArray) -> Array:
    return np.asarray(column.to_numpy(zero_copy_only=False))
