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


def train_classifier(
    session: "SparkSession",
    spec: DatasetSpec,
    catalog: Catalog,
    task: TaskRun,
    record: Record,
    plan: Plan,
) -> None:
    """Fit the head on the train split and keep it under the plan's version."""
    rows = _train_rows(session, spec, catalog, plan).cache()
    count = rows.count()
    _refuse_few_classes(spec, rows)
    fitted, grid = fit_head(rows, spec.train)
    classifier = to_classifier(fitted)
    models.save_classifier(catalog, plan.version, classifier)
    best = max(grid, key=lambda entry: entry["accuracy"])
    models.write_model(
        catalog, _describe(spec, catalog, plan, classifier.labels, count, best, grid)
    )
    record.read(*([catalog.reduced] if spec.reduce else [catalog.features]), catalog.splits)
    record.counts = {"rows": count, **best}


def fit_head(rows: "DataFrame", train: TrainSpec) -> tuple["PipelineModel", list[dict[str, float]]]:
    """Fit on rows (label, values array<float>); returns the fitted pipeline and the grid's accuracies."""
    from pyspark.ml import Pipeline, PipelineModel
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator
    from pyspark.ml.feature import StandardScaler, StringIndexer
    from pyspark.ml.functions import array_to_vector
    from pyspark.ml.tuning import CrossValidator, ParamGridBuilder

    indexer = StringIndexer(inputCol="label", outputCol="class", stringOrderType="alphabetAsc")
    scaler = StandardScaler(inputCol="vector", outputCol="scaled", withMean=True, withStd=True)
    prepared = Pipeline(stages=[indexer, scaler]).fit(
        vectors := rows.withColumn("vector", array_to_vector(rows["values"]))
    )
    # Every iteration is a Spark job, so each partition too many costs its overhead a thousand times.
    cores = rows.sparkSession.sparkContext.defaultParallelism
    ready = prepared.transform(vectors).select("class", "scaled").coalesce(cores).cache()
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
        seed=train.seed,
        parallelism=min(len(train.penalties), cores),
    )
    chosen = validator.fit(ready)
    grid = [
        {"penalty": penalty, "accuracy": round(float(accuracy), 4)}
        for penalty, accuracy in zip(train.penalties, chosen.avgMetrics, strict=True)
    ]
    return PipelineModel([*prepared.stages, chosen.bestModel]), grid


def to_classifier(fitted: "PipelineModel") -> Classifier:
    """The fitted pipeline as plain arrays."""
    stages: list[Any] = fitted.stages
    indexer, scaler, head = stages
    spread = scaler.std.toArray()
    return Classifier(
        labels=list(indexer.labels),
        mean=scaler.mean.toArray(),
        scale=np.where(spread > 0, spread, 1.0),
        coefficients=head.coefficientMatrix.toArray(),
        intercepts=head.interceptVector.toArray(),
    )


def _train_rows(
    session: "SparkSession", spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> "DataFrame":
    """The train split: label, and values as array<float>."""
    if spec.reduce is None:
        files = tables.file_urls(catalog.features, plan.features_version, plan.backbone_id)
        values = spark.read_files(session, files, FEATURES).withColumnRenamed("embedding", "values")
    else:
        files = tables.file_urls(catalog.reduced, partition=plan.version)
        values = spark.read_files(session, files, REDUCED).withColumnRenamed("components", "values")
    splits = spark.read_files(session, tables.file_urls(catalog.splits), SPLITS)
    held = tables.file_urls(catalog.images, plan.images_version)
    labels = spark.read_files(session, held, IMAGES).select("image_id", "label")
    train = splits.where("split = 'train'").select("image_id").join(labels, "image_id")
    return values.join(train, "image_id").select("label", "values")


def _refuse_few_classes(spec: DatasetSpec, rows: "DataFrame") -> None:
    classes = [row["label"] for row in rows.select("label").distinct().collect()]
    if len(classes) < 2:
        raise TrainingError(
            f"Dataset {spec.name} has {len(classes)} class(es) in its train split ({', '.join(classes)}); "
            "a classifier needs two, so add images of another class."
        )


def _describe(
    spec: DatasetSpec,
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
        "fingerprint": plan.fingerprint,
        "dataset": spec.name,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "backbone_id": plan.backbone_id,
        "seed": spec.train.seed,
        "spec": spec.model_dump(mode="json"),
        "tables": {
            "images": plan.images_version,
            "features": plan.features_version,
            "splits": tables.current_version(catalog.splits),
        },
        "labels": labels,
        "reduction": reduction,
        "head": {"kind": spec.train.head, "penalty": best["penalty"], "grid": grid},
        "rows": {"train": rows},
        "metrics": {},
    }
