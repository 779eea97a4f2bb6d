"""The same task twice at once, killed at random moments: processes that know nothing of each other write one
table together with a merge, a take-down and maintenance."""

import multiprocessing
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from sightline import compaction, erasure, leftovers, rejection, tables
from sightline.catalog import Catalog
from sightline.erasure import Doomed
from sightline.leftovers import Since
from sightline.tables import Writer
from tests.chaos import killing
from tests.conftest import made_up_image_row, make_task

pytestmark = pytest.mark.chaos

CHUNKS, ROWS = 40, 5
KILLS = 25 * killing.SIZE
NOW = datetime.now(UTC)
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["sightline.rejection", "sightline.erasure", "tests.conftest"])


def fetch(root: str) -> None:
    """A fetch of everything, chunk by chunk; what is held is not asked for again."""
    catalog = Catalog("pets", root)
    task, _ = make_task("fetch_images")
    for chunk in range(CHUNKS):
        numbers = range(chunk * ROWS, (chunk + 1) * ROWS)
        rows = [made_up_image_row(number) for number in numbers]
        urls = tables.write_batches(
            catalog.images, [pa.RecordBatch.from_pylist(rows, schema=catalog.images.schema)]
        )
        tables.append_new(catalog.images, urls, "all", Writer("fetch_images:all"))
        row = {"uri": f"mem://bad-{chunk}", "stage": "fetch", "reason": "corrupt", "attempts": 2}
        rejection.write(catalog, task, "all", [{**row, "rejected_at": NOW}])


def list_images(root: str) -> None:
    """A listing, which replaces its partition."""
    manifest = Catalog("pets", root).manifest
    held = tables.claim(manifest, Writer("list_images:all"))
    rows = [{"uri": f"mem://{number}", "partition": "all"} for number in range(CHUNKS * ROWS)]
    urls = tables.write_batches(
        manifest, [pa.RecordBatch.from_pylist(rows, schema=manifest.schema)]
    )
    tables.replace_partition(manifest, urls, "all", held)


def clean(root: str) -> None:
    """Maintenance beside the others: what is young is spared."""
    catalog = Catalog("pets", root)
    since = Since(NOW - timedelta(days=1), NOW - timedelta(days=1))
    for table in (catalog.images, catalog.rejects, catalog.manifest):
        compaction.compact(table)
        leftovers.sweep(table, (), since)


def take_down(root: str) -> None:
    """A take-down of one image; it may come again, for no tombstone is laid."""
    erasure.erase(Catalog("pets", root).images, Doomed(frozenset([f"{7:064x}"]), frozenset()))


TASKS: dict[str, Callable[[str], None]] = {
    "fetch": fetch, "fetch again": fetch, "list": list_images, "list again": list_images,
    "clean": clean, "take down": take_down,
}  # fmt: skip


def test_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    chance, root, kills = random.Random(killing.SEED), str(tmp_path / "pets"), 0
    running: dict[str, FORKED.Process] = {}  # type: ignore[valid-type,name-defined]
    while kills < KILLS:
        for name, task in TASKS.items():
            if name not in running or not running[name].is_alive():
                running[name] = FORKED.Process(target=task, args=(root,))
                running[name].start()
        time.sleep(chance.uniform(0.0, 0.3))  # the random moment
        victim = running[chance.choice(sorted(running))]
        if victim.is_alive():
            victim.kill()
            kills += 1
    for process in running.values():
        process.join()
    for task in (fetch, list_images, take_down):
        task(root)
    catalog = Catalog("pets", root)
    for table in (catalog.images, catalog.rejects, catalog.manifest):
        compaction.compact(table)
        later = datetime.now(UTC) + timedelta(seconds=1)
        leftovers.sweep(table, (), Since(later, later))
    found = [int(one, 16) for batch in tables.read_batches(catalog.images, ["image_id"])
             for one in batch["image_id"].to_pylist()]  # fmt: skip
    assert sorted(found) == [number for number in range(CHUNKS * ROWS) if number != 7]
    assert tables.count_rows(catalog.rejects) == CHUNKS
    assert tables.count_rows(catalog.manifest) == CHUNKS * ROWS
    for table in (catalog.images, catalog.rejects, catalog.manifest):
        counted = {tables.file_name(url) for url in tables.file_urls(table)}
        present = {tables.file_name(str(path)) for path in Path(table.url).rglob("*.parquet")
                   if "_delta_log" not in str(path)}  # fmt: skip
        assert present == counted
