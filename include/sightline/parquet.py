"""Single Parquet files wherever they lie. Spark's workers read theirs so, without the tables' log."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.parquet as pq

from sightline import storage


@contextmanager
def opened(url: str, *, pre_buffer: bool = True) -> Iterator[pq.ParquetFile]:
    """A Parquet file to read from. `pre_buffer` fetches all that a read asks for at once: fewer requests,
    and more memory.
    """
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as stream:
        yield pq.ParquetFile(stream, pre_buffer=pre_buffer)
