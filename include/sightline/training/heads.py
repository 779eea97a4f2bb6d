"""The heads: how each is fitted by Spark ML, over which grid, and what is kept of it as plain arrays.

A new head is an entry here, a class in `classifiers.PORTABLE_HEADS` that predicts as Spark does, and its
name and keys in `config`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa

from sightline import classifiers, spark
from sightline.batches import to_matrix
from sightline.classifiers import PortableHead
from sightline.config import TrainSpec
from sightline.errors import TrainingError

Array = np.ndarray[Any, Any]
Parameters = dict[str, Any]  # an entry of the grid, as model.json shows it
MOST_WEIGHTS = 2_000_000  # 16 MB; L-BFGS holds two dozen copies of them on the driver


@dataclass(frozen=True)
class Shape:
    """What a head takes in and gives."""

    width: int
    classes: int


@dataclass(frozen=True)
class Head:
    """A kind of classifier."""

    grid: Callable[[TrainSpec], list[Parameters]]
    estimator: Callable[[TrainSpec, Parameters, Shape], Any]
    # of the fitted model, by way of a folder for what Spark only hands out as files
    to_portable: Callable[[Any, str], PortableHead]


def _logistic_grid(train: TrainSpec) -> list[Parameters]:
    if not any(train.l1_ratios):
        return _penalty_grid(train)
    return [
        {"penalty": penalty, "l1_ratio": ratio}
        for penalty, ratio in product(train.penalties, train.l1_ratios)
    ]


def _penalty_grid(train: TrainSpec) -> list[Parameters]:
    return [{"penalty": penalty} for penalty in train.penalties]


def _logistic_regression(train: TrainSpec, parameters: Parameters, shape: Shape) -> Any:
    from pyspark.ml.classification import LogisticRegression

    return LogisticRegression(
        family="multinomial",
        regParam=parameters["penalty"],
        elasticNetParam=parameters.get("l1_ratio", 0.0),
        standardization=False,  # the scaler has done it, and its numbers are kept
        maxIter=train.max_iterations,
    )


def _portable_logistic(model: Any, folder: str) -> PortableHead:
    return classifiers.LogisticRegression(
        model.coefficientMatrix.toArray(), model.interceptVector.toArray()
    )


def _linear_svm(train: TrainSpec, parameters: Parameters, shape: Shape) -> Any:
    from pyspark.ml.classification import LinearSVC, OneVsRest

    machine = LinearSVC(
        regParam=parameters["penalty"], standardization=False, maxIter=train.max_iterations
    )
    return OneVsRest(classifier=machine)


def _portable_svm(model: Any, folder: str) -> PortableHead:
    return classifiers.LinearSvm(
        np.array([machine.coefficients.toArray() for machine in model.models]),
        np.array([machine.intercept for machine in model.models]),
    )


def _forest_grid(train: TrainSpec) -> list[Parameters]:
    return [{"trees": train.trees, "depth": depth} for depth in train.depths]


def _random_forest(train: TrainSpec, parameters: Parameters, shape: Shape) -> Any:
    from pyspark.ml.classification import RandomForestClassifier

    return RandomForestClassifier(
        numTrees=parameters["trees"], maxDepth=parameters["depth"], seed=train.seed
    )


def _portable_forest(model: Any, folder: str) -> PortableHead:
    """Of the nodes as Spark saves them: asking the JVM for each would be a million calls."""
    from pyspark.sql import SparkSession

    model.save(spark.spark_url(folder))
    session = SparkSession.active()
    nodes = session.read.parquet(spark.spark_url(f"{folder}/data")).select("treeID", "nodeData.*")
    rows = nodes.orderBy("treeID", "id").toArrow()
    trees, ids = np.asarray(rows["treeID"]), np.asarray(rows["id"])
    roots = np.flatnonzero(ids == 0)
    own, first = np.arange(len(ids)), roots[trees]  # ids count from 0 in each tree
    left, right = np.asarray(rows["leftChild"]), np.asarray(rows["rightChild"])
    is_leaf = left < 0
    splits = rows["split"].to_pylist()
    thresholds = [(split["leftCategoriesOrThreshold"] or [0.0])[0] for split in splits]
    features = np.array([split["featureIndex"] for split in splits])
    stats = rows["impurityStats"].combine_chunks().filter(pa.array(is_leaf))
    counts = to_matrix(stats)
    return classifiers.RandomForest(
        roots=roots.astype(np.int32),
        features=np.where(is_leaf, 0, features).astype(np.int32),
        thresholds=np.array(thresholds),
        left=np.where(is_leaf, own, first + left).astype(np.int32),
        right=np.where(is_leaf, own, first + right).astype(np.int32),
        leaves=np.where(is_leaf, np.cumsum(is_leaf) - 1, 0).astype(np.int32),
        votes=counts / counts.sum(axis=1, keepdims=True),
    )


def _perceptron_grid(train: TrainSpec) -> list[Parameters]:
    return [{"hidden_layers": list(widths)} for widths in train.hidden_layers]


def _perceptron(train: TrainSpec, parameters: Parameters, shape: Shape) -> Any:
    """TrainingError where the driver could not hold what the optimiser keeps."""
    from pyspark.ml.classification import MultilayerPerceptronClassifier

    layers = [shape.width, *parameters["hidden_layers"], shape.classes]
    weights = sum((width + 1) * out for width, out in zip(layers[:-1], layers[1:], strict=True))
    if weights > MOST_WEIGHTS:
        raise TrainingError(
            f"train.hidden_layers {parameters['hidden_layers']} between {shape.width:,} features and "
            f"{shape.classes:,} classes have {weights:,} weights, but {MOST_WEIGHTS:,} are the most; "
            "set narrower layers or fewer reduce.components."
        )
    return MultilayerPerceptronClassifier(
        layers=layers, maxIter=train.max_iterations, seed=train.seed
    )


def _portable_perceptron(model: Any, folder: str) -> PortableHead:
    layers = np.array(model.getLayers(), dtype=np.int32)
    return classifiers.MultilayerPerceptron(layers, model.weights.toArray())


HEADS: dict[str, Head] = {
    "logistic_regression": Head(_logistic_grid, _logistic_regression, _portable_logistic),
    "linear_svm": Head(_penalty_grid, _linear_svm, _portable_svm),
    "random_forest": Head(_forest_grid, _random_forest, _portable_forest),
    "multilayer_perceptron": Head(_perceptron_grid, _perceptron, _portable_perceptron),
}
