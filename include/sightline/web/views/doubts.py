"""Labels that a person may want to look at, and what people have said of labels."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sightline import delta, label_overrides, models, tables
from sightline.catalog import Catalog
from sightline.tables import literal

PAGE_LABELS = 24
DECISIONS_SHOWN = 60


@dataclass(frozen=True)
class Doubt:
    """A label that the other images speak against, or an image like no other."""

    image_id: str
    uri: str
    split: str
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float
    is_outlier: bool
    is_excluded: bool
    rank: int


@dataclass(frozen=True)
class Doubts:
    """A page of them, the worst first, of the plan that was audited last; `after` begins the next page."""

    plan: str | None  # None where no labels were audited
    shown: list[Doubt]
    count: int  # of all pages
    after: int | None
    labels: list[str]  # every class that there is


@dataclass(frozen=True)
class Decided:
    """What somebody has said of a label."""

    image_id: str
    label: str
    given_label: str
    decided_by: str
    decided_at: datetime

    @property
    def kind(self) -> str:
        """Accepted or corrected."""
        return label_overrides.kind(vars(self))


def read_doubts(catalog: Catalog, after: int = 0) -> Doubts:
    """The doubts behind a rank on which nobody has decided."""
    labels = read_labels(catalog)
    plan = _last_audited(catalog)
    if plan is None:
        return Doubts(None, [], 0, None, labels)
    undecided = (
        "FROM suspicious_labels s JOIN images i ON i.image_id = s.image_id "
        "LEFT ANTI JOIN label_overrides o ON o.image_id = s.image_id "
        f"WHERE s.model_version = {literal(plan)}"
    )
    names = ("suspicious_labels", "images", "label_overrides")
    with tables.query(**{name: getattr(catalog, name) for name in names}) as sql:
        count = sql(f"SELECT count(*) AS n {undecided}")["n"][0].as_py()
        rows = sql(
            "SELECT s.image_id, i.uri, s.split, s.label, s.suggested, s.label_probability, "
            "s.suggested_probability, s.is_outlier, s.is_excluded, s.rank "
            f"{undecided} AND s.rank > {int(after)} ORDER BY s.rank LIMIT {PAGE_LABELS + 1}"
        ).to_pylist()
    shown = [Doubt(**row) for row in rows[:PAGE_LABELS]]
    return Doubts(plan, shown, count, shown[-1].rank if len(rows) > PAGE_LABELS else None, labels)


def read_decisions(catalog: Catalog) -> tuple[list[Decided], int]:
    """What was said last of labels, the newest first, and of how many images anything was said."""
    held = label_overrides.read(catalog, tables.current_version(catalog.label_overrides))
    rows = sorted(held.values(), key=lambda row: (row["decided_at"], row["image_id"]), reverse=True)
    return [Decided(**row) for row in rows[:DECISIONS_SHOWN]], len(rows)


def read_labels(catalog: Catalog) -> list[str]:
    """Every label that an image has, of the source or of a person, sorted."""
    with tables.query(images=catalog.images, label_overrides=catalog.label_overrides) as sql:
        found: list[Any] = sql(
            "SELECT label FROM images WHERE label IS NOT NULL UNION "
            "SELECT label FROM label_overrides ORDER BY label"
        )["label"].to_pylist()
    return found


def _last_audited(catalog: Catalog) -> str | None:
    plans = sorted(filter(None, delta.urls_by_partition(catalog.suspicious_labels)))
    made = {plan: (models.read_model(catalog, plan) or {}).get("created_at", "") for plan in plans}
    return max(plans, key=lambda plan: (str(made[plan]), plan), default=None)
