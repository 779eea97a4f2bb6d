"""Record batches joined, chosen from and made of matrices."""

import numpy as np
import pyarrow as pa

from sightline.batches import joined, rows_with, to_lists, to_matrix


def test_small_batches_are_joined_and_empty_ones_dropped() -> None:
    batches = [
        pa.record_batch({"n": pa.array(range(count), pa.int64())})
        for count in (0, 2, 3, 0, 9, 1, 0)
    ]
    assert [len(one) for one in joined(batches, 4)] == [5, 9, 1]
    assert list(joined(batches[:1], 4)) == []


def test_a_matrix_survives_as_lists_from_any_row_on() -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    lists = to_lists(matrix)
    np.testing.assert_array_equal(to_matrix(lists), matrix)
    np.testing.assert_array_equal(to_matrix(lists.slice(2)), matrix[2:])


def test_the_wanted_rows_are_kept_in_order() -> None:
    batch = pa.record_batch({"id": ["a", "b", "c"], "n": [1, 2, 3]})
    assert rows_with(batch, "id", {"c", "a", "x"})["n"].to_pylist() == [1, 3]
    assert len(rows_with(batch, "id", set())) == 0
