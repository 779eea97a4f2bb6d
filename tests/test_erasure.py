"""Erasing rows from a table: gone from every file, while versions that never held them can be read."""

import random
from pathlib import Path

import pyarrow as pa
import pytest

from sightline import erasure, removals, tables
from sightline.catalog import Catalog
from sightline.erasure import Doomed
from sightline.errors import StorageError
from sightline.tables import Table, Writer
from tests.conftest import made_up_image_row, store_rows


@pytest.fixture
def images(tmp_path: Path) -> Table:
    return Catalog("pets", str(tmp_path / "pets")).images


def store(table: Table, numbers: range, partition: str = "all") -> int:
    """Store made-up images in one file; returns the table's version."""
    rows = [made_up_image_row(number, partition=partition) for number in numbers]
    store_rows(table, rows, partition)
    version = tables.current_version(table)
    assert version is not None
    return version


def ids(*numbers: int) -> frozenset[str]:
    return frozenset(f"{number:064x}" for number in numbers)


def held(table: Table, version: int | None = None) -> set[int]:
    batches = tables.read_batches(table, ["image_id"], version)
    return {int(one, 16) for batch in batches for one in batch["image_id"].to_pylist()}


def test_versions_that_never_held_them_can_be_read_and_others_say_why_not(images: Table) -> None:
    before = store(images, range(5))
    other = store(images, range(10, 15), "other")
    after = store(images, range(5, 9))
    assert erasure.erase(images, Doomed(ids(6, 7, 99), frozenset()), {before, after}) == 2
    assert held(images) == {*range(6), 8, *range(10, 15)}
    assert held(images, before) == set(range(5))
    assert held(images, other) == {*range(5), *range(10, 15)}
    with pytest.raises(
        StorageError, match=f"Version {after} of table images cannot be read any more"
    ):
        tables.file_urls(images, after)
    left = tables.surviving_urls(images, after)
    found = tables.dataset_of(left, images.schema).to_table(["image_id"])["image_id"].to_pylist()
    assert {int(one, 16) for one in found} == {*range(6), 8, *range(10, 15)}


def test_files_that_hold_none_of_them_stay(images: Table) -> None:
    store(images, range(5))
    (untouched,) = tables.file_urls(images)
    store(images, range(5, 9))
    assert erasure.erase(images, Doomed(ids(6), frozenset())) == 1
    after = tables.file_urls(images)
    assert untouched in after
    assert len(after) == 2


def test_no_file_holds_them_whoever_left_it(images: Table) -> None:
    store(images, range(5))
    held_before = tables.claim(images, Writer("tests"))
    tables.replace_partition(images, [], "all", held_before)  # only an older version holds them now
    store(images, range(20, 22))
    doomed = Doomed(frozenset(), frozenset({"mem://3"}))
    assert erasure.erase(images, doomed) == 0
    assert held(images) == {20, 21}
    files = [path for path in Path(images.url).rglob("*.parquet") if "_delta_log" not in path.parts]
    assert [removals.count_unwanted(str(path), ["uri"], doomed.mask) for path in files] == [0]


def test_erasing_twice_changes_nothing(images: Table) -> None:
    store(images, range(5))
    doomed = Doomed(ids(3), frozenset())
    assert erasure.erase(images, doomed) == 1
    files = tables.file_urls(images)
    assert erasure.erase(images, doomed) == 0
    assert tables.file_urls(images) == files


def test_a_table_loses_those_rows_and_no_other(tmp_path: Path) -> None:
    draw = random.Random(0)
    for number in range(5):
        table = Catalog("pets", str(tmp_path / f"pets{number}")).images
        for first in range(0, 40, 10):
            store(table, range(first, first + 10), draw.choice("abc"))
        gone = draw.sample(range(40), draw.randrange(1, 40))
        assert erasure.erase(table, Doomed(ids(*gone), frozenset())) == len(gone)
        assert held(table) == set(range(40)) - set(gone)
        assert tables.count_rows(table) == 40 - len(gone)


def test_who_decided_before_a_removal_decides_again(images: Table) -> None:
    """An image that is barred while its writer is about to commit is left out, not committed."""
    store(images, range(5))
    barred = set[str]()
    asked = []

    def bar(keys: list[str]) -> set[str]:
        asked.append(keys)
        if len(asked) == 1:  # meanwhile the image is taken down
            barred.update(ids(7))
            removals.remove_rows(
                images, ["image_id"], Doomed(ids(7), frozenset()).mask, Writer("other")
            )
            return set()
        return barred

    rows = [made_up_image_row(number) for number in (7, 8)]
    urls = tables.write_batches(images, [pa.RecordBatch.from_pylist(rows, schema=images.schema)])
    left_out = tables.append_new(images, urls, "all", Writer("fetch"), barred=bar)
    assert held(images) == {*range(5), 8}
    assert left_out["held_by"].to_pylist() == [""]
    assert len(asked) == 2
