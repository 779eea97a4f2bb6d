"""A dataset as its card tells it: how much is there, what last night brought, and how good the champion is.

What is read of a table is remembered for its version; a version never changes.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sightline import ledger, models, storage, tables
from sightline.catalog import Catalog, open_catalog
from sightline.config import load_dataset
from sightline.errors import ConfigError, StorageError

REMEMBERED = 64  # datasets
TREND = 12  # champions
SAMPLES = 8


@dataclass(frozen=True)
class Sample:
    """A photo of the strip."""

    image_id: str
    label: str | None


@dataclass(frozen=True)
class Night:
    """What the newest ingest has brought."""

    run_id: str
    partition: str
    started_at: str
    images: int
    rejects: int
    known: int


@dataclass(frozen=True)
class Card:
    """A dataset at a glance."""

    dataset: str
    problem: str | None = None  # what is wrong with the dataset file, or with a table
    description: str = ""
    is_daily: bool = False
    is_scheduled: bool = False
    images: int = 0
    classes: int = 0
    rejects: int = 0
    night: Night | None = None
    champion: str | None = None
    accuracy: float | None = None
    trend: tuple[float, ...] = ()  # accuracy of the last champions, oldest first
    has_report: bool = False
    samples: tuple[Sample, ...] = ()


def read_card(dataset: str) -> Card:
    """A dataset's card; one that was never run counts zeros. A file or a table that cannot be read is told,
    and harms no other card."""
    try:
        return _read_card(open_catalog(dataset))
    except StorageError as error:
        return Card(dataset, problem=str(error))


def _read_card(catalog: Catalog) -> Card:
    version = tables.current_version(catalog.images)
    classes, samples = (0, ()) if version is None else _read_classes(catalog, version)
    champion = models.read_champion(catalog)
    return Card(
        dataset=catalog.dataset,
        **_read_file(catalog.dataset),
        images=tables.count_rows(catalog.images, version),
        classes=classes,
        rejects=tables.count_rows(catalog.rejects),
        night=read_night(catalog),
        champion=champion["version"] if champion else None,
        accuracy=champion["metrics"].get("accuracy") if champion else None,
        trend=_accuracies(catalog),
        has_report=storage.exists(storage.join(catalog.reports, "latest.html")),
        samples=samples,
    )


def read_night(catalog: Catalog) -> Night | None:
    """What the newest ingest has fetched, or None where none has come so far."""
    record = ledger.find_last_record(catalog, f"ingest_{catalog.dataset}", "fetch_images")
    if record is None:
        return None
    counts = record["counts"]
    return Night(
        run_id=record["run_id"],
        partition=record["partition"],
        started_at=record["started_at"],
        images=counts.get("images", 0) + counts.get("taken_again", 0),
        rejects=counts.get("rejects", 0),
        known=counts.get("held_before", 0),
    )


def _read_file(dataset: str) -> dict[str, Any]:
    try:
        spec = load_dataset(dataset)
    except ConfigError as error:
        return {"problem": str(error)}
    return {
        "description": spec.description,
        "is_daily": spec.source.is_daily,
        "is_scheduled": spec.schedule is not None,
    }


@lru_cache(maxsize=REMEMBERED)
def _read_classes(catalog: Catalog, version: int) -> tuple[int, tuple[Sample, ...]]:
    """How many classes a version of the images has, and photos of as many of them as the strip has room for.
    An id is a hash, so the smallest is any one."""
    with tables.query(images=tables.open_table(catalog.images, version) or catalog.images) as sql:
        rows = sql(
            "SELECT label, min(image_id) AS one, max(image_id) AS another FROM images GROUP BY label"
        ).to_pylist()
    ones = sorted((row["one"], row["label"]) for row in rows)
    others = sorted((row["another"], row["label"]) for row in rows if row["another"] != row["one"])
    shown = [Sample(image_id, label) for image_id, label in [*ones, *others][:SAMPLES]]
    return sum(row["label"] is not None for row in rows), tuple(shown)


def _accuracies(catalog: Catalog) -> tuple[float, ...]:
    """The accuracy of each champion in turn, as far as they were measured."""
    history = models.champion_history(catalog)[-TREND:]
    found = [_accuracy(catalog, entry["version"]) for entry in history]
    return tuple(accuracy for accuracy in found if accuracy is not None)


def _accuracy(catalog: Catalog, version: str) -> float | None:
    model = models.read_model(catalog, version) or {"metrics": {}}
    accuracy: float | None = model["metrics"].get("accuracy")
    return accuracy
