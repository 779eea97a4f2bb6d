"""The quarantine: what was rejected and why, and how a person lets some of it be tried again.

A re-admission is a note beside the reject, not a change of it: the next ingest finds the reject due, and
once it has tried, the note is spent. Noted twice, it is one.
"""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from sightline import tables
from sightline.catalog import Catalog
from sightline.errors import ConfigError
from sightline.images import REASONS
from sightline.schemas import READMISSIONS
from sightline.tables import Writer, literal

# What trying again cannot change, and what may.
FINAL = {
    "taken_down": "it was taken down, which is for good",
    "licence": "the dataset file refuses its licence; allow it there, and it is tried again by itself",
}


def list_rejects(catalog: Catalog, reason: str | None, most: int) -> list[dict[str, Any]]:
    """Rejects, newest first: uri, partition, reason, detail, attempts, rejected_at, and `readmitted_by`
    where the next ingest tries them again because a person wants it."""
    with tables.query(rejects=catalog.rejects, readmissions=catalog.readmissions) as sql:
        found = sql(
            "SELECT r.uri, r.partition, r.reason, r.detail, r.attempts, r.rejected_at, "
            "max(a.readmitted_by) AS readmitted_by FROM rejects r LEFT JOIN readmissions a "
            "ON a.uri = r.uri AND a.readmitted_at >= r.rejected_at "
            f"{_of(reason)} GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY r.rejected_at DESC, r.uri LIMIT {most}"
        )
    return list(found.to_pylist())


def readmit(
    catalog: Catalog, uris: list[str], rejected_for: str | None, reason: str, by: str
) -> list[str]:
    """Let rejects be tried again by the next ingest, these or all of a reason; returns their uris.

    ConfigError where a uri is no reject, or trying it again cannot change anything.
    """
    if bool(uris) == bool(rejected_for):
        raise ConfigError("Give the uris of rejects, or the reason that they were rejected for.")
    if not reason.strip():
        raise ConfigError("Say why they are tried again; the reason is kept.")
    found = _rejects(catalog, uris, rejected_for)
    _refuse(catalog, found, uris)
    now = datetime.now(UTC)
    notes = [
        {
            "uri": row["uri"],
            "rejected_for": row["reason"],
            "reason": reason,
            "readmitted_by": by,
            "readmitted_at": now,
        }
        for row in found
    ]
    _note(catalog, notes)
    return [row["uri"] for row in found]


def _rejects(catalog: Catalog, uris: list[str], rejected_for: str | None) -> list[dict[str, Any]]:
    listed = ", ".join(literal(uri) for uri in uris)
    which = f"WHERE r.uri IN ({listed})" if uris else _of(rejected_for)
    with tables.query(rejects=catalog.rejects) as sql:
        found = sql(f"SELECT DISTINCT r.uri, r.reason FROM rejects r {which} ORDER BY r.uri")
    return list(found.to_pylist())


def _refuse(catalog: Catalog, found: list[dict[str, Any]], uris: list[str]) -> None:
    missing = sorted(set(uris) - {row["uri"] for row in found})
    if missing:
        raise ConfigError(
            f"{missing[0]!r} is no reject of {catalog.dataset}; 'sightline rejects {catalog.dataset}' "
            "lists them."
        )
    for row in found:
        if row["reason"] in FINAL:
            raise ConfigError(f"{row['uri']!r} is not tried again: {FINAL[row['reason']]}.")


def _waiting(catalog: Catalog) -> set[str]:
    """Rejects that the next ingest tries again already."""
    with tables.query(rejects=catalog.rejects, readmissions=catalog.readmissions) as sql:
        found = sql(
            "SELECT a.uri FROM readmissions a JOIN rejects r "
            "ON r.uri = a.uri AND a.readmitted_at >= r.rejected_at"
        )
    return set(found["uri"].to_pylist())


def _note(catalog: Catalog, notes: list[dict[str, Any]]) -> None:
    """Add the notes of rejects that have none yet; when somebody else adds some meanwhile, look again."""
    table = catalog.readmissions
    while True:
        held = tables.claim(table, Writer("re-admit"))
        waiting = _waiting(catalog)
        new = [note for note in notes if note["uri"] not in waiting]
        if not new:
            return
        known = tables.read_batches(table, table.schema.names)
        added = pa.RecordBatch.from_pylist(new, schema=READMISSIONS)
        urls = tables.write_batches(table, [*known, added])
        if tables.replace_partition(table, urls, None, held) is not None:
            return


def _of(reason: str | None) -> str:
    """The SQL condition for rejects r of a reason; ConfigError where there is no such reason."""
    if reason is None:
        return ""
    if reason not in REASONS:
        raise ConfigError(f"No reject has the reason {reason!r}. Known: {', '.join(REASONS)}.")
    return f"WHERE r.reason = {literal(reason)}"
