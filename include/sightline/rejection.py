"""The rejects table as a ledger: who is rejected for good, who is asked for again, and when.

Nothing is taken out before its place is known: a reject goes when the image is held, or in the same
commit that rejects it anew, so that no kill leaves an image in neither table.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from sightline import tables
from sightline.catalog import Catalog
from sightline.ledger import TaskRun
from sightline.licence_config import LicencesSpec
from sightline.schemas import REJECTS
from sightline.source_config import FetchSpec
from sightline.tables import Writer

IDENTITY = "fetch_images"  # of all who write rejects, whatever their task and partition
ALL_ALLOWED = LicencesSpec()
MOST_PARTITIONS = 20  # older ones that one run looks at again
SAME_BYTES = "same bytes as "  # begins a duplicate's detail; then comes the uri that holds them
HOLDER = f"substr(r.detail, {len(SAME_BYTES) + 1})"  # that uri of a reject r, in SQL


def find_due(
    catalog: Catalog, fetch: FetchSpec, partition: str, licences: LicencesSpec = ALL_ALLOWED
) -> pa.Table:
    """uri and attempts of the partition's rejects that are to be tried again now."""
    with _query(catalog) as sql:
        return sql(
            "SELECT r.uri, r.attempts FROM rejects r "
            f"WHERE r.partition = {tables.literal(partition)} AND ({_is_due(catalog, fetch, licences)})"
        )


def due_partitions(
    catalog: Catalog, fetch: FetchSpec, but: str, licences: LicencesSpec = ALL_ALLOWED
) -> list[str]:
    """Other partitions that have rejects to be tried again, a bounded number, newest first."""
    with _query(catalog) as sql:
        found = sql(
            f"SELECT DISTINCT r.partition FROM rejects r WHERE r.partition <> {tables.literal(but)} "
            f"AND ({_is_due(catalog, fetch, licences)}) ORDER BY r.partition DESC LIMIT {MOST_PARTITIONS}"
        )
    return [str(name) for name in found["partition"].to_pylist()]


def write(catalog: Catalog, task: TaskRun, partition: str, rows: list[dict[str, Any]]) -> None:
    """Add rejects to a partition; one that was tried before takes the place of its older row."""
    old = [row["uri"] for row in rows if row["attempts"] > 1]
    rows = [{**row, "partition": partition} for row in rows]
    batch = pa.RecordBatch.from_pylist(rows, schema=REJECTS)
    if old:
        listed = ", ".join(tables.literal(uri) for uri in old)
        _rewrite(catalog, task, partition, f"r.uri IN ({listed})", [batch])
        return
    urls = tables.write_batches(catalog.rejects, [batch])
    tables.append_new(catalog.rejects, urls, partition, _writer(task), key="uri")


def drop_those_held(catalog: Catalog, task: TaskRun) -> None:
    """Take out of rejects what is held by now, whichever run stored it."""
    is_held = "r.uri IN (SELECT i.uri FROM images i)"
    while True:
        with _query(catalog) as sql:
            found = sql(f"SELECT r.partition FROM rejects r WHERE {is_held} LIMIT 1").to_pylist()
        if not found:
            return
        _rewrite(catalog, task, found[0]["partition"], is_held, [])


def _rewrite(
    catalog: Catalog,
    task: TaskRun,
    partition: str,
    dropped: str,
    added: list[pa.RecordBatch],
) -> None:
    """Write a partition of rejects again, without the rows of an SQL condition and with others, in one
    commit. When another run writes rejects meanwhile the claim is void, and we look again.
    """
    while True:
        held = tables.claim(catalog.rejects, _writer(task))
        with _query(catalog) as sql:
            kept = sql(
                f"SELECT r.* FROM rejects r WHERE r.partition = {tables.literal(partition)} "
                f"AND NOT ({dropped})"
            )
        urls = tables.write_batches(catalog.rejects, [*kept.to_batches(), *added])
        if tables.replace_partition(catalog.rejects, urls, partition, held) is not None:
            return


def _is_due(catalog: Catalog, fetch: FetchSpec, licences: LicencesSpec) -> str:
    """The SQL condition for a reject r that is to be tried again: by reason and age, for changed bytes,
    because its licence is allowed by now, or because a person wants it."""
    now = datetime.now(UTC)
    by_reason = [
        f"(r.reason = {tables.literal(reason)} AND r.rejected_at <= {_instant(now - timedelta(days=days))})"
        for reason, days in fetch.retry_rejects.items()
    ]
    changed = (
        "EXISTS (SELECT 1 FROM manifest m WHERE m.uri = r.uri AND m.partition = r.partition "
        "AND m.etag <> r.etag)"
    )
    asked_for = (
        "EXISTS (SELECT 1 FROM readmissions a WHERE a.uri = r.uri "
        "AND a.readmitted_at >= r.rejected_at)"
    )
    return " OR ".join([*by_reason, changed, asked_for, *_is_allowed(catalog, licences)])


def _is_allowed(catalog: Catalog, licences: LicencesSpec) -> list[str]:
    """The SQL condition for a reject r that was refused for its licence, which is allowed by now."""
    with _query(catalog) as sql:
        refused = sql(
            "SELECT DISTINCT m.licence FROM rejects r JOIN manifest m "
            "ON m.uri = r.uri AND m.partition = r.partition WHERE r.reason = 'licence'"
        )
    allowed = [one for one in refused["licence"].to_pylist() if licences.allows(one)]
    if not allowed:
        return []
    named = ", ".join(tables.literal(one or "") for one in allowed)
    return [
        "(r.reason = 'licence' AND EXISTS (SELECT 1 FROM manifest m WHERE m.uri = r.uri "
        f"AND m.partition = r.partition AND coalesce(m.licence, '') IN ({named})))"
    ]


def _query(catalog: Catalog) -> Any:
    return tables.query(
        rejects=catalog.rejects,
        manifest=catalog.manifest,
        images=catalog.images,
        readmissions=catalog.readmissions,
    )


def _writer(task: TaskRun) -> Writer:
    """One identity for all who write rejects, so that a claim sees them all."""
    return Writer(IDENTITY, task.writer.run)


def _instant(when: datetime) -> str:
    return f"TIMESTAMP '{when.isoformat(timespec='microseconds')}'"
