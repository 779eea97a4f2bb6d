"""Whether the splits are stratified: each class's share of test images against the one that was asked for.

A group goes to test as a whole, so a class of few large groups may be far off by chance; the bounds know
that. What remains is a class that the draw, or the source's own split, treats unlike the others.
"""

from math import sqrt
from statistics import NormalDist
from typing import Any

from sightline import tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.label_overrides import IMAGES

CHANCE = 0.01  # that any class at all is called uneven where all were drawn alike
SHOWN = 20

# images: of the class; squares: of the sizes of its groups, summed
CLASSES = f"""
    SELECT label, sum(images) AS images, sum(tested) AS tested, sum(images * images) AS squares
    FROM (
        SELECT i.label, s.group_id, count(*) AS images,
            sum(CASE WHEN s.split = 'test' THEN 1 ELSE 0 END) AS tested
        FROM {IMAGES} i JOIN splits s ON s.image_id = i.image_id
        WHERE i.label IS NOT NULL AND s.split <> 'set_aside' GROUP BY i.label, s.group_id
    ) g GROUP BY label ORDER BY label
"""
OFFICIAL = "SELECT 1 FROM images WHERE split_hint IN ('train', 'val', 'test') LIMIT 1"


def uneven_classes(spec: DatasetSpec, catalog: Catalog) -> list[dict[str, Any]]:
    """Classes whose share of test images is beyond chance, the furthest first: label, images, tested,
    expected, deviations. A source's own split is held against its own share, ours against split.test.
    """
    read = {"images": catalog.images, "splits": catalog.splits}
    with tables.query(label_overrides=catalog.label_overrides, **read) as sql:
        classes, is_official = sql(CLASSES).to_pylist(), bool(sql(OFFICIAL).num_rows)
    images = sum(row["images"] for row in classes)
    share = spec.split.test
    if is_official and images:
        share = sum(row["tested"] for row in classes) / images
    bound = NormalDist().inv_cdf(1 - CHANCE / 2 / max(1, len(classes)))
    judged = [_judge(row, share) for row in classes]
    uneven = [row for row in judged if abs(row["deviations"]) > bound]
    return sorted(uneven, key=lambda row: -abs(row["deviations"]))[:SHOWN]


def _judge(row: dict[str, Any], share: float) -> dict[str, Any]:
    """The class with how many standard deviations its test images are off."""
    expected = row["images"] * share
    deviation = sqrt(row["squares"] * share * (1 - share)) or 1.0
    return {
        **{name: row[name] for name in ("label", "images", "tested")},
        "expected": round(expected, 1),
        "deviations": round((row["tested"] - expected) / deviation, 1),
    }
