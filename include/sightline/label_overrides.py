"""What people say of labels: a label that they have accepted or corrected stands above the source's.

The source's own label stays in the images table; whoever trains, tests or counts by label asks here. A plan
names the version of the table that it works from, so a training is not changed by what is said meanwhile.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from sightline import lookup, storage, tables
from sightline.catalog import Catalog
from sightline.errors import ConfigError
from sightline.schemas import LABEL_OVERRIDES
from sightline.tables import Table, Writer

ACCEPTED, CORRECTED = "accepted", "corrected"
LONGEST_LABEL = 200  # characters

# In place of `images i` in a statement that reads labels; over the tables images and label_overrides.
IMAGES = """(
    SELECT m.image_id, m.uri, m.split_hint, m.partition, coalesce(o.label, m.label) AS label
    FROM images m LEFT JOIN label_overrides o ON o.image_id = m.image_id
)"""


@dataclass(frozen=True)
class Decision:
    """What somebody says of an image's label; without a label, what was said before counts no longer."""

    image_id: str
    label: str | None
    by: str


def decide(catalog: Catalog, decision: Decision) -> None:
    """Keep a decision in place of an earlier one of the image.

    ConfigError where the image is not held or has no label, or the new one cannot be one.
    """
    _refuse(decision)
    given = _given_label(catalog, decision.image_id)
    row = {
        "image_id": decision.image_id,
        "label": decision.label,
        "given_label": given,
        "decided_by": decision.by,
        "decided_at": datetime.now(UTC),
    }
    added = [] if decision.label is None else [row]

    def rewrite(urls: list[str]) -> list[str] | None:
        known = _rows(urls)
        kept = [one for one in known if one["image_id"] != decision.image_id]
        if not added and len(kept) == len(known):
            return None
        rows = sorted([*kept, *added], key=lambda one: str(one["image_id"]))
        batch = pa.RecordBatch.from_pylist(rows, schema=LABEL_OVERRIDES)
        return tables.write_batches(catalog.label_overrides, [batch])

    tables.exchange(catalog.label_overrides, None, rewrite, Writer("label_overrides"))


def read(catalog: Catalog, version: int | None) -> dict[str, dict[str, Any]]:
    """The decisions of a version by image; none where there was no table yet."""
    if version is None:
        return {}
    rows = _rows(tables.file_urls(catalog.label_overrides, version))
    return {row["image_id"]: row for row in rows}


def open_version(catalog: Catalog, version: int | None) -> DeltaTable | pa.Schema:
    """The decisions of a version, to be queried; an empty table where there was none yet."""
    table = catalog.label_overrides
    return (None if version is None else tables.open_table(table, version)) or table.schema


def list_beside(catalog: Catalog, version: int | None, model_version: str) -> dict[str, Any]:
    """Write the decisions of a version beside a model's model.json; returns what that says of them: how
    many labels were accepted and corrected."""
    rows = read(catalog, version).values()
    listed = {
        row["image_id"]: {name: row[name] for name in ("label", "given_label", "decided_by")}
        for row in rows
    }
    storage.write_json(storage.join(catalog.model(model_version), "overridden.json"), listed)
    return {**Counter(map(kind, rows)), "list": "overridden.json"}


def kind(row: dict[str, Any]) -> str:
    """Whether a decision's label is the one that the source gave."""
    return ACCEPTED if row["label"] == row["given_label"] else CORRECTED


def _rows(urls: list[str]) -> list[dict[str, Any]]:
    if not urls:
        return []
    found: list[dict[str, Any]] = tables.dataset_of(urls, LABEL_OVERRIDES).to_table().to_pylist()
    return found


def _refuse(decision: Decision) -> None:
    label = decision.label
    if label is None:
        return
    if not label.strip() or len(label) > LONGEST_LABEL or not label.isprintable():
        raise ConfigError(
            f"{label[:LONGEST_LABEL]!r} cannot be a label; give 1 to {LONGEST_LABEL} printable characters."
        )


def _given_label(catalog: Catalog, image_id: str) -> str:
    """The source's label; ConfigError where there is none to accept or correct."""
    table: Table = catalog.images
    found = lookup.rows_of(table, "image_id", [image_id], ["label"])["label"].to_pylist()
    if not found:
        raise ConfigError(
            f"Dataset {catalog.dataset} holds no image {image_id!r}; it may have been taken down."
        )
    if found[0] is None:
        raise ConfigError(
            f"Image {image_id[:16]} of {catalog.dataset} has no label that could be accepted or corrected."
        )
    return str(found[0])
