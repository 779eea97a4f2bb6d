"""What an ingest may take: no image under a licence that is refused, and none that was taken down.

A refusal costs no fetch. What is held under a licence that the dataset file refuses by now, because the
source has changed it or the file has, is found at each listing.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from sightline import rejection, removals, tables, take_down, tombstones
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.erasure import Doomed
from sightline.images import Rejected
from sightline.ledger import TaskRun
from sightline.sources.fetching import reject_row
from sightline.take_down import Asked
from sightline.tombstones import Tombstones

log = logging.getLogger(__name__)

Row = dict[str, Any]
Refusal = tuple[str, str]  # a code of images.REASONS, and a detail for a person
MOVED = "Its licence is not one that the dataset file allows any more."

HELD = """
    SELECT DISTINCT i.image_id, i.uri FROM images i
    JOIN manifest m ON m.uri = i.uri WHERE {refused}
"""
UNTOLD = """
    SELECT m.uri, m.label, m.licence, m.etag, m.partition FROM manifest m
    LEFT ANTI JOIN rejects r ON r.uri = m.uri
    WHERE {refused} AND m.partition <> {ours} ORDER BY m.partition, m.uri
"""


def is_barred(row: Row, laid: Tombstones) -> bool:
    """Whether a row of the manifest is of an image, or of an author, that was taken down."""
    return laid.bar(tombstones.URI, row["uri"]) or laid.bar(tombstones.AUTHOR, row.get("author"))


def refusals(spec: DatasetSpec, catalog: Catalog, rows: Iterable[Row]) -> dict[str, Refusal]:
    """By uri, why these rows of the manifest (uri, licence, author) may not be fetched."""
    laid = tombstones.read(catalog)
    found = ((row["uri"], _refusal(spec, laid, row)) for row in rows)
    return {uri: refusal for uri, refusal in found if refusal is not None}


def sweep_manifest(catalog: Catalog, before: Tombstones) -> None:
    """Take out of the manifest what was taken down since these tombstones were read."""
    if tables.current_version(catalog.tombstones) == before.version:
        return
    laid = tombstones.read(catalog)

    def barred(batch: pa.RecordBatch) -> pa.BooleanArray:
        return pa.array([is_barred(row, laid) for row in batch.to_pylist()], pa.bool_())

    removals.remove_rows(catalog.manifest, ["uri", "author"], barred, tables.Writer("take_down"))


def note_licences(catalog: Catalog, task: TaskRun, changed: dict[str, dict[str, Any]]) -> None:
    """Write the licences that other partitions' images have by now, by partition and uri, into their rows."""
    for partition, licences in changed.items():
        listing = TaskRun(task.dag_id, task.run_id, task.task, partition)
        held = tables.claim(catalog.manifest, listing.writer)
        rows = _with_licences(catalog, partition, licences)
        tables.replace_partition(
            catalog.manifest, tables.write_batches(catalog.manifest, rows), partition, held
        )


def withdraw(spec: DatasetSpec, catalog: Catalog, task: TaskRun) -> int:
    """Take out, or down, the images whose licence is refused by now; returns how many."""
    refused = _refused_licences(spec, catalog)
    if refused is None:
        return 0
    with tables.query(images=catalog.images, manifest=catalog.manifest) as sql:
        held = sql(HELD.format(refused=refused))
    uris = held["uri"].to_pylist()
    if uris and spec.licences.withdrawn == "take_down":
        take_down.take_down(catalog, Asked("uri", tuple(uris)), MOVED, task.dag_id)
    elif uris:
        _quarantine(catalog, Doomed(frozenset(held["image_id"].to_pylist()), frozenset()))
    _reject_elsewhere(catalog, task, refused)
    return len(uris)


def _refusal(spec: DatasetSpec, laid: Tombstones, row: Row) -> Refusal | None:
    if is_barred(row, laid):
        return "taken_down", "it may not be fetched again"
    if not spec.licences.allows(row["licence"]):
        return "licence", f"licence {row['licence'] or 'unknown'} is not allowed"
    return None


def _refused_licences(spec: DatasetSpec, catalog: Catalog) -> str | None:
    """The SQL condition for a row m of the manifest whose licence is refused; None where there is none."""
    if spec.licences.allows_all:
        return None
    with tables.query(manifest=catalog.manifest) as sql:
        licences = sql("SELECT DISTINCT licence FROM manifest")["licence"].to_pylist()
    refused = [one for one in licences if not spec.licences.allows(one)]
    named = ", ".join(tables.literal(one) for one in refused if one is not None)
    conditions = [f"m.licence IN ({named})"] if named else []
    conditions += ["m.licence IS NULL"] if None in refused else []
    return f"({' OR '.join(conditions)})" if conditions else None


def _with_licences(
    catalog: Catalog, partition: str, licences: dict[str, Any]
) -> Iterator[pa.RecordBatch]:
    manifest = catalog.manifest
    for batch in tables.read_batches(manifest, manifest.schema.names, partition=partition):
        known = zip(batch["uri"].to_pylist(), batch["licence"].to_pylist(), strict=True)
        column = pa.array([licences.get(uri, licence) for uri, licence in known], pa.string())
        yield batch.set_column(batch.schema.get_field_index("licence"), "licence", column)


def _quarantine(catalog: Catalog, doomed: Doomed) -> None:
    """Out of every table but splits: an image that comes back has the split that it had. The images go
    last, for by them a retry finds what is left to do."""
    for table in reversed(catalog.tables):
        if "image_id" in table.schema.names and table.name != catalog.splits.name:
            removals.remove_rows(table, ["image_id"], doomed.mask, tables.Writer("quarantine"))


def _reject_elsewhere(catalog: Catalog, task: TaskRun, refused: str) -> None:
    """Tell rejects of those in other partitions; of ours the fetch does."""
    ours = tables.literal(task.partition)
    with tables.query(manifest=catalog.manifest, rejects=catalog.rejects) as sql:
        untold = sql(UNTOLD.format(refused=refused, ours=ours)).to_pylist()
    by_partition = defaultdict[str, list[Row]](list)
    for row in untold:
        rejected = Rejected("licence", f"licence {row['licence'] or 'unknown'} is not allowed")
        by_partition[row["partition"]].append(reject_row({**row, "attempts": 0}, rejected, None))
    for partition, rows in by_partition.items():
        rejection.write(catalog, task, partition, rows)
