"""The classifier on top of the features: StringIndexer, scaler and regularised logistic regression in
Spark ML, the penalty chosen by cross-validation on the train split.

What is kept is portable: scaler and head as plain arrays, which predict without a JVM.
"""

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline import models, spark, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, TrainSpec
from sightline.errors import TrainingError
from sightline.ledger import Record, TaskRun
from sightline.models import Classifier, Plan
from sightline.schemas import FEATURES, IMAGES, REDUCED, SPLITS

if TYPE_CHECKING:
    from pyspark.ml import PipelineModel
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)

NUMBERS_PER_PARTITION = 2_000_000  # 16 MB; below that a second core gains less than it costs


def train_classifier(
    session: "SparkSession",
    spec: DatasetSpec,
    catalog: Catalog,
    task: TaskRun,
    record: Record,
    plan: Plan,
) -> None:
    """Fit the head on the train split and keep it under the plan's version."""
    assert spec.train is not None  # else the DAG has no such task
    rows = _train_rows(session, spec, catalog, plan).cache()
    counts = _count_classes(spec, spec.train, rows)
    fitted, grid = fit_head(rows, spec.train)
    classifier = to_classifier(fitted)
    models.save_classifier(catalog, plan.version, classifier)
    penalty = float(fitted.stages[-1].getRegParam())  # type: ignore[attr-defined]
    best = next(entry for entry in grid if entry["penalty"] == penalty)
    total = sum(counts.values())
    models.write_model(
        catalog, _describe(spec, spec.train, catalog, plan, classifier.labels, total, best, grid)
    )
    record.read(*([catalog.reduced] if spec.reduce else [catalog.features]), catalog.splits)
    record.counts = {"rows": total, **best}


def fit_head(rows: "DataFrame", train: TrainSpec) -> tuple["PipelineModel", list[dict[str, float]]]:
    """Fit on rows (image_id, label, values array<float>), the same whatever the order they come in.

    Returns the fitted pipeline and the accuracy of each penalty of the grid.
    """
    from pyspark.ml import Pipeline, PipelineModel
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator
    from pyspark.ml.feature import StandardScaler, StringIndexer
    from pyspark.ml.functions import array_to_vector
    from pyspark.ml.tuning import CrossValidator, ParamGridBuilder

    indexer = StringIndexer(inputCol="label", outputCol="class", stringOrderType="alphabetAsc")
    centrer = StandardScaler(inputCol="vector", outputCol="centred", withMean=True, withStd=False)
    folded = _in_order(_with_folds(rows, train))
    vectors = folded.withColumn("vector", array_to_vector(folded["values"]))
    centred = Pipeline(stages=[indexer, centrer]).fit(vectors)
    fitted_centrer: Any = centred.stages[1]
    scaler = _scaler(fitted_centrer.std.toArray(), train)
    prepared = PipelineModel([*centred.stages, scaler])
    ready = prepared.transform(vectors).select("class", "scaled", "fold").cache()
    head = LogisticRegression(
        featuresCol="scaled",
        labelCol="class",
        family="multinomial",
        standardization=False,  # the scaler has done it, and its numbers are kept
        maxIter=train.max_iterations,
    )
    validator = CrossValidator(
        estimator=head,
        estimatorParamMaps=ParamGridBuilder().addGrid(head.regParam, list(train.penalties)).build(),
        evaluator=MulticlassClassificationEvaluator(labelCol="class", metricName="accuracy"),
        numFolds=train.folds,
        foldCol="fold",
        parallelism=min(len(train.penalties), rows.sparkSession.sparkContext.defaultParallelism),
    )
    chosen = validator.fit(ready)
    grid = [
        {"penalty": penalty, "accuracy": round(float(accuracy), 4)}
        for penalty, accuracy in zip(train.penalties, chosen.avgMetrics, strict=True)
    ]
    return PipelineModel([*prepared.stages, chosen.bestModel]), grid


def _scaler(spread: "np.ndarray[Any, Any]", train: TrainSpec) -> Any:
    """Multiplies the centred values so that their mean variance, or each variance, is 1."""
    from pyspark.ml.feature import ElementwiseProduct
    from pyspark.ml.linalg import Vectors

    together = np.full(len(spread), np.sqrt((spread**2).mean()))
    divisor = together if train.scale == "together" else spread
    factors = 1.0 / np.where(divisor > 0, divisor, 1.0)
    return ElementwiseProduct(
        scalingVec=Vectors.dense(factors), inputCol="centred", outputCol="scaled"
    )


def to_classifier(fitted: "PipelineModel") -> Classifier:
    """The fitted pipeline as plain arrays."""
    stages: list[Any] = fitted.stages
    indexer, centrer, scaler, head = stages
    return Classifier(
        labels=list(indexer.labels),
        mean=centrer.mean.toArray(),
        scale=1.0 / scaler.getScalingVec().toArray(),
        coefficients=head.coefficientMatrix.toArray(),
        intercepts=head.interceptVector.toArray(),
    )


def _train_rows(
    session: "SparkSession", spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> "DataFrame":
    """The train split: image_id, label, and values as array<float>."""
    if spec.reduce is None:
        files = tables.file_urls(catalog.features, plan.features_version, plan.backbone_id)
        values = spark.read_files(session, files, FEATURES).withColumnRenamed("embedding", "values")
    else:
        files = tables.file_urls(catalog.reduced, partition=plan.version)
        values = spark.read_files(session, files, REDUCED).withColumnRenamed("components", "values")
    splits = spark.read_files(session, tables.file_urls(catalog.splits), SPLITS)
    held = tables.file_urls(catalog.images, plan.images_version)
    labels = spark.read_files(session, held, IMAGES).select("image_id", "label")
    train = splits.where("split = 'train'").select("image_id")
    labelled = train.join(labels.where("label IS NOT NULL"), "image_id")
    return values.join(labelled, "image_id").select("image_id", "label", "values")


def _count_classes(spec: DatasetSpec, train: TrainSpec, rows: "DataFrame") -> dict[str, int]:
    """Train images of each class; TrainingError where they are too few for a classifier."""
    counts = {row["label"]: row["count"] for row in rows.groupBy("label").count().collect()}
    if len(counts) < 2:
        raise TrainingError(
            f"Dataset {spec.name} has {len(counts)} class(es) in its train split "
            f"({', '.join(counts)}); a classifier needs two, so add images of another class."
        )
    if max(counts.values()) < train.folds:
        raise TrainingError(
            f"Dataset {spec.name}: train.folds is {train.folds}, but no class has more than "
            f"{max(counts.values())} train images; add images or lower it."
        )
    return counts


def _with_folds(rows: "DataFrame", train: TrainSpec) -> "DataFrame":
    """Deal the images of each class out to the folds, in an order that the seed alone shuffles."""
    from pyspark.sql import Window, functions

    shuffled = functions.xxhash64("image_id", functions.lit(train.seed))
    place = functions.row_number().over(Window.partitionBy("label").orderBy(shuffled, "image_id"))
    return rows.withColumn("fold", place % train.folds)


def _in_order(rows: "DataFrame") -> "DataFrame":
    """The same rows in the same partitions every time, so that sums, and models, come out the same.

    Every iteration of the fit is a Spark job: few partitions, or their overhead is all it does.
    """
    from pyspark.sql import functions

    numbers = rows.select(functions.sum(functions.size("values"))).first()
    most = rows.sparkSession.sparkContext.defaultParallelism
    parts = min(most, 1 + (numbers[0] if numbers else 0) // NUMBERS_PER_PARTITION)
    return rows.repartition(parts, "image_id").sortWithinPartitions("image_id")


def _describe(
    spec: DatasetSpec,
    train: TrainSpec,
    catalog: Catalog,
    plan: Plan,
    labels: list[str],
    rows: int,
    best: dict[str, float],
    grid: list[dict[str, float]],
) -> dict[str, Any]:
    pca = models.load_pca(catalog, plan.version) if spec.reduce else None
    ratios = (
        [] if pca is None else [round(float(ratio), 8) for ratio in pca.explained_variance_ratio]
    )
    reduction = pca and {
        "components": len(pca.components),
        "dim": len(pca.mean),
        "explained_variance_ratio": ratios,
        "total_explained": round(sum(ratios), 6),
    }
    return {
        "version": plan.version,
        "kind": models.HEAD,
        "fingerprint": plan.fingerprint,
        "dataset": spec.name,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "backbone_id": plan.backbone_id,
        "seed": train.seed,
        "spec": spec.model_dump(mode="json"),
        "tables": {
            "images": plan.images_version,
            "features": plan.features_version,
            "splits": tables.current_version(catalog.splits),
        },
        "labels": labels,
        "reduction": reduction,
        "head": {"kind": train.head, "penalty": best["penalty"], "grid": grid},
        "rows": {"train": rows},
        "metrics": {},
    }
