"""A dataset at a glance: its classes, how complete its harvest is, what may be wrong with its images."""

from dataclasses import dataclass
from typing import Any

from sightline import ledger, tables
from sightline.catalog import Catalog
from sightline.reporting.formats import natural_order
from sightline.web.recent import Recent

SPLITS = ("train", "val", "test", "set_aside", "none")
CLASSES_SHOWN = 60
PARTITIONS_SHOWN = 60


@dataclass(frozen=True)
class ClassImages:
    """A class with its images by split."""

    label: str | None
    total: int
    splits: dict[str, int]


@dataclass(frozen=True)
class Harvest:
    """What became of the images that a source lists in a partition."""

    partition: str
    listed: int
    held: int
    rejected: int
    missing: int  # neither: not fetched yet, or the fetch was cut off
    reported: int | None  # that the source itself says it has; None where it does not say

    @property
    def share(self) -> float:
        """Of the listed images those of which is known what became of them."""
        return 1 - self.missing / self.listed if self.listed else 1.0


@dataclass(frozen=True)
class Overview:
    """The facts of the page."""

    images: int
    rejects: int
    classes: list[ClassImages]  # the largest first
    class_count: int
    splits: list[str]  # that any image has
    harvest: list[Harvest]  # the newest partitions first
    partition_count: int
    totals: Harvest
    issues: dict[str, int]
    decided: int  # labels that people have accepted or corrected


_overviews: Recent[Overview] = Recent(64)
NAMES = ("images", "splits", "manifest", "rejects", "issues", "label_overrides")


def read_overview(catalog: Catalog) -> Overview:
    """The dataset as its tables are now."""
    key = (catalog.root, *(tables.current_version(getattr(catalog, name)) for name in NAMES))
    return _overviews.get(key, lambda: _read(catalog))


def _read(catalog: Catalog) -> Overview:
    with tables.query(**{name: getattr(catalog, name) for name in NAMES}) as sql:

        def rows(statement: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = sql(statement).to_pylist()
            return found

        classes = _classes(rows)
        harvest = _harvest(catalog, rows)
        issues = rows("SELECT issue, count(*) AS n FROM issues GROUP BY 1 ORDER BY 2 DESC, 1")
    present = [name for name in SPLITS if any(one.splits[name] for one in classes)]
    return Overview(
        images=tables.count_rows(catalog.images),
        rejects=tables.count_rows(catalog.rejects),
        classes=classes[:CLASSES_SHOWN],
        class_count=len(classes),
        splits=present,
        harvest=harvest[:PARTITIONS_SHOWN],
        partition_count=len(harvest),
        totals=_total(harvest),
        issues={row["issue"]: row["n"] for row in issues},
        decided=tables.count_rows(catalog.label_overrides),
    )


def _classes(rows: Any) -> list[ClassImages]:
    counts: dict[str | None, dict[str, int]] = {}
    for row in rows(
        "SELECT coalesce(o.label, i.label) AS label, coalesce(s.split, 'none') AS split, count(*) AS n "
        "FROM images i LEFT JOIN splits s ON s.image_id = i.image_id "
        "LEFT JOIN label_overrides o ON o.image_id = i.image_id GROUP BY 1, 2"
    ):
        counts.setdefault(row["label"], dict.fromkeys(SPLITS, 0))[row["split"]] = row["n"]
    found = [ClassImages(label, sum(one.values()), one) for label, one in counts.items()]
    return sorted(found, key=lambda one: (-one.total, natural_order(one.label)))


def _harvest(catalog: Catalog, rows: Any) -> list[Harvest]:
    reported = _reported(catalog)
    found = rows("""
        SELECT m.partition, count(*) AS listed, count(i.uri) AS held,
            sum(CASE WHEN i.uri IS NULL AND r.uri IS NOT NULL THEN 1 ELSE 0 END) AS rejected
        FROM manifest m
        LEFT JOIN (SELECT DISTINCT uri FROM images) i ON i.uri = m.uri
        LEFT JOIN (SELECT DISTINCT uri FROM rejects) r ON r.uri = m.uri
        GROUP BY m.partition ORDER BY m.partition DESC
    """)
    return [
        Harvest(
            **row,
            missing=row["listed"] - row["held"] - row["rejected"],
            reported=reported.get(row["partition"]),
        )
        for row in found
    ]


def _reported(catalog: Catalog) -> dict[str, int]:
    """What the source itself says it has, by partition, as the listings have noted it."""
    records = ledger.all_records(catalog, f"ingest_{catalog.dataset}", "list_images")
    records.sort(key=lambda record: str(record["started_at"]))
    return {
        record["partition"]: record["counts"]["harvest"]["reported"]
        for record in records
        if "harvest" in record["counts"]
    }


def _total(harvest: list[Harvest]) -> Harvest:
    listed, held, rejected, missing = (
        sum(getattr(one, name) for one in harvest)
        for name in ("listed", "held", "rejected", "missing")
    )
    told = [one.reported for one in harvest if one.reported is not None]
    return Harvest("", listed, held, rejected, missing, sum(told) if told else None)
