"""What could not be taken, by reason, with what can be seen of it."""

from dataclasses import dataclass
from datetime import datetime

from sightline import images, tables
from sightline.catalog import Catalog
from sightline.reporting.pictures import jpeg_source
from sightline.tables import literal

PAGE_REJECTS = 60


@dataclass(frozen=True)
class Reason:
    """Why some images were not taken."""

    code: str
    explanation: str
    count: int


@dataclass(frozen=True)
class Reject:
    """An image that was not taken; `source` is a picture inside the page, or empty."""

    uri: str
    label: str | None
    partition: str
    reason: str
    detail: str | None
    attempts: int
    rejected_at: datetime
    source: str


@dataclass(frozen=True)
class Rejects:
    """A page of them, newest first."""

    reasons: list[Reason]
    total: int
    held: int
    shown: list[Reject]
    pages: int


def read_rejects(catalog: Catalog, reason: str, number: int) -> Rejects:
    """A page, from 1, of the rejects of a reason, or of all where it is empty."""
    which = f"WHERE r.reason = {literal(reason)}" if reason else ""
    with tables.query(rejects=catalog.rejects) as sql:
        counted = sql(
            "SELECT reason, count(*) AS n FROM rejects GROUP BY 1 ORDER BY 2 DESC, 1"
        ).to_pylist()
        rows = sql(
            "SELECT r.uri, r.label, r.partition, r.reason, r.detail, r.attempts, r.rejected_at, r.thumbnail "
            f"FROM rejects r {which} ORDER BY r.rejected_at DESC, r.uri "
            f"LIMIT {PAGE_REJECTS} OFFSET {(number - 1) * PAGE_REJECTS}"
        ).to_pylist()
    reasons = [
        Reason(row["reason"], images.REASONS.get(row["reason"], ""), row["n"]) for row in counted
    ]
    chosen = sum(one.count for one in reasons if reason in ("", one.code))
    shown = []
    for row in rows:
        thumbnail = row.pop("thumbnail")
        shown.append(Reject(**row, source=jpeg_source(thumbnail, row["uri"]) if thumbnail else ""))
    total = sum(one.count for one in reasons)
    held = tables.count_rows(catalog.images)
    return Rejects(reasons, total, held, shown, -(-chosen // PAGE_REJECTS))
