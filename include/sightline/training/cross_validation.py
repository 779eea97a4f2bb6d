"""Cross-validation over a head's grid: every fold is a training of its own, PCA and scaler included.

So what is validated was seen by nothing that is fitted. A PCA needs sums only: those of each fold are
made in one pass over the features, and a fold's PCA comes of all the others'.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sightline.batches import to_lists, to_matrix
from sightline.classifiers import Pca
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


def cross_validate(rows_for: Callable[[int], "DataFrame"], course: Course) -> list[float]:
    """Accuracy of each entry of the head's grid, the mean of the folds'; weighted where images are.

    `rows_for` gives the rows (image_id, label, fold, values) as they are while a fold is held out; it is
    asked for each fold once, in order.
    """
    grid = HEADS[course.train.head].grid(course.train)
    folds = range(course.train.folds)
    accuracies = [_validate(rows_for(fold), fold, grid, course) for fold in folds]
    return [float(mean) for mean in np.mean(accuracies, axis=0)]


def _validate(rows: "DataFrame", fold: int, grid: list[Parameters], course: Course) -> list[float]:
    """Accuracy of each entry of the grid on a fold, fitted on all others."""
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator

    vectors = in_order(rows, course).cache()
    prepared = fit_scaler(vectors.where(vectors["fold"] != fold), course)
    ready = prepared.transform(vectors)
    train, held_out = ready.where(ready["fold"] != fold), ready.where(ready["fold"] == fold)
    evaluator = MulticlassClassificationEvaluator(
        labelCol="class", metricName="accuracy", weightCol="weight"
    )

    def accuracy(entry: Parameters) -> float:
        model = make_estimator(course, entry, prepared).fit(train)
        return float(evaluator.evaluate(model.transform(held_out)))

    at_once = min(len(grid), rows.sparkSession.sparkContext.defaultParallelism)
    with ThreadPoolExecutor(at_once) as pool:
        accuracies = list(pool.map(accuracy, grid))
    vectors.unpersist()
    return accuracies


def fit_pcas(selection: Selection, shift: Array, wanted: ReduceSpec, folder: str) -> Iterator[Pca]:
    """The PCA for each fold in turn, fitted on the rows of all others (image_id, embedding, fold)."""
    summed = sum_features(selection, shift, folder)
    total = read_moments([url for urls in summed.values() for url in urls], len(shift))
    for fold in sorted(summed):
        others = without(total, read_moments(summed[fold], len(shift)))
        yield fit_pca(others, shift, at_most(wanted, others.count - 1))


def project_rows(selection: Selection, pca: Pca) -> "DataFrame":
    """The selected rows (image_id, label, fold, values), their components in place of the embedding."""
    from pyspark.sql.pandas.types import from_arrow_schema

    fitted = selection.rows.sparkSession.sparkContext.broadcast(pca)
    urls = selection.urls

    def project(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in read_selected(batches, urls):
            values = to_lists(fitted.value.project(to_matrix(batch["embedding"])))
            columns = [batch["image_id"], batch["label"], batch["fold"], values]
            yield pa.RecordBatch.from_arrays(
                [
                    column.cast(field.type)
                    for column, field in zip(columns, ROWS_OF_A_FOLD, strict=True)
                ],
                schema=ROWS_OF_A_FOLD,
            )

    return selection.rows.mapInArrow(project, from_arrow_schema(ROWS_OF_A_FOLD))
