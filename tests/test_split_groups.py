"""What shares a split: near-duplicates, owners, bursts; what would tie two splits together is set aside."""

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightline import split_balance, tables
from sightline.catalog import Catalog, open_catalog
from sightline.config import DatasetSpec, SplitSpec
from sightline.splitting import split_images
from sightline.view_hashes import VIEWS_BYTES
from tests.conftest import catalog_of, made_up_image_row, make_task, store_rows, write_dataset

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", "source: {type: folder, path: photos}\n")


@pytest.fixture
def catalog(spec: DatasetSpec) -> Catalog:
    return catalog_of(spec)


def views(seed: int, bits: tuple[int, ...] = ()) -> bytes:
    """View hashes of a made-up picture, or of one that differs from it in some bits everywhere."""
    one = np.random.default_rng(seed).integers(0, 2**64, (VIEWS_BYTES // 16, 2), dtype=np.uint64)
    for bit in bits:
        one[:, bit // 64] ^= np.uint64(1 << bit % 64)
    return one.tobytes()


def image(number: int, looks: int | None = None, bits: tuple[int, ...] = (), **more: Any) -> Any:
    return made_up_image_row(
        number, view_hashes=views(number if looks is None else looks, bits), **more
    )


def split(spec: DatasetSpec, catalog: Catalog, run_id: str = "run-1") -> dict[str, Any]:
    task, record = make_task("split", run_id=run_id)
    split_images(spec, catalog, task, record)
    return record.counts


def stored(catalog: Catalog) -> dict[int, tuple[str, str]]:
    rows = [
        row
        for batch in tables.read_batches(catalog.splits, ["image_id", "group_id", "split"])
        for row in batch.to_pylist()
    ]
    found = {int(row["image_id"], 16): (row["split"], row["group_id"]) for row in rows}
    assert len(found) == len(rows)
    return found


def test_near_duplicates_share_a_group_and_newcomers_join_it(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    first = [image(number) for number in range(40)]
    first += [image(100 + number, looks=number, bits=(3, 70)) for number in range(40)]
    store_rows(catalog.images, first)
    assert split(spec, catalog)["groups"] == 40
    store_rows(catalog.images, [image(200 + n, looks=n, bits=(9, 90, 91)) for n in range(40)])
    counts = split(spec, catalog, "run-2")
    found = stored(catalog)
    assert (counts["groups"], counts["largest_group"], counts["set_aside"]) == (40, 3, 0)
    assert all(found[n] == found[100 + n] == found[200 + n] for n in range(40))


def test_a_newcomer_between_two_splits_is_set_aside_for_good(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    ends = (0, 1, 2, 64, 65, 66, 67, 68, 69, 70), (20, 21, 22, 80, 81, 82, 83, 84, 85, 86)
    pairs = [image(2 * n + end, looks=n, bits=ends[end]) for n in range(60) for end in (0, 1)]
    store_rows(catalog.images, pairs)  # 20 bits apart: no copies of each other, but of what comes
    split(spec, catalog)
    before = stored(catalog)
    torn = {n for n in range(60) if before[2 * n][0] != before[2 * n + 1][0]}
    store_rows(catalog.images, [image(1000 + number, looks=number) for number in range(60)])
    counts = split(spec, catalog, "run-2")
    after = stored(catalog)
    assert {number: after[number] for number in before} == before
    assert len(torn) == counts["set_aside"] > 5
    assert {n for n in range(60) if after[1000 + n][0] == "set_aside"} == torn
    assert (counts["straddling"], counts["leaked_test_images"]) == (0, 0)
    one = min(torn)
    store_rows(catalog.images, [image(5000, looks=one, bits=(40, 41, 42, 43))])
    split(spec, catalog, "run-3")
    assert stored(catalog)[5000][0] == "set_aside"  # a copy of what is set aside, too


def test_a_sources_own_split_is_kept_across_copies_and_the_leak_is_counted(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    hinted = [image(n, split_hint="train") for n in range(10)]
    hinted += [image(100 + n, looks=n, bits=(5,), split_hint="test") for n in range(4)]
    hinted += [image(200 + n, split_hint="test") for n in range(6)]
    store_rows(
        catalog.images, [*hinted, image(300, looks=0, bits=(6,)), image(301, looks=9, bits=(6,))]
    )
    counts = split(spec, catalog)
    found = stored(catalog)
    assert [found[n][0] for n in (0, 100, 200)] == ["train", "test", "test"]
    assert (found[300][0], found[301][0]) == ("set_aside", "train")
    assert (counts["straddling"], counts["leaked_test_images"], counts["test"]) == (4, 4, 10)
    store_rows(catalog.images, [image(400, looks=8, bits=(7,), split_hint="test")])
    counts = split(spec, catalog, "run-2")
    assert (counts["straddling"], counts["leaked_test_images"]) == (5, 5)


@pytest.mark.parametrize("group_by", ["owner", "burst"])
def test_owners_and_bursts_share_a_split_with_those_that_came_before(
    own_places: Path, group_by: str
) -> None:
    text = f"source: {{type: folder, path: photos}}\nsplit: {{group_by: {group_by}}}\n"
    spec = write_dataset(own_places, "photos", text)
    catalog = catalog_of(spec)

    def add(numbers: range, minutes: int) -> None:
        rows = [image(number, uri=f"mem://{number}") for number in numbers]
        store_rows(catalog.images, rows)
        listed = [
            {
                "uri": row["uri"], "label": "a", "partition": "all", "author": f"author {n % 30}",
                "uploaded_at": NOON + timedelta(hours=4 * (n % 60 // 30), minutes=minutes),
            }
            for n, row in zip(numbers, rows, strict=True)
        ]  # fmt: skip
        store_rows_by_uri(catalog, listed)

    add(range(60), 0)
    split(spec, catalog)
    add(range(60, 120), 9)
    counts = split(spec, catalog, "run-2")
    found = stored(catalog)
    assert counts["groups"] == {"owner": 30, "burst": 60}[group_by]
    assert counts["set_aside"] == counts["straddling"] == 0
    assert all(found[number] == found[number + 60] for number in range(60))
    apart = sum(found[number][0] != found[number + 30][0] for number in range(30))
    assert (apart == 0) == (group_by == "owner")


def store_rows_by_uri(catalog: Catalog, rows: list[dict[str, Any]]) -> None:
    batch = pa.RecordBatch.from_pylist(rows, schema=catalog.manifest.schema)
    urls = tables.write_batches(catalog.manifest, [batch])
    tables.append_new(catalog.manifest, urls, "all", tables.Writer("tests"), key="uri")


@settings(
    max_examples=4,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**31), share=st.floats(0.1, 0.5), copies=st.floats(0, 0.5))
def test_adding_1000_images_moves_no_image(
    spec: DatasetSpec, seed: int, share: float, copies: float
) -> None:
    catalog = open_catalog(f"photos_{uuid.uuid4().hex}")
    rng = np.random.default_rng(seed)

    def some(count: int, first: int) -> list[dict[str, Any]]:
        """Images of which a share are copies of another, older or newer."""
        rows = []
        for number in range(first, first + count):
            looks = int(rng.integers(0, 1_300)) if rng.random() < copies else number
            turned = tuple(int(bit) for bit in rng.choice(128, int(rng.integers(0, 8)), False))
            rows.append(image(number, looks=looks, bits=turned))
        return rows

    store_rows(catalog.images, some(300, 0))
    ours = spec.model_copy(update={"split": SplitSpec(test=share)})
    split(ours, catalog)
    before = stored(catalog)
    store_rows(catalog.images, some(1_000, 300))
    counts = split(ours, catalog, "run-2")
    after = stored(catalog)
    assert len(after) == 1_300
    assert {number: after[number] for number in before} == before
    assert counts["straddling"] == counts["leaked_test_images"] == 0
    by_group: dict[str, set[str]] = {}
    for name, group in after.values():
        by_group.setdefault(group, set()).add(name)
    assert all(len(names - {"set_aside"}) <= 1 for names in by_group.values())


def test_a_class_that_is_split_unlike_the_others_is_named(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    labels = [f"class {number % 10}" for number in range(1_000)]
    store_rows(
        catalog.images, [made_up_image_row(n, label=label) for n, label in enumerate(labels)]
    )
    rows = [
        {
            "image_id": f"{n:064x}", "group_id": str(n),
            "split": "test" if n % 40 < (20 if label == "class 3" else 10) else "train",
        }
        for n, label in enumerate(labels)
    ]  # fmt: skip
    store_rows(catalog.splits, rows)
    (found,) = split_balance.uneven_classes(spec, catalog)
    assert (found["label"], found["images"], found["tested"], found["expected"]) == (
        "class 3",
        100,
        50,
        25.0,
    )
    assert found["deviations"] > 5


def test_one_large_group_makes_no_class_uneven(spec: DatasetSpec, catalog: Catalog) -> None:
    store_rows(catalog.images, [made_up_image_row(n, label="a") for n in range(100)])
    rows = [{"image_id": f"{n:064x}", "group_id": "one", "split": "test"} for n in range(100)]
    store_rows(catalog.splits, rows)
    assert split_balance.uneven_classes(spec, catalog) == []
