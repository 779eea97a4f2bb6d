"""Rows looked up in tables by their values, and columns of single files, without a JVM."""

import pyarrow as pa
import pyarrow.dataset as ds

from sightline import parquet, tables
from sightline.tables import Table


def read_file(url: str, columns: list[str]) -> pa.Table:
    """Some columns of one Parquet file."""
    with parquet.opened(url) as file:
        return file.read(columns=columns)


def rows_of(
    table: Table, column: str, values: list[str], columns: list[str] | None = None
) -> pa.Table:
    """The rows whose value in a column is among these; all columns, or some."""
    files = tables.file_urls(table)
    if not files or not values:
        empty = table.schema.empty_table()
        return empty if columns is None else empty.select(columns)
    wanted = ds.field(column).isin(pa.array(values))
    return tables.dataset_of(files, table.schema).to_table(columns=columns, filter=wanted)
