"""A dataset to fine-tune on: sixty small pictures of three colours."""

from pathlib import Path

import numpy as np

from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from tests.conftest import catalog_of, image_row, jpeg, store_rows, write_dataset

DATASET = """
source: {type: folder, path: photos}
backbone: {name: resnet18, weights: random, image_size: 32, precision: fp32}
fine_tune:
  trainable: all
  epochs: 4
  batch_size: 12
  learning_rate: 0.01
  precision: fp32
  validation_share: 0.2
  test_time_augmentation: [flips]
"""
COLOURS = {"blue": (20, 40, 200), "green": (30, 180, 40), "red": (210, 30, 30)}
FILES, IMAGES_A_FILE = 4, 15


def make_colours(places: Path) -> DatasetSpec:
    """The dataset `colours`, its pictures stored."""
    spec = write_dataset(places, "colours", DATASET)
    store_colours(catalog_of(spec))
    return spec


def store_colours(catalog: Catalog) -> None:
    """Sixty pictures of three colours in four files; every fifth is a test image."""
    rng = np.random.default_rng(0)
    names = sorted(COLOURS)
    for number in range(FILES):
        labels = [names[index % 3] for index in range(IMAGES_A_FILE)]
        rows = [image_row(jpeg(rng, np.array(COLOURS[one]), 40), one) for one in labels]
        store_rows(catalog.images, rows)
        splits = ["test" if index % 5 == number else "train" for index in range(IMAGES_A_FILE)]
        store_rows(
            catalog.splits,
            [
                {"image_id": row["image_id"], "group_id": row["phash"], "split": split}
                for row, split in zip(rows, splits, strict=True)
            ],
        )
