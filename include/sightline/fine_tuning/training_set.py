"""Which rows of the images table a training reads: a list for each row group, made once by the driver.

A list names the labelled rows of the train and val splits by their places, so that a process reads
images straight from the table and holds one list at a time.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sightline import exclusions, label_overrides, lookup, models, parquet, storage, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import TrainingError
from sightline.hashing import is_held_out
from sightline.models import Plan

LIST = pa.schema(
    [
        ("row", pa.int32()),  # in its row group
        ("label", pa.int32()),  # its place among the training set's labels
        ("is_validation", pa.bool_()),
    ]
)
CLASSES = f"""
    SELECT i.label, count(*) AS images FROM {label_overrides.IMAGES} i
    JOIN splits s ON s.image_id = i.image_id AND s.split = 'train'
    LEFT ANTI JOIN (SELECT image_id FROM exclusions WHERE model_version = {{version}}) e
        ON e.image_id = i.image_id
    WHERE i.label IS NOT NULL GROUP BY i.label ORDER BY i.label
"""


@dataclass(frozen=True)
class RowGroup:
    """A row group of a file of the images table; `place` is that of its rows' list in the list's file."""

    url: str
    number: int
    list_url: str
    place: int
    train_images: int
    validation_images: int


@dataclass(frozen=True)
class TrainingSet:
    """What there is to train on. `class_images` counts the train images of each label."""

    labels: list[str]
    class_images: list[int]
    row_groups: list[RowGroup]
    train_images: int
    validation_images: int


def build_training_set(
    spec: DatasetSpec, catalog: Catalog, plan: Plan, validation_share: float, folder: str
) -> TrainingSet:
    """Write the lists into a folder; TrainingError where there is too little to train on."""
    images = tables.open_table(catalog.images, plan.images_version)
    assert images is not None  # the plan was made of it
    read: dict[str, Any] = {
        "images": images,
        "splits": models.open_splits(catalog, plan),
        "exclusions": catalog.exclusions,
        "label_overrides": models.open_overrides(catalog, plan),
    }
    with tables.query(**read) as sql:
        found = sql(CLASSES.format(version=tables.literal(plan.version)))
        has_val_split = bool(sql("SELECT 1 FROM splits WHERE split = 'val' LIMIT 1").num_rows)
    splits_of = partial(
        _splits_of, catalog, plan, exclusions.read_exclusions(catalog, plan.version)
    )
    labels = found["label"].to_pylist()
    models.refuse_too_few_classes(spec, labels)
    decided = label_overrides.read(catalog, plan.label_overrides_version)
    said = {image_id: row["label"] for image_id, row in decided.items()}
    share = 0.0 if has_val_split else validation_share
    groups, counts = list[RowGroup](), np.zeros((2, len(labels)), dtype=np.int64)
    for number, url in enumerate(tables.file_urls(catalog.images, plan.images_version)):
        lists = dict(_lists(_read_groups(url, said), splits_of, labels, share))
        groups += _write_lists(lists, url, storage.join(folder, f"{number:06d}.parquet"))
        for rows in lists.values():
            np.add.at(counts, (rows["is_validation"].to_numpy(False).astype(int), rows["label"]), 1)
    train, validation = (int(row.sum()) for row in counts)
    if not train or not validation:
        raise TrainingError(
            f"Dataset {spec.name}: {train} images to train on and {validation} to validate with; add "
            "images or change fine_tune.validation_share."
        )
    return TrainingSet(labels, counts[0].tolist(), groups, train, validation)


def read_list(group: RowGroup, *, validation: bool) -> list[tuple[int, int]]:
    """The (row, label) pairs of a row group's train or validation images."""
    with parquet.opened(group.list_url, pre_buffer=False) as file:
        rows = file.read_row_group(group.place).to_pylist()
    return [(row["row"], row["label"]) for row in rows if row["is_validation"] == validation]


def _lists(
    groups: list[list[dict[str, Any]]],
    splits_of: Callable[[list[str]], dict[str, dict[str, Any]]],
    labels: list[str],
    validation_share: float,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of LIST of each row group of a file that has any."""
    places = {label: place for place, label in enumerate(labels)}
    known = splits_of([one["image_id"] for group in groups for one in group])
    for number, group in enumerate(groups):
        rows = [
            {
                "row": row,
                "label": places[one["label"]],
                "is_validation": _validates(known[one["image_id"]], validation_share),
            }
            for row, one in enumerate(group)
            if one["image_id"] in known and one["label"] in places
        ]
        if rows:
            yield number, pa.RecordBatch.from_pylist(rows, schema=LIST)


def _splits_of(
    catalog: Catalog, plan: Plan, excluded: Collection[str], image_ids: list[str]
) -> dict[str, dict[str, Any]]:
    """The rows of the splits, by image, of those images that the network learns from or validates with."""
    ids = [one for one in image_ids if one not in excluded]
    rows = lookup.rows_of(catalog.splits, "image_id", ids, version=plan.splits_version).to_pylist()
    return {row["image_id"]: row for row in rows if row["split"] in ("train", "val")}


def _read_groups(url: str, said: dict[str, str]) -> list[list[dict[str, Any]]]:
    """Ids and labels of each row group's images; what people have said of a label stands above it."""
    with parquet.opened(url, pre_buffer=False) as file:
        read = partial(file.read_row_group, columns=["image_id", "label"])
        groups = [read(number).to_pylist() for number in range(file.num_row_groups)]
    return [
        [{**row, "label": said.get(row["image_id"], row["label"])} for row in group]
        for group in groups
    ]


def _validates(split: dict[str, Any], share: float) -> bool:
    return split["split"] == "val" or is_held_out(split["group_id"], share)


def _write_lists(lists: dict[int, pa.RecordBatch], url: str, list_url: str) -> list[RowGroup]:
    if not lists:
        return []
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, LIST) as writer:
        for rows in lists.values():
            writer.write_table(pa.Table.from_batches([rows]), row_group_size=len(rows))
    storage.write_bytes(list_url, buffer.getvalue().to_pybytes())
    groups = []
    for place, (number, rows) in enumerate(lists.items()):
        validation = rows["is_validation"].true_count
        train = len(rows) - validation
        groups.append(RowGroup(url, number, list_url, place, train, validation))
    return groups
