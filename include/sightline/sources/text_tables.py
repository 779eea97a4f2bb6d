"""CSV and Parquet files read batch by batch, every column as text, wherever fsspec reaches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from sightline import storage
from sightline.errors import SourceError

BLOCK_BYTES = 4 * 2**20  # of a CSV file at a time; no row may be longer
BATCH_ROWS = 8192


def read_text_table(
    path: str,
    columns: list[str],
    options: dict[str, Any] | None = None,
    names: list[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Stream some columns of a .parquet, .csv or .csv.gz file as text; empty fields are null.

    `names`: the columns of a file without a header. SourceError where the file or a column is not there.
    """
    place = storage.located(path)
    try:
        with _open(place, options or {}) as stream:
            if place.endswith(".parquet"):
                yield from _read_parquet(stream, columns)
            else:
                yield from _read_csv(stream, columns, names)
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist; correct the path in the dataset file.") from None
    except (KeyError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        problem = " ".join(str(error).split())[:200]
        raise SourceError(
            f"{path} cannot be read as a table with the columns {', '.join(columns)}: {problem}."
        ) from error


@contextmanager
def _open(place: str, options: dict[str, Any]) -> Iterator[Any]:
    compression = "gzip" if place.endswith(".gz") else None
    with fsspec.open(place, "rb", compression=compression, **options) as stream:
        yield stream


def _read_csv(stream: Any, columns: list[str], names: list[str] | None) -> Iterator[pa.RecordBatch]:
    """RFC 4180: quoted commas and line ends, either line end, with or without a byte order mark."""
    with pc.open_csv(
        stream,
        read_options=pc.ReadOptions(block_size=BLOCK_BYTES, column_names=names),
        parse_options=pc.ParseOptions(newlines_in_values=True),
        convert_options=pc.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=[""],
        ),
    ) as reader:
        yield from reader


def _read_parquet(stream: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(stream)
    missing = set(columns) - set(file.schema_arrow.names)
    if missing:
        raise KeyError(f"no column {', '.join(sorted(missing))}")
    text = pa.schema([(name, pa.string()) for name in columns])
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
        yield pa.Table.from_batches([batch]).select(columns).cast(text).to_batches()[0]
