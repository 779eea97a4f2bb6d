"""A dataset as its card tells it: how much is there, what last night brought, and how good the champion is.

What is read of a table is remembered for its version; a version never changes.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sightline import ledger, models, storage, tables
from sightline.catalog import Catalog, open_catalog
from sightline.config import load_dataset
from sightline.errors import ConfigError
from sightline.web.views.samples import Content, read_content

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
    description: str
    problem: str | None  # what is wrong with the dataset file
    is_daily: bool
    is_scheduled: bool
    images: int
    images_version: int | None
    classes: int
    rejects: int
    night: Night | None
    champion: str | None
    accuracy: float | None
    trend: tuple[float, ...]  # accuracy of the champions, oldest first, the present one last
    has_report: bool
    samples: tuple[Sample, ...]


def read_card(dataset: str) -> Card:
    """A dataset's card; one that was never run counts zeros, of a broken file the tables alone are told."""
    catalog = open_catalog(dataset)
    version = tables.current_version(catalog.images)
    classes, samples = (0, ()) if version is None else _read_classes(catalog, version)
    trend = _accuracies(catalog)
    champion = models.read_champion(catalog)
    return Card(
        dataset=dataset,
        **_read_file(dataset),
        images=tables.count_rows(catalog.images),
        images_version=version,
        classes=classes,
        rejects=tables.count_rows(catalog.rejects),
        night=read_night(catalog),
        champion=champion and champion["version"],
        accuracy=trend[-1] if champion and trend else None,
        trend=trend,
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


def read_sample(catalog: Catalog, image_id: str) -> Content | None:
    """The bytes of a photo of the strip; None for any other."""
    version = tables.current_version(catalog.images)
    if version is None:
        return None
    shown = [sample.image_id for sample in _read_classes(catalog, version)[1]]
    return read_content(catalog, version, image_id) if image_id in shown else None


def _read_file(dataset: str) -> dict[str, Any]:
    try:
        spec = load_dataset(dataset)
    except ConfigError as error:
        nothing = {"description": "", "is_daily": False, "is_scheduled": False}
        return {**nothing, "problem": str(error)}
    return {
        "description": spec.description,
        "problem": None,
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
