"""Drift: whether the new images of a partition still look like what the champion was trained on.

sides says which images are compared, comparison reads them, numbers makes a number of each. A number counts
only where it is above both its threshold and what chance gives; a partition of few images gets none.
"""

import logging
from typing import Any

import pyarrow as pa

from sightline import tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.drift.comparison import compare_classes, compare_embeddings, compare_properties
from sightline.drift.numbers import Number
from sightline.drift.sides import Sides, choose_sides
from sightline.errors import CheckFailed
from sightline.labels_config import ThresholdSpec
from sightline.ledger import Record, TaskRun
from sightline.schemas import DRIFT

log = logging.getLogger(__name__)

FINE, WARN, STOP, TOO_FEW = "fine", "warn", "stop", "too few"
VERDICTS = (FINE, WARN, STOP, TOO_FEW)


def measure_drift(
    spec: DatasetSpec, catalog: Catalog, task: TaskRun, record: Record, backbone_id: str
) -> None:
    """Write the partition's numbers of drift, replacing those of an earlier run.

    CheckFailed where one of them is above a threshold that stops. Where fewer images than are asked for
    have come since, the partition's numbers stay as they are.
    """
    record.read(catalog.images, catalog.splits, catalog.features)
    held = tables.claim(catalog.drift, task.writer)
    sides = choose_sides(catalog, task.partition)
    record.counts = {"images": sides.new_images, "reference_images": sides.reference_images}
    is_measured = tables.count_rows(catalog.drift, partition=task.partition)
    if sides.new_images < spec.drift.least_images and is_measured:
        return
    rows = [
        _row(spec, sides, task.partition, name, number)
        for name, number in _measure(spec, sides, backbone_id).items()
    ]
    urls = tables.write_batches(catalog.drift, [pa.RecordBatch.from_pylist(rows, schema=DRIFT)])
    tables.replace_partition(catalog.drift, urls, task.partition, held)
    record.wrote(catalog.drift, rows=len(rows))
    _tell(spec, task.partition, rows, record)


def judge(number: Number | None, thresholds: ThresholdSpec) -> str:
    """The verdict on a number; one that chance explains is fine."""
    if number is None:
        return TOO_FEW
    if number.value <= number.chance:
        return FINE
    if thresholds.stop is not None and number.value >= thresholds.stop:
        return STOP
    return WARN if thresholds.warn is not None and number.value >= thresholds.warn else FINE


def _measure(spec: DatasetSpec, sides: Sides, backbone_id: str) -> dict[str, Number | None]:
    """Each number by its name; None where there are too few images for it."""
    least = spec.drift.least_images
    return {
        "classes": compare_classes(sides, least),
        **compare_properties(sides, least),
        "embeddings": compare_embeddings(sides, backbone_id, least),
    }


def _row(
    spec: DatasetSpec, sides: Sides, partition: str, name: str, number: Number | None
) -> dict[str, Any]:
    """A row of DRIFT."""
    kinds = {"classes": spec.drift.classes, "embeddings": spec.drift.embeddings}
    thresholds = kinds.get(name, spec.drift.properties)
    return {
        "partition": partition,
        "name": name,
        "value": number and round(number.value, 6),
        "chance": number and round(number.chance, 6),
        "warn": thresholds.warn,
        "stop": thresholds.stop,
        "verdict": judge(number, thresholds),
        "images": sides.new_images,
        "reference_images": sides.reference_images,
        "reference": sides.reference,
    }


def _tell(spec: DatasetSpec, partition: str, rows: list[dict[str, Any]], record: Record) -> None:
    """Log what warns; CheckFailed for what stops."""
    by_verdict = {
        verdict: [row for row in rows if row["verdict"] == verdict] for verdict in VERDICTS
    }
    record.counts["warnings"] = len(by_verdict[WARN])
    if by_verdict[TOO_FEW]:
        log.info("measure_drift: partition %s has %d new images beside %d; each number takes %d of both",
                 partition, record.counts["images"], record.counts["reference_images"],
                 spec.drift.least_images)  # fmt: skip
    for row in by_verdict[WARN]:
        log.warning("measure_drift: %s", _sentence(row))
    if by_verdict[STOP]:
        said = " ".join(f"{_sentence(row)}." for row in by_verdict[STOP])
        raise CheckFailed(
            f"Dataset {spec.name}, partition {partition} has drifted. {said} Look at its images; then take "
            "them down, or raise stop in 'drift:' of the dataset file and clear task measure_drift."
        )


def _sentence(row: dict[str, Any]) -> str:
    beside = f"{row['reference_images']:,} of {row['reference']}"
    limit = row["stop"] if row["verdict"] == STOP else row["warn"]
    return (
        f"{row['name'].replace('_', ' ')} {row['value']:.3f} between {row['images']:,} new images and "
        f"{beside}, where {limit:g} is the limit to {row['verdict']}"
    )
