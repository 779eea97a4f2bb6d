"""Rows out of a table's newest version: files that hold unwanted rows are written again without them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sightline import delta, storage, tables
from sightline.tables import Table, Writer

Mask = Callable[[pa.RecordBatch], Any]  # which rows of a batch are unwanted, as a boolean array

ROWS_AT_ONCE = 8192
IMAGES_AT_ONCE = 64  # of a table that holds bytes


@dataclass(frozen=True)
class Removed:
    """How many rows are gone, and by file_name the files that held them, each with those in its place."""

    rows: int
    successors: dict[str, list[str]]


def remove_rows(table: Table, columns: list[str], unwanted: Mask, writer: Writer) -> Removed:
    """Take rows out; the mask sees batches of these columns, and of all of them.

    The files of a partition that hold some are exchanged in one commit; its others stay. A last commit
    changes nothing: who has decided on an earlier version decides again.
    """
    rows, successors = 0, dict[str, list[str]]()
    if tables.current_version(table) is None:
        return Removed(rows, successors)
    while partitions := _partitions_with(table, columns, unwanted):
        for partition in partitions:
            removed = _remove_from(table, partition, columns, unwanted, writer)
            rows += removed.rows
            successors |= removed.successors
    tables.touch(table, writer)
    return Removed(rows, successors)


def count_unwanted(url: str, columns: list[str], unwanted: Mask) -> int:
    """How many rows of a Parquet file a mask picks; columns that the file lacks are not looked at."""
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as stream:
        file = pq.ParquetFile(stream)
        present = [name for name in columns if name in file.schema_arrow.names]
        if not present:
            return 0
        batches = file.iter_batches(ROWS_AT_ONCE, columns=present, use_threads=False)
        return sum(int(pc.sum(unwanted(batch)).as_py() or 0) for batch in batches)


def _partitions_with(table: Table, columns: list[str], unwanted: Mask) -> list[str | None]:
    """The partitions that hold unwanted rows."""
    return [
        partition
        for partition, urls in delta.urls_by_partition(table).items()
        if any(count_unwanted(url, columns, unwanted) for url in urls)
    ]


def _remove_from(
    table: Table, partition: str | None, columns: list[str], unwanted: Mask, writer: Writer
) -> Removed:
    rows, successors = 0, dict[str, list[str]]()

    def rewrite(urls: list[str]) -> list[str] | None:
        nonlocal rows
        picked = {url: count_unwanted(url, columns, unwanted) for url in urls}
        rows = sum(picked.values())
        successors.clear()
        if not rows:  # another take-down was faster
            return None
        after = [url for url in urls if not picked[url]]
        for url in filter(picked.get, urls):
            new = _without(table, url, unwanted)
            successors[tables.file_name(url)] = [tables.file_name(one) for one in new]
            after += new
        return after

    tables.exchange(table, partition, rewrite, writer)
    return Removed(rows, successors)


def _without(table: Table, url: str, unwanted: Mask) -> list[str]:
    """A file again, without its unwanted rows."""
    has_bytes = any(pa.types.is_binary(column.type) for column in table.schema)
    fs, path = storage.filesystem(url)

    def kept() -> Iterator[pa.RecordBatch]:
        with fs.open(path, "rb") as stream:
            for batch in pq.ParquetFile(stream).iter_batches(
                IMAGES_AT_ONCE if has_bytes else ROWS_AT_ONCE
            ):
                yield batch.filter(pc.invert(unwanted(batch)))

    return tables.write_batches(table, kept())
