"""Label conflicts: images whose bytes the source gives under two labels.

Nothing is taken away for it: the one that came first is held, the others are rejects that name it. So what
is made of a conflict can be changed in the dataset file, and one that the source has mended is gone.
"""

from collections.abc import Collection

import pyarrow as pa
from deltalake import DeltaTable

from sightline import tables
from sightline.catalog import Catalog
from sightline.labels_config import LabelsSpec
from sightline.rejection import HOLDER

# What the source says now, by each uri of the same bytes; of a uri that it no longer lists, what it said.
FOUND = f"""
    SELECT DISTINCT i.image_id, i.uri, i.label, said.uri AS other_uri, said.label AS other_label
    FROM images i
    JOIN (
        SELECT uri AS holder, uri, label FROM manifest
        UNION ALL
        SELECT r.holder, r.uri, coalesce(m.label, r.label) AS label
        FROM (
            SELECT uri, label, {HOLDER} AS holder FROM rejects r
            WHERE reason IN ('duplicate', 'conflict')
        ) r
        LEFT JOIN manifest m ON m.uri = r.uri
    ) said ON said.holder = i.uri
    WHERE said.label <> i.label
    ORDER BY i.image_id, other_uri, other_label
"""


def find_conflicts(catalog: Catalog, images_version: int | None = None) -> pa.Table:
    """image_id, uri and label of each image in conflict, with each other_uri and other_label."""
    images: DeltaTable | None = tables.open_table(catalog.images, images_version)
    with tables.query(
        images=images or catalog.images, manifest=catalog.manifest, rejects=catalog.rejects
    ) as sql:
        return sql(FOUND)


def dropped_images(
    spec: LabelsSpec, catalog: Catalog, images_version: int, settled: Collection[str]
) -> list[str]:
    """Ids of the images in conflict that are neither trained nor tested on: none where the first label is
    believed, and not those that a person has settled."""
    if spec.conflicts != "drop":
        return []
    found = find_conflicts(catalog, images_version)
    ids: list[str] = found["image_id"].unique().to_pylist()
    return [one for one in ids if one not in settled]
