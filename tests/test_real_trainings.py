"""Real pictures, real weights: fine-tuning is worth its time."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sightline import fine_tuning, models
from sightline.evaluation import evaluate
from sightline.featurization import featurize
from sightline.ingestion import list_images
from sightline.sources import Access
from sightline.splitting import split_images
from tests.conftest import catalog_of, image_row, make_task, store_rows, write_dataset
from tests.test_flowers import rows_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from sightline.catalog import Catalog
    from sightline.config import DatasetSpec

pytestmark = pytest.mark.nightly
log = logging.getLogger(__name__)

FLOWERS = """
source: {{type: folder, path: photos}}
backbone: {{name: mobilenet_v2, weights: {weights}, image_size: 288}}
train: null
fine_tune:
  phases:  # the head first, so that it pulls the last layers in no wrong direction
    - {{trainable: head, epochs: 1, learning_rate: 0.01}}
    - {{trainable: head+bn+last_2_convs, epochs: 4, learning_rate: 0.001}}
  schedule: one_cycle
  loss: label_smoothing
  test_time_augmentation: [flips, crops]
"""
DIGITS = """
source: {{type: digits}}
backbone: {{name: resnet18, weights: random, image_size: 48}}
split: {{seed: 1}}
train: null
fine_tune:
  trainable: all
  epochs: 14
  learning_rate: 0.003
  batch_size: 64
  augmentation:  # as hands differ; a mirrored digit is none
    - Affine: {{rotate: [-10, 10], translate_percent: [-0.08, 0.08], scale: [0.9, 1.1], p: 0.8}}
  processes: {processes}
"""


def train(
    spark: "SparkSession", spec: "DatasetSpec", catalog: "Catalog", backbone_id: str = "none"
) -> tuple[dict[str, Any], float]:
    """The evaluated model, and the seconds that its training took."""
    plan = models.make_plan(spec, catalog, backbone_id)
    began = time.monotonic()
    fine_tuning.fine_tune(spark, spec, catalog, *make_task("fine_tune"), plan)
    seconds = time.monotonic() - began
    fine_tuning.score(spark, spec, catalog, *make_task("score"), plan)
    evaluate(spec, catalog, *make_task("evaluate"), plan)
    model = models.read_model(catalog, models.candidates(spec, plan)["fine_tuned"])
    assert model is not None
    log.info("%s: %s in %.0f s", spec.name, model["metrics"], seconds)
    return model, seconds


def test_flowers_fine_tuned_beat_their_frozen_features(
    spark: "SparkSession", own_places: Path, shared_data: Path
) -> None:
    weights = shared_data / "weights" / "mobilenet_v2-tfmodels-int8w.pth"
    spec = write_dataset(own_places, "flowers", FLOWERS.format(weights=weights))
    catalog = catalog_of(spec)
    photos = sorted((shared_data / "flowers").glob("*/*.jpg"))
    rows = [image_row(photo.read_bytes(), photo.parent.name) for photo in photos]
    store_rows(catalog.images, list({row["image_id"]: row for row in rows}.values()))
    split_images(spec, catalog, *make_task("split"))
    task, record = make_task("featurize")
    featurize(spark, spec, catalog, task, record)
    model, seconds = train(spark, spec, catalog, str(record.counts["backbone_id"]))
    features, labels = rows_of(catalog, "train")
    test, truth = rows_of(catalog, "test")
    heads = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=500)).fit(features, labels)
        for c in (0.001, 0.01, 0.1)
    ]
    frozen = max(head.score(test, truth) for head in heads)
    log.info("frozen: %.4f", frozen)
    metrics = model["metrics"]
    assert seconds < 15 * 60
    assert metrics["accuracy"] >= frozen + 0.015
    assert metrics["accuracy"] >= metrics["plain_accuracy"]  # with other views, and without


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # TorchDistributor's
def test_digits_are_learned_from_random_weights_by_one_process_and_by_two(
    spark: "SparkSession", own_places: Path
) -> None:
    found = []
    for processes in (1, 2):
        name = f"digits_{processes}"
        spec = write_dataset(own_places, name, DIGITS.format(processes=processes))
        catalog = catalog_of(spec)
        task, record = make_task("list_images")
        list_images(spec, Access(catalog, "all"), task, record)
        store_rows(catalog.images, digits_rows(catalog))
        split_images(spec, catalog, *make_task("split"))
        found.append(train(spark, spec, catalog))
    (one, seconds), (two, _) = found
    assert one["metrics"]["accuracy"] >= 0.985
    assert seconds < 180
    assert abs(one["metrics"]["accuracy"] - two["metrics"]["accuracy"]) <= 0.005


def digits_rows(catalog: "Catalog") -> list[dict[str, Any]]:
    from sightline import storage, tables

    batches = tables.read_batches(catalog.manifest, ["uri", "label"])
    listed = [row for batch in batches for row in batch.to_pylist()]
    rows = [image_row(storage.read_bytes(row["uri"]), row["label"]) for row in listed]
    return list({row["image_id"]: row for row in rows}.values())
