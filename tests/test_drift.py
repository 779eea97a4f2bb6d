"""Drift: what has changed is seen, chance alone is not, and a partition of few images says nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from sightline import drift, erasure, models, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.drift.comparison import compare_values
from sightline.drift.numbers import bin_count, bin_of, separation, stability, told_apart
from sightline.erasure import Doomed
from sightline.errors import CheckFailed, ConfigError
from sightline.labels_config import ThresholdSpec
from tests.conftest import (
    catalog_of,
    made_up_image_row,
    make_task,
    store_partition,
    store_rows,
    write_dataset,
)

Array = np.ndarray[Any, Any]
DATASET = "source: {type: folder, path: photos}\n"
BACKBONE = "made-up"
LOOKED_AT = ("brightness_p5", "brightness_p99", "entropy", "laplacian_variance")


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


@pytest.fixture
def catalog(spec: DatasetSpec) -> Catalog:
    return catalog_of(spec)


def night(
    catalog: Catalog, day: str, count: int, start: int, shares: tuple[float, ...] = (0.5, 0.5),
    moved: float = 0.0, **more: Any,
) -> None:  # fmt: skip
    """Store a night's images with embeddings around 0, or moved from it."""
    rng = np.random.default_rng(start)
    labels = rng.choice(len(shares), count, p=shares)
    rows = [
        made_up_image_row(
            start + at, label=f"class {label}", partition=day,
            height=int(rng.integers(400, 600)), width=600, size_bytes=int(rng.integers(1, 10**6)),
            **dict(zip(LOOKED_AT, rng.random(len(LOOKED_AT)).tolist(), strict=True)),
        ) | more
        for at, label in enumerate(labels)
    ]  # fmt: skip
    store_rows(catalog.images, rows, day)
    embeddings = rng.normal(size=(count, 8)) + moved
    features = [
        {"image_id": row["image_id"], "backbone_id": BACKBONE, "embedding": embedding}
        for row, embedding in zip(rows, np.float32(embeddings), strict=True)
    ]
    store_rows(catalog.features, features, BACKBONE)


def measure(spec: DatasetSpec, catalog: Catalog, day: str) -> dict[str, Any]:
    """The partition's rows of the drift table by name."""
    task, record = make_task("measure_drift", day)
    drift.measure_drift(spec, catalog, task, record, BACKBONE)
    return rows_of(catalog, day)


def rows_of(catalog: Catalog, day: str) -> dict[str, Any]:
    batches = tables.read_batches(catalog.drift, catalog.drift.schema.names, partition=day)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row for row in rows}


def drifted(rows: dict[str, Any]) -> set[str]:
    return {name for name, row in rows.items() if row["verdict"] in (drift.WARN, drift.STOP)}


def test_a_night_like_those_before_is_fine_and_one_that_differs_is_named(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    night(catalog, "2026-11-01", 600, 0)
    night(catalog, "2026-11-02", 300, 1000)
    night(catalog, "2026-11-02", 50, 9000, size_bytes=1, split_hint="predict")  # trains nobody
    found = measure(spec, catalog, "2026-11-02")
    assert found.keys() == {
        "classes", "shorter_side", "aspect_ratio", "size_bytes", "n_channels", *LOOKED_AT, "embeddings"
    }  # fmt: skip
    assert {row["verdict"] for row in found.values()} == {drift.FINE}
    assert {(row["images"], row["reference_images"]) for row in found.values()} == {(300, 600)}
    assert found["classes"]["reference"] == "older partitions"
    # From the last night to the first: each is compared with those before it alone.
    night(catalog, "2026-11-06", 300, 2000, shares=(0.05, 0.95))
    assert drifted(measure(spec, catalog, "2026-11-06")) == {"classes"}
    night(catalog, "2026-11-05", 300, 3000, moved=1.0)
    assert drifted(measure(spec, catalog, "2026-11-05")) == {"embeddings"}
    night(catalog, "2026-11-04", 300, 4000, size_bytes=10)
    assert drifted(measure(spec, catalog, "2026-11-04")) == {"size_bytes"}
    night(catalog, "2026-11-03", 300, 5000, shares=(0.4, 0.4, 0.2))  # a class that is new
    assert drifted(measure(spec, catalog, "2026-11-03")) == {"classes"}


def test_darker_images_are_named_and_those_never_looked_at_give_no_number(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    night(catalog, "2026-11-01", 300, 0)
    night(catalog, "2026-11-02", 300, 1000, brightness_p99=0.1)
    assert drifted(measure(spec, catalog, "2026-11-02")) == {"brightness_p99"}
    night(catalog, "2026-11-03", 300, 2000, **dict.fromkeys(LOOKED_AT))
    found = measure(spec, catalog, "2026-11-03")
    assert {name for name, row in found.items() if row["verdict"] == drift.TOO_FEW} == {*LOOKED_AT}
    assert not drifted(found)


def test_too_few_images_give_no_number_whatever_they_are(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    night(catalog, "2026-11-01", 99, 0)
    first = measure(spec, catalog, "2026-11-01")  # nothing is older
    night(catalog, "2026-11-02", 300, 1000, shares=(0.05, 0.95), moved=9.0)
    for rows in (first, measure(spec, catalog, "2026-11-02")):
        assert {(row["verdict"], row["value"]) for row in rows.values()} == {(drift.TOO_FEW, None)}
    quicker = spec.drift.model_copy(update={"least_images": 99})
    rows = measure(spec.model_copy(update={"drift": quicker}), catalog, "2026-11-02")
    assert drifted(rows) == {"classes", "embeddings"}


def test_a_stop_names_the_number_and_the_way_out_and_its_rows_are_kept(
    own_places: Path, catalog: Catalog
) -> None:
    spec = write_dataset(own_places, "photos", f"{DATASET}drift: {{classes: {{stop: 0.5}}}}\n")
    night(catalog, "2026-11-01", 400, 0)
    night(catalog, "2026-11-02", 400, 1000, shares=(0.02, 0.98))
    with pytest.raises(
        CheckFailed, match=r"partition 2026-11-02 has drifted. classes \d\.\d+ betw"
    ):
        measure(spec, catalog, "2026-11-02")
    kept = rows_of(catalog, "2026-11-02")
    assert kept["classes"]["verdict"] == drift.STOP
    assert (kept["classes"]["warn"], kept["classes"]["stop"]) == (None, 0.5)
    milder = write_dataset(own_places, "photos", f"{DATASET}drift: {{classes: {{warn: 0.5}}}}\n")
    assert drifted(measure(milder, catalog, "2026-11-02")) == {"classes"}


def test_a_rerun_leaves_the_same_rows(spec: DatasetSpec, catalog: Catalog) -> None:
    night(catalog, "2026-11-01", 200, 0)
    night(catalog, "2026-11-02", 200, 1000)
    first = measure(spec, catalog, "2026-11-02")
    assert measure(spec, catalog, "2026-11-02") == first


def test_the_champions_train_images_are_the_measure_and_what_it_knows_is_not_new(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    night(catalog, "2026-11-01", 400, 0)
    night(catalog, "2026-11-02", 400, 1000, shares=(0.1, 0.9))
    crown(catalog, [*range(400), *range(1000, 1400)])
    night(catalog, "2026-11-03", 200, 2000, shares=(0.9, 0.1))
    later = [{"image_id": f"{2000:064x}", "group_id": "x", "split": "train"}]
    store_rows(catalog.splits, later)  # of a model that was refused
    rows = measure(spec, catalog, "2026-11-03")
    assert {row["reference"] for row in rows.values()} == {"00001-champion"}
    assert {(row["images"], row["reference_images"]) for row in rows.values()} == {(200, 600)}
    assert drifted(rows) == {"classes"}
    store_partition(catalog.splits, later, None)  # other splits since
    known = measure(spec, catalog, "2026-11-03")
    assert {row["reference_images"] for row in known.values()} == {600}


def test_a_take_down_of_what_the_champion_has_seen_stops_no_night(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    night(catalog, "2026-11-01", 400, 0)
    crown(catalog, [*range(400)])
    night(catalog, "2026-11-02", 200, 2000)
    gone = Doomed(frozenset(f"{one:064x}" for one in range(1, 11)), frozenset())
    for table in (catalog.images, catalog.splits, catalog.features):
        erasure.erase(table, gone)
    rows = measure(spec, catalog, "2026-11-02")
    assert {(row["images"], row["reference_images"]) for row in rows.values()} == {(200, 292)}


def test_numbers_stay_when_the_champion_has_come_to_know_the_night(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    night(catalog, "2026-11-01", 200, 0)
    night(catalog, "2026-11-02", 200, 1000, shares=(0.1, 0.9))
    before = measure(spec, catalog, "2026-11-02")
    assert drifted(before) == {"classes"}
    crown(catalog, [*range(200), *range(1000, 1200)])
    assert measure(spec, catalog, "2026-11-02") == before


def crown(catalog: Catalog, numbers: list[int]) -> None:
    """Let a model serve that was trained on three of four of these images."""
    rows = [
        {"image_id": f"{one:064x}", "group_id": str(one), "split": "test" if at % 4 == 0 else "train"}
        for at, one in enumerate(numbers)
    ]  # fmt: skip
    store_rows(catalog.splits, rows)
    version = "00001-champion"
    versions = {"splits": tables.current_version(catalog.splits)}
    models.write_model(catalog, {"version": version, "tables": versions})
    models.crown(catalog, version)


@pytest.mark.parametrize(
    ("new", "reference", "bins"), [(100, 100, 2), (100, 5000, 40), (400, 400, 300)]
)
def test_chance_alone_seldom_passes_for_drift(new: int, reference: int, bins: int) -> None:
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.ones(bins))
    numbers = [
        stability(rng.multinomial(new, shares), rng.multinomial(reference, shares))
        for _ in range(200)
    ]
    assert sum(number.value > number.chance for number in numbers) <= 3
    assert np.isfinite([number.value for number in numbers]).all()


@pytest.mark.parametrize(("new", "reference"), [(300, 99), (100, 2000)])
def test_chance_alone_seldom_passes_for_drift_of_a_property(new: int, reference: int) -> None:
    rng = np.random.default_rng(3)
    numbers = [compare_values(rng.random(new), rng.random(reference), least=90) for _ in range(200)]
    assert sum(number is not None and number.value > number.chance for number in numbers) <= 3
    assert compare_values(rng.random(new), rng.random(89), least=90) is None
    far = compare_values(rng.random(new) + 0.5, rng.random(reference), least=90)
    assert far is not None
    assert far.value > max(far.chance, 0.25)


def test_the_stability_index_is_that_of_the_formula_and_nothing_where_nothing_differs() -> None:
    new, reference = np.array([20_000, 80_000]), np.array([50_000, 50_000])
    by_hand = -0.3 * np.log(0.2 / 0.5) + 0.3 * np.log(0.8 / 0.5)
    found = stability(new, reference)
    assert found.value == pytest.approx(by_hand, rel=1e-3)
    assert found.chance < 0.001 < found.value
    assert stability(new, new).value == 0.0
    assert stability(np.array([0, 10]), np.array([0, 10])).value == 0.0


def test_a_value_that_many_images_have_is_a_bin_of_its_own() -> None:
    edges = np.array([48.0, 100.0])
    assert bin_of(np.array([32, 48, 60, 100, 101]), edges).tolist() == [0, 1, 2, 3, 4]
    assert bin_count(edges) == 5


def sides(apart: float, new: int, reference: int, seed: int, width: int = 6) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    mixing = np.diag(2.0 ** -np.arange(width))
    shift = np.zeros(width)
    shift[1] = apart
    return (rng.normal(size=(new, width)) + shift) @ mixing, rng.normal(
        size=(reference, width)
    ) @ mixing


def area(new: Array, reference: Array) -> Any:
    """told_apart of two sets, their principal axes being the columns."""
    both = np.concatenate([new, reference])
    between = new.mean(axis=0) - reference.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(both.T, bias=True))
    square = separation(vectors.T @ between, values, len(new), len(reference))
    return told_apart(square, len(values), len(new), len(reference))


@pytest.mark.parametrize("apart", [0.7, 1.5, 3.0])
def test_what_is_told_apart_is_what_a_linear_classifier_tells_apart_elsewhere(apart: float) -> None:
    found = area(*sides(apart, 150, 600, 1))
    ours, theirs = sides(apart, 150, 600, 1)
    truth = np.repeat([1, 0], [150, 600])
    rule = LinearDiscriminantAnalysis(priors=[0.5, 0.5]).fit(np.concatenate([ours, theirs]), truth)
    fresh = np.concatenate(sides(apart, 4000, 4000, 2))
    elsewhere = roc_auc_score(np.repeat([1, 0], 4000), rule.decision_function(fresh))
    assert found.value == pytest.approx(elsewhere, abs=0.03)
    assert found.value > found.chance > 0.5


def test_embeddings_that_do_not_differ_are_not_told_apart() -> None:
    numbers = [area(*sides(0.0, 100, 300, seed)) for seed in range(200)]
    assert np.median([number.value for number in numbers]) < 0.55
    assert sum(number.value > number.chance for number in numbers) <= 3
    assert all(0.5 < number.chance < 0.75 for number in numbers)
    still = separation(np.zeros(3), np.zeros(3), 100, 100)  # features that never vary
    assert told_apart(still, 3, 100, 100).value == 0.5


def test_thresholds_are_checked_at_the_door(own_places: Path) -> None:
    with pytest.raises(ConfigError, match=r"drift.embeddings: warn 0.9 is above stop 0.8"):
        write_dataset(
            own_places, "odd", f"{DATASET}drift: {{embeddings: {{warn: 0.9, stop: 0.8}}}}\n"
        )
    with pytest.raises(ConfigError, match=r"unknown key 'drift.class'; did you mean 'classes'"):
        write_dataset(own_places, "odd", f"{DATASET}drift: {{class: {{warn: 0.9}}}}\n")
    stop_only = ThresholdSpec(stop=1.0)
    number = told_apart(9.0, 3, 100, 100)
    assert drift.judge(number, stop_only) == drift.FINE
    assert drift.judge(number, ThresholdSpec(warn=0.6, stop=0.7)) == drift.STOP
    assert drift.judge(number, ThresholdSpec(warn=0.6)) == drift.WARN
