"""Rows looked up in tables by their values, and columns of single files, without a JVM."""

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from sightline import storage, tables
from sightline.errors import StorageError
from sightline.tables import Table


def read_file(url: str, columns: list[str]) -> pa.Table:
    """Some columns of one Parquet file."""
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as stream:
        return pq.ParquetFile(stream).read(columns=columns)


def rows_of(table: Table, column: str, values: list[str], version: int | None = None) -> pa.Table:
    """The rows of a version (default: the newest) whose value in a column is among these."""
    files = tables.file_urls(table, version)
    if not files or not values:
        return table.schema.empty_table()
    wanted = ds.field(column).isin(pa.array(values))
    return tables.dataset_of(files, table.schema).to_table(filter=wanted)


def is_whole(table: Table, version: int | None) -> bool:
    """Whether a version has all its files; those that no newer version has may be vacuumed."""
    try:
        return all(storage.exists(url) for url in tables.file_urls(table, version))
    except StorageError:  # the log of that version is gone, too
        return False
