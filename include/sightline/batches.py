"""Arrow record batches: rows chosen and joined, and matrices as columns of equally long lists."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

Array = np.ndarray[Any, Any]


def joined(batches: Iterable[pa.RecordBatch], least_rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of at least so many rows, but for the last; no empty ones."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= least_rows:
            yield pa.concat_batches(held)
            held = []
    if any(map(len, held)):
        yield pa.concat_batches(held)


def rows_with(batch: pa.RecordBatch, column: str, wanted: Collection[str]) -> pa.RecordBatch:
    """The rows whose value in a column is wanted."""
    return batch.filter(pa.array(value in wanted for value in batch[column].to_pylist()))


def to_lists(matrix: Array) -> pa.ListArray:
    """A column of n lists of a matrix (n, dim)."""
    rows, dim = matrix.shape
    offsets = pa.array(np.arange(0, (rows + 1) * dim, dim, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.reshape(-1)))


def to_matrix(lists: pa.ListArray) -> Array:
    """(n, dim) of a column of n equally long lists."""
    return np.asarray(lists.flatten()).reshape(len(lists), -1)
