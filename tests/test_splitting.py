"""Splitting: an image's split is for good, and alike images share it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline import tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, SplitSpec
from sightline.errors import TrainingError
from sightline.splitting import choose_split, split_images
from tests.conftest import made_up_image_row, make_task, store_rows, write_dataset

DATASET = "source: {type: folder, path: photos}\n"
GROUPS = st.text(st.sampled_from("0123456789abcdef"), min_size=16, max_size=16)
SHARES = st.builds(SplitSpec, test=st.floats(0.01, 0.49), val=st.floats(0, 0.49))


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


def image(number: int, group: int | None = None, hint: str | None = None) -> dict[str, Any]:
    phash = f"{number if group is None else group:016x}"
    return made_up_image_row(number, phash=phash, split_hint=hint)


def split(spec: DatasetSpec, catalog: Catalog, run_id: str = "run-1") -> dict[str, Any]:
    task, record = make_task("split", run_id=run_id)
    split_images(spec, catalog, task, record)
    assert [table["name"] for table in record.inputs + record.outputs] == ["images", "splits"]
    return record.counts


def stored(catalog: Catalog) -> dict[int, str]:
    rows = [
        row
        for batch in tables.read_batches(catalog.splits, ["image_id", "split"])
        for row in batch.to_pylist()
    ]
    found = {int(row["image_id"], 16): row["split"] for row in rows}
    assert len(found) == len(rows)
    return found


@given(GROUPS, SHARES)
def test_a_group_always_falls_into_the_same_split(group: str, shares: SplitSpec) -> None:
    chosen = choose_split("flowers", group, shares)
    assert chosen in ("train", "val", "test")
    assert chosen == choose_split("flowers", group, shares.model_copy())


def test_the_choice_is_the_same_on_every_machine() -> None:
    groups = [f"{number:016x}" for number in range(8)]
    chosen = [choose_split("flowers", group, SplitSpec(test=0.3, val=0.2)) for group in groups]
    train, test = "train", "test"
    assert chosen == [test, train, train, test, train, train, train, test]


@given(SHARES)
def test_shares_are_met_over_many_groups(shares: SplitSpec) -> None:
    groups = [f"{number:016x}" for number in range(4000)]
    counts = Counter(choose_split("flowers", group, shares) for group in groups)
    assert abs(counts["test"] / 4000 - shares.test) < 0.04
    assert abs(counts["val"] / 4000 - shares.val) < 0.04


@given(GROUPS, st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_a_larger_test_share_keeps_what_was_in_test(group: str, one: float, other: float) -> None:
    small, large = SplitSpec(test=min(one, other)), SplitSpec(test=max(one, other))
    if choose_split("flowers", group, small) == "test":
        assert choose_split("flowers", group, large) == "test"


def test_two_datasets_do_not_share_their_splits() -> None:
    groups = [f"{number:016x}" for number in range(100)]
    one, other = (
        [choose_split(name, group, SplitSpec()) for group in groups] for name in ("one", "other")
    )
    assert one != other


def test_every_image_gets_a_split_once(spec: DatasetSpec, catalog: Catalog) -> None:
    store_rows(catalog.images, [image(number) for number in range(200)])
    counts = split(spec, catalog)
    found = stored(catalog)
    assert found.keys() == set(range(200))
    assert counts == {
        "images": 200, "new": 200, "straddling": 0, "val": 0, "set_aside": 0, "groups": 200,
        "groups_of_several": 0, "largest_group": 1, "leaked_test_images": 0, "uneven": [],
    } | {name: list(found.values()).count(name) for name in ("train", "test")}  # fmt: skip
    assert 30 < counts["test"] < 70
    version = tables.current_version(catalog.splits)
    assert split(spec, catalog, "run-2") == counts | {"new": 0}
    assert tables.current_version(catalog.splits) == version


def test_neither_new_images_nor_other_shares_move_an_image(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    store_rows(catalog.images, [image(number) for number in range(100)])
    split(spec, catalog)
    before = stored(catalog)
    store_rows(catalog.images, [image(number) for number in range(100, 200)])
    other = spec.model_copy(update={"split": SplitSpec(test=0.6, val=0.3)})
    counts = split(other, catalog, "run-2")
    after = stored(catalog)
    assert counts["new"] == 100
    assert {number: after[number] for number in before} == before
    assert Counter(after[number] for number in range(100, 200))["test"] > 45


def test_a_group_never_straddles_even_when_the_shares_change(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    store_rows(catalog.images, [image(number, group=number % 20) for number in range(60)])
    split(spec, catalog)
    store_rows(catalog.images, [image(number, group=number % 40) for number in range(60, 140)])
    other = spec.model_copy(update={"split": SplitSpec(test=0.7)})
    assert split(other, catalog, "run-2")["straddling"] == 0
    found = stored(catalog)
    splits: dict[int, set[str]] = {}
    for number, name in found.items():
        splits.setdefault(number % 20 if number < 60 else number % 40, set()).add(name)
    assert len(splits) == 40
    assert all(len(names) == 1 for names in splits.values())


def test_a_sources_own_split_is_kept_and_what_it_tears_apart_is_counted(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    hinted = [image(number, hint=("train", "val", "test")[number % 3]) for number in range(9)]
    torn = [image(20, group=99, hint="train"), image(21, group=99, hint="test")]
    followers = [image(30 + number, group=number) for number in range(9)]
    store_rows(catalog.images, [*hinted, *torn, *followers])
    counts = split(spec, catalog)
    found = stored(catalog)
    assert (counts["straddling"], counts["leaked_test_images"]) == (1, 1)
    assert {number: found[number] for number in (0, 1, 2, 20, 21)} == {
        0: "train", 1: "val", 2: "test", 20: "train", 21: "test",
    }  # fmt: skip
    assert [found[30 + number] for number in range(9)] == [found[number] for number in range(9)]


def test_an_empty_split_is_refused_and_leaves_nothing_behind(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    store_rows(catalog.images, [image(number, group=7) for number in range(3)])
    with pytest.raises(TrainingError, match=r"photos: [03] train and [03] test .*split.test"):
        split(spec, catalog)
    assert stored(catalog) == {}
    store_rows(catalog.images, [image(number) for number in range(10, 40)])
    assert split(spec, catalog)["images"] == 33


def test_a_dataset_without_images_is_refused(spec: DatasetSpec, catalog: Catalog) -> None:
    with pytest.raises(TrainingError, match="photos: 0 train and 0 test images"):
        split(spec, catalog)
