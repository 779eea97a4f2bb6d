"""What is audited: the labelled images of a plan with their embeddings, dealt out to folds without a JVM."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sightline import label_overrides, models, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, TrainSpec
from sightline.models import Plan

TRAIN = "train"

AUDITED = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("fold", pa.int32()),  # of the splits but train it means nothing
        ("embedding", pa.list_(pa.float32())),
    ]
)

# As training deals out its folds: groups stay together, each class's large ones come first, and each class
# starts one fold further.
ROWS = """
    SELECT d.image_id, d.split, d.label, d.fold, f.embedding
    FROM features f
    JOIN (
        SELECT image_id, split, label, (start + dense_rank() OVER (
            PARTITION BY split, home ORDER BY size DESC, draw, group_id
        )) % {folds} AS fold
        FROM (
            SELECT *, dense_rank() OVER (ORDER BY home) AS start FROM (
                SELECT i.image_id, i.label, s.split, s.group_id,
                    md5(concat(s.group_id, '/{seed}')) AS draw,
                    min(i.label) OVER (PARTITION BY s.split, s.group_id) AS home,
                    count(*) OVER (PARTITION BY s.split, s.group_id) AS size
                FROM {images} i
                JOIN splits s ON s.image_id = i.image_id
                WHERE i.label IS NOT NULL
            ) g
        ) h
    ) d ON d.image_id = f.image_id
    WHERE f.backbone_id = {backbone}
"""
CLASSES = f"""
    SELECT DISTINCT i.label FROM {label_overrides.IMAGES} i
    JOIN splits s ON s.image_id = i.image_id AND s.split = 'train'
    WHERE i.label IS NOT NULL ORDER BY i.label
"""


@dataclass(frozen=True)
class Audit:
    """The images of a plan, but for those left out: they are in conflict."""

    spec: DatasetSpec
    catalog: Catalog
    plan: Plan
    left_out: frozenset[str]

    def classes(self) -> list[str]:
        """The classes of the train split, sorted."""
        with tables.query(**self._tables()) as sql:
            found: list[str] = sql(CLASSES)["label"].to_pylist()
        return found

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Batches of AUDITED; none is empty."""
        train = self.spec.train or TrainSpec()
        backbone = tables.literal(self.plan.backbone_id)
        statement = ROWS.format(
            folds=train.folds, seed=train.seed, backbone=backbone, images=label_overrides.IMAGES
        )
        left_out = pa.array(sorted(self.left_out), pa.string())
        with tables.stream_query(**self._tables()) as sql:
            for batch in sql(statement):
                rows = batch.cast(AUDITED)
                rows = rows.filter(pc.invert(pc.is_in(rows["image_id"], left_out)))
                if rows.num_rows:
                    yield rows

    def _tables(self) -> dict[str, Any]:
        catalog, plan = self.catalog, self.plan
        images = tables.open_table(catalog.images, plan.images_version)
        features = tables.open_table(catalog.features, plan.features_version)
        return {
            "images": images or catalog.images,
            "features": features or catalog.features,
            "splits": models.open_splits(catalog, plan),
            "label_overrides": models.open_overrides(catalog, plan),
        }
