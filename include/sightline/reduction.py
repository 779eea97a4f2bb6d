"""PCA on the train split: one pass of Spark's workers over the features, one eigen-decomposition here."""

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sightline import models, spark, storage, tables
from sightline.batches import to_lists, to_matrix
from sightline.catalog import Catalog
from sightline.classifiers import read_pca
from sightline.config import DatasetSpec
from sightline.embeddings import (
    Selection,
    chosen_rows,
    first_embedding,
    read_moments,
    read_selected,
    sum_features,
    whole_files,
)
from sightline.errors import TrainingError
from sightline.ledger import Record, TaskRun
from sightline.models import Plan
from sightline.principal_components import fit_pca
from sightline.schemas import EXCLUSIONS, REDUCED, SPLITS
from sightline.shared_files import SharedFile

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)
Array = np.ndarray[Any, Any]


def reduce_features(
    session: "SparkSession",
    spec: DatasetSpec,
    catalog: Catalog,
    task: TaskRun,
    record: Record,
    plan: Plan,
) -> None:
    """Fit the PCA on the train split and project every image's embedding."""
    record.read(catalog.features, version=plan.features_version)
    record.read(catalog.splits, version=plan.splits_version)
    record.read(catalog.exclusions)
    if spec.reduce is None:
        record.counts = {"components": 0, "skipped": "the dataset file reduces nothing"}
        return
    held = tables.claim(catalog.reduced, task.writer)
    files = tables.file_urls(catalog.features, plan.features_version, plan.backbone_id)
    shift = first_embedding(files)
    with storage.temporary_folder(catalog.staging, "reduce") as folder:
        summed = sum_features(_train_rows(session, catalog, plan, files), shift, folder)
        moments = read_moments(chain(*summed.values()), len(shift))
    if not moments.count:
        raise TrainingError(
            f"Dataset {spec.name} has no features of its train split; run its ingest."
        )
    pca = fit_pca(moments, shift, spec.reduce)
    kept = models.save_pca(catalog, plan.version, pca)
    urls = _project(session, catalog, files, kept, plan.version)
    tables.replace_partition(catalog.reduced, urls, plan.version, held)
    record.counts = {
        "components": len(pca.components),
        "explained_variance": round(float(pca.explained_variance_ratio.sum()), 4),
        "rows": tables.count_file_rows(urls),
    }
    record.wrote(catalog.reduced, rows=record.counts["rows"])


def _train_rows(
    session: "SparkSession", catalog: Catalog, plan: Plan, files: list[str]
) -> Selection:
    """The rows of the train split that the plan does not leave out."""
    held = tables.file_urls(catalog.splits, plan.splits_version)
    left_out = tables.file_urls(catalog.exclusions, partition=plan.version)
    train = spark.read_files(session, held, SPLITS).where("split = 'train'").select("image_id")
    excluded = spark.read_files(session, left_out, EXCLUSIONS).select("image_id")
    return chosen_rows(session, files, train.join(excluded, "image_id", "left_anti"))


def _project(
    session: "SparkSession", catalog: Catalog, files: list[str], kept: SharedFile, version: str
) -> list[str]:
    selection = whole_files(session, files)
    features_urls = selection.urls

    def project(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in read_selected(batches, features_urls):
            components = read_pca(kept).project(to_matrix(batch["embedding"]))
            yield _reduced_batch(batch["image_id"], version, components)

    return spark.write_made(selection.rows, project, catalog.reduced)


def _reduced_batch(image_ids: pa.Array, version: str, components: Array) -> pa.RecordBatch:
    versions = pa.array([version] * len(components), pa.string())
    return pa.RecordBatch.from_arrays([image_ids, versions, to_lists(components)], schema=REDUCED)
