"""Which images the models of a plan leave out, and why: an image in conflict is neither trained nor tested
on, one with a suspicious label is not trained on where the dataset file says so.
"""

from collections import Counter
from typing import Any

import pyarrow as pa

from sightline import storage, tables
from sightline.catalog import Catalog
from sightline.schemas import EXCLUSIONS
from sightline.tables import Writer

CONFLICT, SUSPICIOUS = "conflict", "suspicious"


def write_exclusions(
    catalog: Catalog, version: str, reasons: dict[str, str], writer: Writer
) -> None:
    """Keep what a plan's models leave out: image_id -> reason; what was kept for it before goes."""
    held = tables.claim(catalog.exclusions, writer)
    rows = [
        {"image_id": image_id, "model_version": version, "reason": reason}
        for image_id, reason in sorted(reasons.items())
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=EXCLUSIONS)
    urls = tables.write_batches(catalog.exclusions, [batch])
    tables.replace_partition(catalog.exclusions, urls, version, held)


def read_exclusions(catalog: Catalog, version: str) -> dict[str, str]:
    """What a plan's models leave out: image_id -> reason."""
    batches = tables.read_batches(catalog.exclusions, ["image_id", "reason"], partition=version)
    rows = (row for batch in batches for row in batch.to_pylist())
    return {row["image_id"]: row["reason"] for row in rows}


def list_beside(catalog: Catalog, plan_version: str, model_version: str) -> dict[str, Any]:
    """Write the list beside a model's model.json; returns what that says of it: a count by reason."""
    reasons = read_exclusions(catalog, plan_version)
    url = storage.join(catalog.model(model_version), "excluded.json")
    storage.write_json(url, reasons)
    return {**Counter(reasons.values()), "list": "excluded.json"}
