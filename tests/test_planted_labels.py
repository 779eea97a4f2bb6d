"""Forty wrong labels planted among real photos: the audit finds them, with real features."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from sightline import tables
from sightline.featurization import featurize
from sightline.label_audit import audit_labels
from sightline.models import make_plan
from sightline.splitting import split_images
from tests.conftest import catalog_of, image_row, make_task, store_rows, write_dataset

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

pytestmark = pytest.mark.nightly
PLANTED, LOOKED_AT = 40, 80
DATASET = """
source: {{type: folder, path: photos}}
backbone: {{name: resnet50, weights: {weights}}}
"""


def test_most_wrong_labels_are_among_the_first_rows(
    spark: "SparkSession", own_places: Path, shared_data: Path
) -> None:
    weights = shared_data / "weights" / "resnet50-tfofficial-uint8w-fp16.pth"
    spec = write_dataset(own_places, "flowers", DATASET.format(weights=weights))
    catalog = catalog_of(spec)
    photos = sorted((shared_data / "flowers").glob("*/*.jpg"))
    names = sorted({photo.parent.name for photo in photos})
    rng = np.random.default_rng(0)
    wrong = {photos[at]: int(by) for at, by in zip(
        rng.choice(len(photos), PLANTED, replace=False), rng.integers(1, len(names), PLANTED), strict=True
    )}  # fmt: skip
    rows, planted = {}, set()
    for photo in photos:
        place = names.index(photo.parent.name) + wrong.get(photo, 0)
        row = image_row(photo.read_bytes(), names[place % len(names)])
        rows[row["image_id"]] = row
        planted |= {row["image_id"]} if photo in wrong else set()
    store_rows(catalog.images, list(rows.values()))
    split_images(spec, catalog, *make_task("split"))
    task, record = make_task("featurize")
    featurize(spark, spec, catalog, task, record)
    plan = make_plan(spec, catalog, str(record.counts["backbone_id"]))
    task, record = make_task("audit_labels")
    audit_labels(spec, catalog, task, record, plan)
    table = catalog.suspicious_labels
    found = pa.Table.from_batches(tables.read_batches(table, table.schema.names)).sort_by("rank")
    ids = found["image_id"].to_pylist()
    issues = found.filter(found["is_label_issue"])["image_id"].to_pylist()
    for name, chosen in (
        (f"first {PLANTED}", ids[:PLANTED]), (f"first {LOOKED_AT}", ids[:LOOKED_AT]), ("issues", issues),
    ):  # fmt: skip
        hits = len(planted & set(chosen))
        log.info("%s: %d rows, recall %.3f, precision %.3f",
                 name, len(chosen), hits / len(planted), hits / len(chosen))  # fmt: skip
    log.info("audit: %s", record.counts)
    assert len(planted & set(ids[:LOOKED_AT])) >= 0.7 * len(planted)
