"""Tables, models and maintenance on an S3 server that misbehaves: nothing lost, nothing doubled."""

import logging
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from sightline import compaction, leftovers, models, rejection, storage, tables
from sightline.catalog import Catalog
from sightline.errors import SightlineError
from sightline.tables import Writer
from tests.chaos import killing
from tests.chaos.store import FAULTS, Mischief, misbehaving
from tests.conftest import made_up_image_row, make_task
from tests.servers.aws import aws_server

pytestmark = pytest.mark.chaos
NOW = datetime.now(UTC)
TRIES = 8  # Airflow's are four, hours apart in an outage
ALONE = ("lost_reset", "stale")  # in CI: the most treacherous ones, so that a failure names them
# Of what they can happen to, which is few of all requests: writes, and listings made before.
SHARES = {"lost": 0.1, "lost_reset": 0.1, "stale": 0.3}
WRITERS, CHUNKS, ROWS = 3, min(3 * killing.SIZE, 8), 6


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """An S3 server that does what it should."""
    with aws_server() as address:
        yield address


@pytest.fixture(params=["all", *(FAULTS if killing.SIZE > 1 else ALONE)])
def store(
    request: pytest.FixtureRequest, address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[str, Mischief]]:
    """A bucket behind the proxy, with one kind of fault or all of them."""
    kinds = FAULTS if request.param == "all" else (request.param,)
    mischief = Mischief({}, random.Random(killing.SEED))
    with misbehaving(address, mischief) as proxy:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy)
        fsspec.filesystem("s3").clear_instance_cache()
        bucket = f"chaos-{request.param.replace('_', '-')}"
        fsspec.filesystem("s3").mkdir(bucket)
        mischief.shares = {kind: SHARES.get(kind, 0.15 / len(kinds)) for kind in kinds}
        yield f"s3://{bucket}", mischief
        mischief.shares = {}
        fsspec.filesystem("s3").clear_instance_cache()


def tried(work: Callable[[], Any]) -> Any:
    """Do something as Airflow does: again where it failed, but not where it was refused for good."""
    for attempt in range(TRIES):
        try:
            return work()
        except SightlineError as error:
            if not error.may_pass or attempt == TRIES - 1:
                raise
        except Exception:
            if attempt == TRIES - 1:
                raise
    raise AssertionError


def write_chunks(catalog: Catalog, writer: int) -> None:
    """Append chunks; each shares half of its images with another writer's."""
    for chunk in range(CHUNKS):
        first = (writer * CHUNKS + chunk) * ROWS // 2
        rows = [made_up_image_row(number) for number in range(first, first + ROWS)]
        batch = pa.RecordBatch.from_pylist(rows, schema=catalog.images.schema)
        rejected = {"uri": f"mem://bad-{writer}-{chunk}", "stage": "fetch", "reason": "corrupt"}
        rejected |= {"detail": "", "attempts": 1, "rejected_at": NOW}

        def append(batch: pa.RecordBatch = batch) -> None:
            urls = tables.write_batches(catalog.images, [batch])
            tables.append_new(catalog.images, urls, "all", Writer(f"fetch:{writer}"))

        tried(append)
        tried(partial(reject, catalog, rejected))


def reject(catalog: Catalog, row: dict[str, Any]) -> None:
    """Write a reject as the fetch does."""
    task, _ = make_task("fetch_images")
    rejection.write(catalog, task, "all", [row])


def test_nothing_is_lost_or_doubled(store: tuple[str, Mischief]) -> None:
    url, mischief = store
    catalog = Catalog("pets", storage.join(url, "pets"))
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(partial(write_chunks, catalog), range(WRITERS)))
    for number in range(3):
        tried(lambda version=f"{number}": models.crown(catalog, version, by="me"))
    tried(lambda: compaction.compact(catalog.images))
    assert mischief.happened
    mischief.shares = {}
    expected = range((WRITERS * CHUNKS - 1) * ROWS // 2 + ROWS)
    found = [int(one, 16) for batch in tables.read_batches(catalog.images, ["image_id"])
             for one in batch["image_id"].to_pylist()]  # fmt: skip
    assert sorted(found) == list(expected)
    rejected = [one for batch in tables.read_batches(catalog.rejects, ["uri"])
                for one in batch["uri"].to_pylist()]  # fmt: skip
    assert sorted(rejected) == sorted(
        f"mem://bad-{writer}-{chunk}" for writer in range(WRITERS) for chunk in range(CHUNKS)
    )
    assert [entry["version"] for entry in models.champion_history(catalog)] == ["0", "1", "2"]
    now = max(storage.files_below(catalog.root).values())
    for table in (catalog.images, catalog.rejects):
        leftovers.sweep(table, (), leftovers.Since(now, now))
        counted = {tables.file_name(one) for one in tables.file_urls(table)}
        left = {tables.file_name(path) for path in storage.files_below(table.url)
                if not path.startswith("_delta_log/")}  # fmt: skip
        assert counted <= left
    logging.getLogger(__name__).warning("the store misbehaved: %s", dict(mischief.happened))
