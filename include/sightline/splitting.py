"""Train, val and test, for good: by a hash of the near-duplicate group, so no image ever moves.

A group is the images that look alike to the perceptual hash. Its split depends on nothing but the
group, the dataset's name and the shares when its first image came, so new images and other shares move
no old image, and a group stays together. An official split of the source is kept instead where there
is one; a group that it tears apart is counted as straddling. Images that the source wants predicted, and
does not label, have no split.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from sightline import tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, SplitSpec
from sightline.errors import TrainingError
from sightline.ledger import Record, TaskRun
from sightline.schemas import SPLITS

# Where a group has a split, from its older images or from the source, its newcomers follow.
NEWCOMERS = """
    SELECT i.image_id, i.phash AS group_id, coalesce(i.split_hint, o.split, h.split) AS split
    FROM images i
    LEFT JOIN (SELECT group_id, min(split) AS split FROM splits GROUP BY group_id) o
        ON o.group_id = i.phash
    LEFT JOIN (
        SELECT phash, min(split_hint) AS split FROM images
        WHERE split_hint <> 'predict' GROUP BY phash
    ) h ON h.phash = i.phash
    LEFT ANTI JOIN splits s ON s.image_id = i.image_id
    WHERE coalesce(i.split_hint, '') <> 'predict'
"""
COUNTS = "SELECT split, count(*) AS images FROM splits GROUP BY split"
STRADDLING = """
    SELECT count(*) AS groups FROM
    (SELECT group_id FROM splits GROUP BY group_id HAVING count(DISTINCT split) > 1) g
"""


def split_images(spec: DatasetSpec, catalog: Catalog, task: TaskRun, record: Record) -> None:
    """Give every image that has no split yet its split; those that have one keep it.

    TrainingError, and no split is given, where train or test would stay empty.
    """
    record.read(catalog.images)
    new: Counter[str] = Counter()
    with tables.stream_query(images=catalog.images, splits=catalog.splits) as sql:
        urls = tables.write_batches(catalog.splits, _assign(spec, sql(NEWCOMERS), new))
    _refuse_empty(spec, _counts(catalog) + new)
    tables.append_new(catalog.splits, urls, None, task.writer)
    counts = _counts(catalog)
    with tables.query(splits=catalog.splits) as sql:
        straddling = sql(STRADDLING)["groups"][0].as_py()
    record.counts = {
        "images": counts.total(),
        **{name: counts[name] for name in ("train", "val", "test")},
        "new": new.total(),
        "straddling": straddling,
    }
    record.wrote(catalog.splits, rows=new.total())


def choose_split(dataset: str, group_id: str, shares: SplitSpec) -> str:
    """The split of a group: the same for ever, whatever other images there are."""
    digest = hashlib.sha256(f"{shares.seed}/{dataset}/{group_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in 0..1
    if place < shares.test:
        return "test"
    return "val" if place < shares.test + shares.val else "train"


def _assign(
    spec: DatasetSpec, newcomers: pa.RecordBatchReader, counted: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """Complete the newcomers' splits, counting them."""
    for batch in newcomers:
        rows = batch.to_pylist()
        for row in rows:
            row["split"] = row["split"] or choose_split(spec.name, row["group_id"], spec.split)
        counted.update(row["split"] for row in rows)
        yield pa.RecordBatch.from_pylist(rows, schema=SPLITS)


def _counts(catalog: Catalog) -> Counter[str]:
    with tables.query(splits=catalog.splits) as sql:
        return Counter({row["split"]: row["images"] for row in sql(COUNTS).to_pylist()})


def _refuse_empty(spec: DatasetSpec, counts: Counter[str]) -> None:
    if not counts["train"] or not counts["test"]:
        raise TrainingError(
            f"Dataset {spec.name}: {counts['train']} train and {counts['test']} test images; both are "
            "needed, so add images or change split.test."
        )
