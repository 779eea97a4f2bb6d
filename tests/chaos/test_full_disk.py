"""The disk is full at each write in turn: what was committed stays, and once there is room it goes on."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sightline import compaction, erasure, leftovers, models, rejection, storage, tables
from sightline.catalog import Catalog
from sightline.erasure import Doomed
from sightline.errors import StorageError
from sightline.tables import Writer
from tests.chaos import killing
from tests.conftest import made_up_image_row, make_task

pytestmark = pytest.mark.chaos
NOW = datetime.now(UTC)
PAGE_BYTES = 4096
CHUNKS = range(compaction.LEAST_FILES)
DOOMED = Doomed(frozenset([f"{3:064x}"]), frozenset())


def work(catalog: Catalog) -> None:
    """Whatever writes: a list, chunks of images, rejects, a model, a merge, a take-down."""
    task, _ = make_task("list_images")
    listed = {"uri": "mem://1", "partition": "all"}
    held = tables.claim(catalog.manifest, task.writer)
    urls = tables.write_batches(catalog.manifest, [batch_of(catalog.manifest.schema, listed)])
    tables.replace_partition(catalog.manifest, urls, "all", held)
    for chunk in CHUNKS:
        row = made_up_image_row(chunk, content=b"x" * 2 * PAGE_BYTES)
        urls = tables.write_batches(catalog.images, [batch_of(catalog.images.schema, row)])
        tables.append_new(catalog.images, urls, "all", Writer("fetch_images:all"))
    rejected = {"uri": "mem://bad", "stage": "fetch", "reason": "corrupt", "attempts": 2}
    rejection.write(catalog, task, "all", [{**rejected, "rejected_at": NOW}])
    models.write_model(catalog, {"version": "1", "weights": "x" * PAGE_BYTES})
    models.crown(catalog, "1")
    compaction.compact(catalog.images)
    erasure.erase(catalog.images, DOOMED)


def batch_of(schema: pa.Schema, row: dict[str, Any]) -> pa.RecordBatch:
    """A batch of one row."""
    return pa.RecordBatch.from_pylist([row], schema=schema)


def fill(disk: Path, pages_left: int) -> Path:
    """A file that leaves so much room on a disk."""
    filler = disk / "filler"
    found = os.statvfs(disk)
    with filler.open("wb") as stream:
        os.posix_fallocate(
            stream.fileno(), 0, found.f_bavail * found.f_frsize - pages_left * PAGE_BYTES
        )
    return filler


def test_it_goes_on_once_there_is_room(small_disk: Path) -> None:
    step = 1 if killing.SIZE > 1 else 4
    refused = list[str]()
    for pages_left in range(0, 1_000, step):
        catalog = Catalog("pets", str(small_disk / f"pets-{pages_left}"))
        filler = fill(small_disk, pages_left)
        try:
            work(catalog)
            enough = True
        except Exception as error:
            assert isinstance(error, StorageError) or "No space left" in str(error), error
            refused.append(str(error))
            enough = False
        filler.unlink()
        work(catalog)
        check(catalog)
        storage.remove_tree(catalog.root)
        if enough:
            break
    assert enough
    assert len(refused) > 5


def check(catalog: Catalog) -> None:
    """Everything once, and nothing else left after maintenance."""
    found = [one for batch in tables.read_batches(catalog.images, ["image_id"])
             for one in batch["image_id"].to_pylist()]  # fmt: skip
    assert sorted(found) == [f"{number:064x}" for number in CHUNKS if number != 3]
    assert tables.count_rows(catalog.manifest) == 1
    assert tables.count_rows(catalog.rejects) == 1
    assert models.read_champion(catalog) is not None
    later = datetime.now(UTC)
    for table in (catalog.manifest, catalog.images, catalog.rejects):
        leftovers.sweep(table, (), leftovers.Since(later, later))
        counted = {tables.file_name(url) for url in tables.file_urls(table)}
        left = [path for path in storage.files_below(table.url) if not path.startswith("_")]
        assert {tables.file_name(path) for path in left} == counted
