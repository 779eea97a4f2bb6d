"""Rows looked up in tables by their values, and columns of single files, without a JVM."""

import pyarrow as pa
import pyarrow.dataset as ds

from sightline import parquet, storage, tables
from sightline.errors import StorageError
from sightline.tables import Table


def read_file(url: str, columns: list[str]) -> pa.Table:
    """Some columns of one Parquet file."""
    with parquet.opened(url) as file:
        return file.read(columns=columns)


def rows_of(
    table: Table,
    column: str,
    values: list[str],
    columns: list[str] | None = None,
    version: int | None = None,
) -> pa.Table:
    """The rows of a version whose value in a column is among these; by default all columns of the newest."""
    files = tables.file_urls(table, version)
    if not files or not values:
        empty = table.schema.empty_table()
        return empty if columns is None else empty.select(columns)
    wanted = ds.field(column).isin(pa.array(values))
    return tables.dataset_of(files, table.schema).to_table(columns=columns, filter=wanted)


def holds(table: Table, urls: list[str], column: str, value: str) -> bool:
    """Whether some files of a table have a value in a column."""
    if not urls:
        return False
    return bool(tables.dataset_of(urls, table.schema).head(1, filter=ds.field(column) == value))


def is_whole(table: Table, version: int | None) -> bool:
    """Whether a version has all its files; those that no newer version has may be vacuumed."""
    try:
        return all(storage.exists(url) for url in tables.file_urls(table, version))
    except StorageError:  # the log of that version is gone, too
        return False
