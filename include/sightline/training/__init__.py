"""The classifier on top of the features: a head of Spark ML, chosen from its grid by cross-validation on the
train split.

What is kept is portable: PCA, scaler and head as plain arrays, which predict without a JVM.
"""

import logging
from typing import TYPE_CHECKING, Any

from sightline import models, spark, storage, tables
from sightline.catalog import Catalog
from sightline.classifiers import Classifier, Pca
from sightline.config import DatasetSpec, TrainSpec
from sightline.embeddings import chosen_rows, first_embedding
from sightline.errors import TrainingError
from sightline.ledger import Record, TaskRun
from sightline.models import Plan
from sightline.provenance import java_of
from sightline.schemas import EXCLUSIONS, FEATURES, IMAGES, LABEL_OVERRIDES, REDUCED, SPLITS
from sightline.training.cross_validation import (
    Score,
    choose,
    cross_validate,
    fit_pcas,
    project_rows,
)
from sightline.training.fitting import Course, fit_pipeline, plan_course, to_classifier
from sightline.training.folds import at_home, deal_folds
from sightline.training.heads import HEADS

if TYPE_CHECKING:
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
    assert spec.train is not None  # else the DAG has no such task
    record.read(catalog.images, version=plan.images_version)
    record.read(catalog.features, version=plan.features_version)
    record.read(catalog.splits, version=plan.splits_version)
    record.read(catalog.exclusions)
    record.read(catalog.label_overrides, version=plan.label_overrides_version)
    if spec.reduce:
        record.read(catalog.reduced)
    rows = _train_rows(session, spec, catalog, plan).cache()
    counts = _count_classes(spec, spec.train, rows)
    course = plan_course(spec.train, counts, rows)
    grid = HEADS[spec.train.head].grid(spec.train)
    scores = _cross_validate(spec, catalog, plan, rows, course)
    total = sum(counts.values())
    best = choose(scores, total)
    fitted = fit_pipeline(rows, course, grid[best])
    pca = models.load_pca(catalog, plan.version) if spec.reduce else None
    with storage.temporary_folder(catalog.staging, "train") as folder:
        classifier = to_classifier(fitted, spec.train.head, pca, folder)
    models.save_classifier(catalog, plan.version, classifier)
    tried = [{**entry, **_rounded(score)} for entry, score in zip(grid, scores, strict=True)]
    head = {"kind": spec.train.head, "parameters": grid[best], "grid": tried}
    model = models.describe(spec, catalog, plan, models.HEAD, java_of(session))
    own = {**_describe(spec.train, classifier), "head": head, "rows": {"train": total}}
    models.write_model(catalog, {**model, **own})
    record.counts = {"rows": total, **tried[best]}
    record.wrote_model(catalog.models, plan.version)


def _cross_validate(
    spec: DatasetSpec, catalog: Catalog, plan: Plan, rows: "DataFrame", course: Course
) -> list[Score]:
    """The score of each entry of the head's grid. With a PCA, each fold has its own."""
    train = course.train
    keys = rows.select("image_id", "label", "group_id", "home")
    dealt = deal_folds(keys, course.labels, train.folds, train.seed)
    folds = dealt.select("image_id", "label", "fold")
    if spec.reduce is None:
        whole = rows.select("image_id", "values").join(folds, "image_id").cache()
        return cross_validate(lambda fold: whole, course)
    files = tables.file_urls(catalog.features, plan.features_version, plan.backbone_id)
    selection = chosen_rows(rows.sparkSession, files, folds)
    selection.rows.cache()
    with storage.temporary_folder(catalog.staging, "folds") as folder:
        pcas = fit_pcas(selection, first_embedding(files), spec.reduce, folder)
        return cross_validate(lambda fold: project_rows(selection, next(pcas), folder), course)


def _train_rows(
    session: "SparkSession", spec: DatasetSpec, catalog: Catalog, plan: Plan
) -> "DataFrame":
    """The train split: image_id, label, group_id and home (see folds), and values as array<float>."""
    if spec.reduce is None:
        files = tables.file_urls(catalog.features, plan.features_version, plan.backbone_id)
        values = spark.read_files(session, files, FEATURES).withColumnRenamed("embedding", "values")
    else:
        files = tables.file_urls(catalog.reduced, partition=plan.version)
        values = spark.read_files(session, files, REDUCED).withColumnRenamed("components", "values")
    splits = spark.read_files(
        session, tables.file_urls(catalog.splits, plan.splits_version), SPLITS
    )
    labels = _labels(session, catalog, plan)
    left_out = tables.file_urls(catalog.exclusions, partition=plan.version)
    excluded = spark.read_files(session, left_out, EXCLUSIONS).select("image_id")
    train = splits.where("split = 'train'").select("image_id", "group_id")
    train = train.join(excluded, "image_id", "left_anti")
    labelled = at_home(train.join(labels.where("label IS NOT NULL"), "image_id"))
    return values.join(labelled, "image_id").select(*labelled.columns, "values")


def _labels(session: "SparkSession", catalog: Catalog, plan: Plan) -> "DataFrame":
    """image_id and label: what a person says, else the source."""
    from pyspark.sql import functions

    held = tables.file_urls(catalog.images, plan.images_version)
    given = spark.read_files(session, held, IMAGES).select("image_id", "label")
    version = plan.label_overrides_version
    decided = [] if version is None else tables.file_urls(catalog.label_overrides, version)
    if not decided:
        return given
    said = spark.read_files(session, decided, LABEL_OVERRIDES)
    said = said.select("image_id", functions.col("label").alias("said"))
    label = functions.coalesce("said", "label").alias("label")
    return given.join(functions.broadcast(said), "image_id", "left").select("image_id", label)


def _count_classes(spec: DatasetSpec, train: TrainSpec, rows: "DataFrame") -> dict[str, int]:
    """Train images of each class; TrainingError where they are too few for a classifier."""
    from pyspark.sql import functions

    apart = functions.when(rows["label"] == rows["home"], rows["group_id"])
    counting = [
        functions.count("*").alias("images"),
        functions.count_distinct(apart).alias("apart"),
    ]
    found = rows.groupBy("label").agg(*counting).collect()
    counts = {row["label"]: row["images"] for row in found}
    models.refuse_too_few_classes(spec, counts)
    most = max(row["apart"] for row in found)
    if most < train.folds:
        raise TrainingError(
            f"Dataset {spec.name}: train.folds is {train.folds}, but no class has more than {most} "
            "train images that do not look alike; add images or lower it."
        )
    return counts


def _rounded(score: Score) -> dict[str, float]:
    known = {name: value for name, value in vars(score).items() if value is not None}
    return {name: round(value, 4) for name, value in known.items()}


def _describe(train: TrainSpec, classifier: Classifier) -> dict[str, Any]:
    """What the model.json says of a head beside what it says of every model."""
    return {
        "seed": train.seed,
        "labels": classifier.labels,
        "reduction": classifier.pca and _describe_pca(classifier.pca),
    }


def _describe_pca(pca: Pca) -> dict[str, Any]:
    ratios = [round(float(ratio), 8) for ratio in pca.explained_variance_ratio]
    return {
        "components": len(pca.components),
        "dim": len(pca.mean),
        "explained_variance_ratio": ratios,
        "total_explained": round(sum(ratios), 6),
    }
