"""Train, val and test, for good: by a hash of the near-duplicate group, so no image ever moves.

A group is the images that look alike to the perceptual hash. Its split depends on nothing but the
group, the dataset's name and the shares, so new images move no old one, and a group stays together.
An official split of the source is kept instead where there is one.
"""

import hashlib
from collections import Counter
from typing import Any

import pyarrow as pa

from sightline import tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, SplitSpec
from sightline.errors import TrainingError
from sightline.ledger import Record, TaskRun
from sightline.schemas import SPLITS

NEWCOMERS = """
    SELECT i.image_id, i.phash, i.split_hint FROM images i
    LEFT ANTI JOIN splits s ON s.image_id = i.image_id
"""
COUNTS = "SELECT split, count(*) AS images FROM splits GROUP BY split"
STRADDLING = """
    SELECT count(*) AS groups FROM
    (SELECT group_id FROM splits GROUP BY group_id HAVING count(DISTINCT split) > 1) g
"""


def split_images(spec: DatasetSpec, catalog: Catalog, task: TaskRun, record: Record) -> None:
    """Give every image that has no split yet its split; those that have one keep it."""
    record.read(catalog.images)
    with tables.query(images=catalog.images, splits=catalog.splits) as sql:
        newcomers = sql(NEWCOMERS)
    urls = tables.write_batches(
        catalog.splits, (_assign(spec, batch) for batch in newcomers.to_batches(8192))
    )
    tables.append_new(catalog.splits, urls, None, task.writer)
    with tables.query(splits=catalog.splits) as sql:
        counts = Counter({row["split"]: row["images"] for row in sql(COUNTS).to_pylist()})
        straddling = sql(STRADDLING)["groups"][0].as_py()
    if not counts["train"] or not counts["test"]:
        raise TrainingError(
            f"Dataset {spec.name}: {counts['train']} train and {counts['test']} test images; both are "
            "needed, so add images or change split.test."
        )
    record.counts = {
        "images": counts.total(),
        **{name: counts[name] for name in ("train", "val", "test")},
        "new": newcomers.num_rows,
        "straddling": straddling,
    }
    record.wrote(catalog.splits)


def choose_split(dataset: str, group_id: str, shares: SplitSpec) -> str:
    """The split of a group: the same for ever, whatever other images there are."""
    digest = hashlib.sha256(f"{dataset}/{group_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in 0..1
    if place < shares.test:
        return "test"
    return "val" if place < shares.test + shares.val else "train"


def _assign(spec: DatasetSpec, batch: pa.RecordBatch) -> pa.RecordBatch:
    rows: list[dict[str, Any]] = [
        {
            "image_id": row["image_id"],
            "group_id": row["phash"],
            "split": row["split_hint"] or choose_split(spec.name, row["phash"], spec.split),
        }
        for row in batch.to_pylist()
    ]
    return pa.RecordBatch.from_pylist(rows, schema=SPLITS)
