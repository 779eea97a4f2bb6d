"""Rows looked up in tables by their values, and columns of single files, without a JVM."""

import pyarrow as pa
import pyarrow.dataset as ds

from sightline import parquet, tables
from sightline.tables import Table


def read_file(url: str, columns: list[str]) -> pa.Table:
    """Some columns of one Parquet file."""
    with parquet.opened(url) as file:
        return file.read(columns=columns)


def rows_of(table: Table, column: str, values: list[str]) -> pa.Table:
    """The rows whose value in a column is among these."""
    files = tables.file_urls(table)
    if not files or not values:
        return table.schema.empty_table()
    wanted = ds.field(column).isin(pa.array(values))
    return tables.dataset_of(files, table.schema).to_table(filter=wanted)
