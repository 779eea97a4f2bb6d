"""Cross-validation over a head's grid: every fold is a training of its own, PCA and scaler included.

So what is validated was seen by nothing that is fitted. A PCA needs sums only: those of each fold are
made in one pass over the features, and a fold's PCA comes of all the others'.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sightline import storage
from sightline.batches import to_lists, to_matrix
from sightline.classifiers import Pca, read_pca, write_pca
from sightline.config import ReduceSpec
from sightline.embeddings import Selection, read_moments, read_selected, sum_features
from sightline.principal_components import at_most, fit_pca, without
from sightline.training.fitting import Course, fit_scaler, in_order, make_estimator
from sightline.training.heads import HEADS, Parameters

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)
Array = np.ndarray[Any, Any]
ROWS_OF_A_FOLD = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("label", pa.string()),
        pa.field("fold", pa.int32()),
        pa.field("values", pa.list_(pa.float32())),
    ]
)
LEAST_PROBABILITY = 1e-15  # a class that a forest never voted for must not make a loss infinite


@dataclass(frozen=True)
class Score:
    """How an entry of a grid does on images that it has not seen; weighted where images are."""

    accuracy: float
    log_loss: float | None  # of the right class, in nats; None for a head without probabilities


def cross_validate(rows_for: Callable[[int], "DataFrame"], course: Course) -> list[Score]:
    """The score of each entry of the head's grid, the mean of the folds'.

    `rows_for` gives the rows (image_id, label, fold, values) as they are while a fold is held out; it is
    asked for each fold once, in order.
    """
    grid = HEADS[course.train.head].grid(course.train)
    folds = [_validate(rows_for(fold), fold, grid, course) for fold in range(course.train.folds)]
    return [_mean(scores) for scores in zip(*folds, strict=True)]


def choose(scores: list[Score], images: int) -> int:
    """Which entry of a grid is fitted: of those whose accuracy so many images cannot tell from the best
    one's (within a standard error), the one with the lowest log loss; without it the most accurate.
    """
    best = max(scores, key=lambda score: score.accuracy).accuracy
    enough = best - sqrt(best * (1 - best) / images)

    def merit(number: int) -> tuple[bool, float, float]:
        score = scores[number]
        is_close = score.accuracy >= enough
        return is_close, -score.log_loss if is_close and score.log_loss else 0.0, score.accuracy

    return max(range(len(scores)), key=merit)


def _mean(scores: Iterable[Score]) -> Score:
    accuracies, losses = zip(*((score.accuracy, score.log_loss) for score in scores), strict=True)
    return Score(float(np.mean(accuracies)), None if None in losses else float(np.mean(losses)))


def _validate(rows: "DataFrame", fold: int, grid: list[Parameters], course: Course) -> list[Score]:
    """The score of each entry of the grid on a fold, fitted on all others."""
    vectors = in_order(rows, course).cache()
    prepared = fit_scaler(vectors.where(vectors["fold"] != fold), course)
    ready = prepared.transform(vectors)
    train, held_out = ready.where(ready["fold"] != fold), ready.where(ready["fold"] == fold)

    def score(entry: Parameters) -> Score:
        model = make_estimator(course, entry, prepared).fit(train)
        return _score(model.transform(held_out))

    at_once = min(len(grid), rows.sparkSession.sparkContext.defaultParallelism)
    with ThreadPoolExecutor(at_once) as pool:
        scores = list(pool.map(score, grid))
    vectors.unpersist()
    return scores


def _score(predicted: "DataFrame") -> Score:
    """Of rows (class, prediction, weight, and probability where the head has some), in one pass."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions

    is_right, weight = functions.expr("cast(prediction = class AS double)"), functions.col("weight")
    wanted = [functions.sum(is_right * weight) / functions.sum(weight)]
    if "probability" in predicted.columns:
        chances = vector_to_array(functions.col("probability"))
        chance = functions.get(chances, functions.col("class").cast("int"))
        loss = -functions.log(functions.greatest(chance, functions.lit(LEAST_PROBABILITY)))
        wanted.append(functions.sum(loss * weight) / functions.sum(weight))
    (row,) = predicted.agg(*wanted).collect()
    return Score(row[0], row[1] if len(row) > 1 else None)


def fit_pcas(selection: Selection, shift: Array, wanted: ReduceSpec, folder: str) -> Iterator[Pca]:
    """The PCA for each fold in turn, fitted on the rows of all others (image_id, embedding, fold)."""
    summed = sum_features(selection, shift, folder)
    total = read_moments([url for urls in summed.values() for url in urls], len(shift))
    for fold in sorted(summed):
        others = without(total, read_moments(summed[fold], len(shift)))
        yield fit_pca(others, shift, at_most(wanted, others.count - 1))


def project_rows(selection: Selection, pca: Pca, folder: str) -> "DataFrame":
    """The selected rows (image_id, label, fold, values), their components in place of the embedding. The
    workers read the PCA from a file in the folder."""
    from pyspark.sql.pandas.types import from_arrow_schema

    kept = write_pca(storage.join(folder, f"pca-{uuid.uuid4().hex}.safetensors"), pca)
    urls = selection.urls

    def project(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in read_selected(batches, urls):
            values = to_lists(read_pca(kept).project(to_matrix(batch["embedding"])))
            columns = [batch["image_id"], batch["label"], batch["fold"], values]
            yield pa.RecordBatch.from_arrays(
                [
                    column.cast(field.type)
                    for column, field in zip(columns, ROWS_OF_A_FOLD, strict=True)
                ],
                schema=ROWS_OF_A_FOLD,
            )

    return selection.rows.mapInArrow(project, from_arrow_schema(ROWS_OF_A_FOLD))
