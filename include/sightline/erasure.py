"""Rows out of a table for good: when it is done, no file of the table holds them, of any version or none.

Files of older versions, and files that a killed task has left, are looked at one by one. Only those that
hold an unwanted row go, so a version that never held one can still be read. The version of a plan that
did hold one is refused from then on (tables.open_table); see docs/decisions/027.
"""

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sightline import delta, rejection, removals, storage, tables
from sightline.errors import StorageError
from sightline.tables import Table, Writer

log = logging.getLogger(__name__)

# Who rewrites rejects decides again when its own identity has committed (rejection.write).
WRITERS = {"rejects": Writer(rejection.IDENTITY)}
TAKE_DOWN = Writer("take_down")


@dataclass(frozen=True)
class Doomed:
    """What has to go: images by their ids, and addresses."""

    image_ids: frozenset[str]
    uris: frozenset[str]

    def columns(self, table: Table) -> list[str]:
        """The columns of a table that name images or addresses: image_id, uri, and those that end so."""
        return [name for name in table.schema.names if _values(self, name) is not None]

    def mask(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        """Which rows of a batch name one of them."""
        picked = pa.array([False] * batch.num_rows, pa.bool_())
        for name in batch.schema.names:
            values = _values(self, name)
            if values:
                found = pc.is_in(batch[name], value_set=pa.array(sorted(values), pa.string()))
                picked = pc.or_(picked, found)
        return picked


def erase(table: Table, doomed: Doomed, pinned: Collection[int] = ()) -> int:
    """Take the rows out of the newest version, and out of storage; returns how many there were.

    `pinned` are versions that models name: of those that held none, all files stay.
    """
    columns = doomed.columns(table)
    if not columns or not storage.exists(table.url):
        return 0
    writer = WRITERS.get(table.name, TAKE_DOWN)
    removed = removals.remove_rows(table, columns, doomed.mask, writer)
    held = {tables.file_name(url): url for url in _unwanted_files(table, columns, doomed)}
    kept = _kept_files(table, pinned, held)
    gone = {name: list[str]() for name in held}
    gone |= {name: new for name, new in removed.successors.items() if name not in kept}
    if gone:
        # Before they go, so that a version is refused rather than found to lack files.
        known = {**gone, **tables.erased_files(table)}
        known |= {name: new for name, new in gone.items() if new}
        storage.write_json(storage.join(table.url, delta.ERASED), known)
    for name in gone:
        _remove(storage.join(table.url, name))
    if removed.rows or gone:
        log.info("erased from %s: %d rows, %d files", table.name, removed.rows, len(gone))
    return removed.rows


def _values(doomed: Doomed, column: str) -> frozenset[str] | None:
    """What to look for in a column, or None where it names neither images nor addresses."""
    if column == "image_id" or column.endswith("_image_id"):
        return doomed.image_ids
    if column == "uri" or column.endswith("_uri"):
        return doomed.uris
    return None


def _unwanted_files(table: Table, columns: list[str], doomed: Doomed) -> Iterator[str]:
    """Files that the newest version does not count and that hold unwanted rows, or cannot be read: what a
    killed task has left half-written may hold any."""
    counted = {tables.file_name(url) for url in tables.file_urls(table)}
    for url in _parquet_files(table):
        if tables.file_name(url) in counted:
            continue
        try:
            is_unwanted = removals.count_unwanted(url, columns, doomed.mask) > 0
        except FileNotFoundError:
            continue
        except (pa.ArrowInvalid, OSError):
            is_unwanted = True
        if is_unwanted:
            yield url


def _parquet_files(table: Table) -> list[str]:
    """Every Parquet file below a table's folder but those of its log."""
    fs, root = storage.filesystem(table.url)
    inside = [str(path).removeprefix(root).lstrip("/") for path in fs.find(root)]
    return [
        storage.join(table.url, path)
        for path in inside
        if path.endswith(".parquet") and not path.startswith("_delta_log/")
    ]


def _kept_files(table: Table, pinned: Collection[int], gone: Collection[str]) -> set[str]:
    """The files of those pinned versions that can be read in future, too."""
    kept = set[str]()
    for version in pinned:
        try:
            names = {tables.file_name(url) for url in tables.file_urls(table, version)}
        except StorageError:  # of an earlier take-down, or no longer in the table's log
            continue
        kept |= names if names.isdisjoint(gone) else set()
    return kept


def _remove(url: str) -> None:
    fs, path = storage.filesystem(url)
    if fs.exists(path):
        fs.rm_file(path)
