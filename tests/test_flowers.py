"""Real photos, real weights: the classifier on features is as good as scikit-learn's on the same ones."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sightline import tables
from sightline.catalog import Catalog
from sightline.evaluation import evaluate
from sightline.featurization import featurize
from sightline.models import make_plan
from sightline.splitting import split_images
from sightline.training import train_classifier
from tests import accuracies
from tests.conftest import catalog_of, image_row, make_task, store_rows, write_dataset

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.nightly
log = logging.getLogger(__name__)
PENALTIES = (0.003, 0.03, 0.3, 3.0)
DATASET = """
source: {{type: folder, path: photos}}
backbone: {{name: resnet50, weights: {weights}}}
reduce: null
train: {{scale: each, penalties: {penalties}}}
"""


def rows_of(catalog: Catalog, split: str) -> tuple[Any, list[str]]:
    """Embeddings and labels of a split, in the order of the image ids."""
    statement = f"""SELECT f.embedding, i.label FROM features f
        JOIN splits s ON s.image_id = f.image_id AND s.split = '{split}'
        JOIN images i ON i.image_id = f.image_id ORDER BY f.image_id"""
    with tables.query(
        features=catalog.features, splits=catalog.splits, images=catalog.images
    ) as sql:
        found = sql(statement)
    return np.array(found["embedding"].to_pylist()), found["label"].to_pylist()


def test_flowers_are_told_apart_as_well_as_by_scikit_learn(
    spark: "SparkSession", own_places: Path, shared_data: Path
) -> None:
    weights = shared_data / "weights" / "resnet50-tfofficial-uint8w-fp16.pth"
    text = DATASET.format(weights=weights, penalties=list(PENALTIES))
    spec = write_dataset(own_places, "flowers", text)
    catalog = catalog_of(spec)
    photos = sorted((shared_data / "flowers").glob("*/*.jpg"))
    rows = {row["image_id"]: row for row in (
        image_row(photo.read_bytes(), photo.parent.name) for photo in photos
    )}  # fmt: skip
    store_rows(catalog.images, list(rows.values()))
    split_images(spec, catalog, *make_task("split"))
    task, record = make_task("featurize")
    featurize(spark, spec, catalog, task, record)
    plan = make_plan(spec, catalog, str(record.counts["backbone_id"]))
    train_classifier(spark, spec, catalog, *make_task("train"), plan)
    evaluate(spec, catalog, *make_task("evaluate"), plan)
    train, labels = rows_of(catalog, "train")
    test, truth = rows_of(catalog, "test")
    # Spark's penalty is on the mean loss, scikit-learn's C on the sum.
    grid = {"logisticregression__C": [1 / (penalty * len(labels)) for penalty in PENALTIES]}
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    theirs = GridSearchCV(pipeline, grid, cv=3).fit(train, labels).predict(test) == np.array(truth)
    ours = accuracies.right_answers(catalog, plan.version)
    difference = accuracies.compare([ours], [theirs])
    log.info("beside scikit-learn: %s", difference)
    accuracies.assert_at_least(np.mean(ours), len(ours), 0.85)
    accuracies.assert_not_worse(difference, margin=0.005)
