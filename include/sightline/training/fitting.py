"""One fit, on all train rows or on those of a fold: StringIndexer, scaler and head as a Spark pipeline."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.classifiers import Classifier, Pca, Scaler
from sightline.config import TrainSpec
from sightline.training.heads import HEADS, Parameters, Shape

if TYPE_CHECKING:
    from pyspark.ml import PipelineModel
    from pyspark.sql import DataFrame

NUMBERS_PER_PARTITION = 2_000_000  # 16 MB; below that a second core gains less than it costs


@dataclass(frozen=True)
class Course:
    """What all fits of a training share."""

    train: TrainSpec
    labels: list[str]  # in the classifier's order
    weights: dict[str, float]  # of an image, by its label; empty where all weigh the same
    parts: int  # Spark partitions


def plan_course(train: TrainSpec, counts: dict[str, int], rows: "DataFrame") -> Course:
    """For train images of these classes, in rows (values array<float>, ...).

    Every iteration of a fit is a Spark job: few partitions, or their overhead is all it does.
    """
    from pyspark.sql import functions

    total, labels = sum(counts.values()), sorted(counts)
    balanced = {label: total / (len(counts) * counts[label]) for label in labels}
    numbers = rows.select(functions.sum(functions.size("values"))).first()
    most = rows.sparkSession.sparkContext.defaultParallelism
    parts = min(most, 1 + (numbers[0] if numbers else 0) // NUMBERS_PER_PARTITION)
    return Course(train, labels, balanced if train.class_weights == "balanced" else {}, parts)


def fit_pipeline(rows: "DataFrame", course: Course, parameters: Parameters) -> "PipelineModel":
    """Fit on rows (image_id, label, values array<float>), the same whatever the order they come in."""
    from pyspark.ml import PipelineModel

    vectors = in_order(rows, course)
    prepared = fit_scaler(vectors, course)
    ready = prepared.transform(vectors).cache()
    model = make_estimator(course, parameters, prepared).fit(ready)
    ready.unpersist()
    return PipelineModel([*prepared.stages, model])


def in_order(rows: "DataFrame", course: Course) -> "DataFrame":
    """Rows with `vector` and `weight`, in the same partitions and order every time, so that sums, and
    models, come out the same.
    """
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions

    weight = functions.lit(1.0)
    for label, value in course.weights.items():
        weight = functions.when(functions.col("label") == label, value).otherwise(weight)
    ordered = rows.repartition(course.parts, "image_id").sortWithinPartitions("image_id")
    vectors = ordered.withColumn("vector", array_to_vector(ordered["values"])).drop("values")
    return vectors.withColumn("weight", weight)


def fit_scaler(vectors: "DataFrame", course: Course) -> "PipelineModel":
    """The stages before the head: label to `class`, vector to `scaled`."""
    from pyspark.ml import PipelineModel
    from pyspark.ml.feature import ElementwiseProduct, StandardScaler, StringIndexerModel
    from pyspark.ml.linalg import Vectors

    indexer = StringIndexerModel.from_labels(course.labels, inputCol="label", outputCol="class")
    centrer = StandardScaler(inputCol="vector", outputCol="centred", withMean=True, withStd=False)
    centring: Any = centrer.fit(vectors)
    factors = Vectors.dense(_factors(centring.std.toArray(), course.train))
    scaler = ElementwiseProduct(scalingVec=factors, inputCol="centred", outputCol="scaled")
    return PipelineModel([indexer, centring, scaler])


def make_estimator(course: Course, parameters: Parameters, prepared: "PipelineModel") -> Any:
    """The head of an entry of the grid, for what the prepared stages give."""
    stages: list[Any] = prepared.stages
    shape = Shape(width=stages[1].mean.size, classes=len(course.labels))
    estimator = HEADS[course.train.head].estimator(course.train, parameters, shape)
    estimator.setFeaturesCol("scaled").setLabelCol("class")
    return estimator.setWeightCol("weight") if course.weights else estimator


def to_classifier(fitted: "PipelineModel", kind: str, pca: Pca | None, folder: str) -> Classifier:
    """The fitted pipeline, and the PCA before it, as plain arrays; the folder is for Spark's own files."""
    stages: list[Any] = fitted.stages
    indexer, centrer, scaler, head = stages
    return Classifier(
        labels=list(indexer.labels),
        pca=pca,
        scaler=Scaler(centrer.mean.toArray(), scaler.getScalingVec().toArray()),
        head=HEADS[kind].to_portable(head, folder),
    )


def _factors(spread: "np.ndarray[Any, Any]", train: TrainSpec) -> "np.ndarray[Any, Any]":
    """What brings the mean variance, or each variance, to 1."""
    together = np.full(len(spread), np.sqrt((spread**2).mean()))
    divisor = together if train.scale == "together" else spread
    return np.asarray(1.0 / np.where(divisor > 0, divisor, 1.0))
